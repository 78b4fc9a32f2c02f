"""Trains a byte-level BPE with Step3's special tokens.

Differs from the released tokenizer in size and in one rule: every digit is a token of its own,
since small models learn arithmetic digit by digit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shared.errors import InvalidArgument
from shared.text.tokenizer import SPELLINGS, TOKENIZER_FILE

SPECIAL_TOKENS = tuple(spellings[0] for spellings in SPELLINGS.values())
_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns at most `vocab_size` tokens from `texts`; the same texts give the same tokenizer.

    Special tokens come first (BOS is 0), then all 256 bytes, so that any text can be encoded, then
    merges seen at least twice: a small corpus gives fewer tokens than asked for.

    Raises:
      InvalidArgument: `vocab_size` leaves no room for the special tokens and the bytes.
    """
    smallest = len(SPECIAL_TOKENS) + _BYTES
    if vocab_size < smallest:
        raise InvalidArgument(
            f"vocab_size = {vocab_size}: must be at least {smallest} "
            f"({len(SPECIAL_TOKENS)} special tokens and {_BYTES} bytes)",
            reason="VOCAB_TOO_SMALL",
            field="vocab_size",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Writes `folder`/tokenizer.json atomically and returns its path."""
    path = Path(folder) / TOKENIZER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    temporary.replace(path)
    return path


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        with file.open(encoding="utf-8") as stream:
            yield from stream


def main(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="UTF-8 texts.")],
    out: Annotated[Path, typer.Option(help="Folder that gets tokenizer.json.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens at most.")] = 2048,
) -> None:
    """Trains a tokenizer on text files.

    Example: python -m shared.text.train_tokenizer --vocab-size 2048 --out models/nano corpus.txt
    """
    try:
        tokenizer = train_tokenizer(_lines(files), vocab_size)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from error
    path = save(tokenizer, out)
    typer.echo(f"{path}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    typer.run(main)
