import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from shared.errors import InvalidArgument, NotFound
from shared.text.tokenizer import SPELLINGS, StreamDecoder, Tokenizer
from shared.text.train_tokenizer import save, train_tokenizer

QUICK = settings(derandomize=True, max_examples=200, deadline=None, database=None)
TOKENIZER = Tokenizer(train_tokenizer(["the answer is 42 and 東京 🙂"] * 3, 400))
MULTI_BYTE = "aé東🙂\n"


@QUICK
@given(st.text())
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, allow_special=False)) == text


@QUICK
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_stream_equals_the_library_s_decoding(ids: list[int]) -> None:
    reference = TOKENIZER._full.decode(ids, skip_special_tokens=False)
    # The library decodes bytes across special tokens, so that only the marks of damage may differ.
    assert TOKENIZER.decode(ids).replace("\ufffd", "") == reference.replace("\ufffd", "")


def test_a_character_waits_for_its_last_byte() -> None:
    # One token a byte: nothing was learned.
    tokenizer = Tokenizer(train_tokenizer([], 300))
    decoder = StreamDecoder(tokenizer)
    pushed = [decoder.push(id_) for id_ in tokenizer.encode(MULTI_BYTE, allow_special=False)]
    assert pushed == ["a", "", "é", "", "", "東", "", "", "", "🙂", "\n"]
    assert decoder.flush() == ""


def test_an_unfinished_character_is_marked_at_the_end_and_forgotten() -> None:
    tokenizer = Tokenizer(train_tokenizer([], 300))
    decoder = StreamDecoder(tokenizer)
    first, *_ = tokenizer.encode("🙂", allow_special=False)
    assert decoder.push(first) == ""
    assert decoder.flush() == "\ufffd"
    assert [decoder.push(id_) for id_ in tokenizer.encode("a", allow_special=False)] == ["a"]


@pytest.mark.parametrize("text", [spelling for names in SPELLINGS.values() for spelling in names])
def test_typed_special_tokens_stay_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(f"say {text} twice {text}", allow_special=False)
    special = {id_ for id_ in vars(tokenizer.special).values() if id_ is not None}
    assert not special & set(ids)
    assert tokenizer.decode(ids) == f"say {text} twice {text}"


def test_special_tokens_are_found_where_allowed(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<think>a</think><|EOT|>", allow_special=True)
    special = tokenizer.special
    assert [ids[0], *ids[-2:]] == [special.think, special.end_think, special.eot]
    assert tokenizer.decode(ids) == "<think>a</think><|EOT|>"


def test_added_tokens_that_are_not_special_cannot_be_typed_either() -> None:
    """Released tokenizers declare <think> as an added token that is not special."""
    hf = HfTokenizer(models.BPE(vocab={c: i for i, c in enumerate(_alphabet())}, merges=[]))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_tokens([AddedToken(names[0], special=False) for names in SPELLINGS.values()])
    hf.enable_truncation(4)
    tokenizer = Tokenizer(hf)
    assert tokenizer.special.think not in tokenizer.encode("<think>", allow_special=False)
    assert len(tokenizer.encode("longer than four", allow_special=False)) == 16
    assert tokenizer.encode("<think>", allow_special=True) == [tokenizer.special.think]


def test_other_spellings_and_missing_optional_tokens(tmp_path: Path) -> None:
    """A word-level tokenizer with other names, without tool tokens and BOS."""
    names = ["<unk>", "w0", "w1", "<EOT>", "<BOT>", "<think>", "</think>", "<im_start>"]
    names += ["<im_patch>", "<im_end>", "<patch_start>", "<patch_newline>", "<patch_end>"]
    vocab = {name: index for index, name in enumerate(names)}
    hf = HfTokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.add_special_tokens(names[3:])
    save(hf, tmp_path)
    tokenizer = Tokenizer.from_dir(tmp_path)
    assert (tokenizer.special.eot, tokenizer.special.bot) == (3, 4)
    assert tokenizer.special.bos is None
    assert tokenizer.special.tool_sep is None
    assert tokenizer.encode("w1 <EOT> w0", allow_special=False) == [2, 0, 0, 0, 1]
    assert tokenizer.decode([1, 2, 3, 999]) == " w0 w1<EOT>"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no tokenizer\.json") as caught:
        Tokenizer.from_dir(tmp_path)
    assert caught.value.reason == "TOKENIZER_NOT_FOUND"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": "1.0"}'])
def test_unreadable_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InvalidArgument, match="no readable tokenizer") as caught:
        Tokenizer.from_dir(tmp_path)
    assert caught.value.reason == "TOKENIZER_UNREADABLE"


def test_a_tokenizer_without_special_tokens_names_them(tmp_path: Path) -> None:
    save(HfTokenizer(models.BPE()), tmp_path)
    with pytest.raises(InvalidArgument, match=r"lacks .*<\|BOT\|>, <\|EOT\|>, <think>"):
        Tokenizer.from_dir(tmp_path)


def test_save_and_load_give_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(tokenizer._full, tmp_path)
    loaded = Tokenizer.from_dir(tmp_path)
    text = "47 + 38 = 85 東京 🙂"
    assert loaded.encode(text, allow_special=False) == tokenizer.encode(text, allow_special=False)
    assert loaded.special == tokenizer.special
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["version"]


def _alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())
