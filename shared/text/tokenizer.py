"""Text to token ids and back, incrementally; the special tokens by name.

Text that people or tools wrote is encoded by a twin of the tokenizer that knows no added tokens, so
that a typed "<|EOT|>" becomes ordinary tokens and can never end a turn or place an image.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from shared.errors import InvalidArgument, NotFound

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that carry structure; None where a tokenizer may lack one and does."""

    bot: int
    eot: int
    think: int
    end_think: int
    im_start: int
    im_patch: int
    im_end: int
    patch_start: int
    patch_newline: int
    patch_end: int
    bos: int | None
    tool_calls_begin: int | None
    tool_calls_end: int | None
    tool_call_begin: int | None
    tool_call_end: int | None
    tool_sep: int | None


# The first spelling is Step3's; a checkpoint may use another.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "bos": ("<｜begin▁of▁sentence｜>", "<BOS>"),
    "bot": ("<|BOT|>", "<BOT>"),
    "eot": ("<|EOT|>", "<EOT>"),
    "think": ("<think>",),
    "end_think": ("</think>",),
    "im_start": ("<im_start>",),
    "im_patch": ("<im_patch>",),
    "im_end": ("<im_end>",),
    "patch_start": ("<patch_start>",),
    "patch_newline": ("<patch_newline>",),
    "patch_end": ("<patch_end>",),
    "tool_calls_begin": ("<｜tool_calls_begin｜>", "<｜tool▁calls▁begin｜>"),
    "tool_calls_end": ("<｜tool_calls_end｜>", "<｜tool▁calls▁end｜>"),
    "tool_call_begin": ("<｜tool_call_begin｜>", "<｜tool▁call▁begin｜>"),
    "tool_call_end": ("<｜tool_call_end｜>", "<｜tool▁call▁end｜>"),
    "tool_sep": ("<｜tool_sep｜>", "<｜tool▁sep｜>"),
}
_OPTIONAL = frozenset(name for name in SPELLINGS if name == "bos" or name.startswith("tool_"))


class Tokenizer:
    """A tokenizer.json, with Step3's special tokens looked up by their text."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        """Raises InvalidArgument when a special token that every conversation needs is missing."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._full = tokenizer
        description = json.loads(tokenizer.to_str())
        self._byte_level = _uses_byte_level(description["decoder"])
        self._plain = HfTokenizer.from_str(json.dumps(description | {"added_tokens": []}))
        self._added_text = {
            id_: token.content for id_, token in tokenizer.get_added_tokens_decoder().items()
        }
        self.special = _find_special_tokens(tokenizer)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_dir(cls, folder: str | Path) -> Tokenizer:
        """Reads `folder`/tokenizer.json.

        Raises:
          NotFound: there is no such file.
          InvalidArgument: it cannot be read, or lacks special tokens.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise NotFound(
                f"model folder {str(folder)!r} has no {TOKENIZER_FILE}: "
                "name a checkpoint folder that holds one",
                reason="TOKENIZER_NOT_FOUND",
                field="model",
            )
        try:
            # The library raises a bare Exception for any malformed file.
            tokenizer = HfTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:
            raise InvalidArgument(
                f"{str(path)!r} is no readable tokenizer ({error}): copy the file again",
                reason="TOKENIZER_UNREADABLE",
                field="model",
            ) from error
        return cls(tokenizer)

    def encode(self, text: str, *, allow_special: bool) -> list[int]:
        """Ids of `text`, without BOS.

        Args:
          text: any text without lone surrogates.
          allow_special: whether special tokens' texts become special tokens; False for everything
            that a person, a tool or a model wrote.
        """
        tokenizer = self._full if allow_special else self._plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens as their text, invalid UTF-8 as U+FFFD."""
        decoder = StreamDecoder(self)
        return "".join([decoder.push(id_) for id_ in ids] + [decoder.flush()])

    def token_bytes(self, id_: int) -> bytes:
        """What one token adds to the text, in UTF-8; a part of a character is possible."""
        added = self._added_text.get(id_)
        if added is not None:
            return added.encode()
        token = self._full.id_to_token(id_)
        if token is None:
            # A model's vocabulary is often padded to more rows than the tokenizer has tokens.
            return b""
        if self._byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        return f" {token}".encode()


class StreamDecoder:
    """Decodes token by token; a character's bytes wait until the last of them is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id_: int) -> str:
        """The text that `id_` completes, often empty inside a multi-byte character."""
        return self._utf8.decode(self._tokenizer.token_bytes(id_))

    def flush(self) -> str:
        """What is left: U+FFFD for an unfinished character. The decoder can be used again."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _find_special_tokens(tokenizer: HfTokenizer) -> SpecialTokens:
    def find(name: str) -> int | None:
        ids = (tokenizer.token_to_id(spelling) for spelling in SPELLINGS[name])
        return next((id_ for id_ in ids if id_ is not None), None)

    ids: dict[str, Any] = {field.name: find(field.name) for field in fields(SpecialTokens)}
    missing = [SPELLINGS[name][0] for name in ids if ids[name] is None and name not in _OPTIONAL]
    if missing:
        raise InvalidArgument(
            f"the tokenizer lacks the special tokens {', '.join(missing)}: "
            "use the tokenizer.json of a Step3 checkpoint",
            reason="TOKENIZER_INCOMPLETE",
            field="model",
        )
    return SpecialTokens(**ids)


def _uses_byte_level(decoder: dict[str, Any] | None) -> bool:
    if decoder is None:
        return False
    return decoder["type"] == "ByteLevel" or any(
        _uses_byte_level(inner) for inner in decoder.get("decoders", [])
    )


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_of_character()
