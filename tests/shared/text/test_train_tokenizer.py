from pathlib import Path

import pytest
from typer import BadParameter

from shared.errors import InvalidArgument
from shared.text.tokenizer import Tokenizer
from shared.text.train_tokenizer import SPECIAL_TOKENS, main, train_tokenizer

TEXTS = ["12 + 34 = 46, and 120 + 340 = 460", "the sum of the numbers is the sum"] * 4


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 320).to_str() == train_tokenizer(iter(TEXTS), 320).to_str()


def test_digits_stand_alone() -> None:
    tokenizer = Tokenizer(train_tokenizer(TEXTS * 50, 400))
    for number in ("460", "12", "1203404609"):
        assert len(tokenizer.encode(number, allow_special=False)) == len(number)
    # Words are learned, so digits are not single for want of merges.
    assert len(tokenizer.encode(" numbers", allow_special=False)) == 1


def test_vocabulary_size_is_a_limit_and_special_tokens_come_first() -> None:
    tokenizer = train_tokenizer(TEXTS, 290)
    assert tokenizer.get_vocab_size() == 290
    assert [tokenizer.id_to_token(id_) for id_ in range(len(SPECIAL_TOKENS))] == [*SPECIAL_TOKENS]
    assert tokenizer.token_to_id("<｜begin▁of▁sentence｜>") == 0


def test_every_byte_has_a_token_without_any_corpus() -> None:
    tokenizer = Tokenizer(train_tokenizer([], len(SPECIAL_TOKENS) + 256))
    single = {tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= single


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="vocab_size = 271: must be at least 272"):
        train_tokenizer(TEXTS, 271)


def test_command(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS), encoding="utf-8")
    main([corpus], tmp_path / "model", 290)
    assert Tokenizer.from_dir(tmp_path / "model").vocab_size == 290
    with pytest.raises(BadParameter, match="must be at least"):
        main([corpus], tmp_path / "model", 10)
