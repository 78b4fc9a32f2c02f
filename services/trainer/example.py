"""From a sample to token ids: a caption or a plain document (pretraining), a conversation (SFT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from services.trainer.data.sample import Sample
from services.trainer.pixels import preprocess_bytes
from shared.model.config import Step3Config
from shared.model.images import ImageInputs, preprocess
from shared.model.tiling import ImageTokenIds, expand_prompt
from shared.text.chat_template import render
from shared.text.conversation import ImagePart, Message, Part, TextPart
from shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """One document: its ids (images expanded), where the loss is taken, its images in order."""

    ids: list[int]
    learned: list[bool]
    images: list[ImageInputs]


class Renderer:
    """Turns samples into examples and prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, config: Step3Config) -> None:
        self.tokenizer = tokenizer
        self.config = config
        special = tokenizer.special
        self._image_ids = ImageTokenIds(
            **{name: getattr(special, name) for name in ImageTokenIds.__dataclass_fields__}
        )
        self._markers = {getattr(special, name) for name in ImageTokenIds.__dataclass_fields__}

    def caption(self, sample: Sample) -> Example:
        """The last turn's images and reasoning, without the question that led to it."""
        special, turn = self.tokenizer.special, sample.turns[-1]
        ids = [] if special.bos is None else [special.bos]
        ids += [special.im_patch] * len(turn.images)
        ids += [*self.tokenizer.encode(turn.reasoning, allow_special=False), special.eot]
        ids, images = self._expand(ids, turn.images, fast=True)
        return Example(ids, [id_ not in self._markers for id_ in ids], images)

    def document(self, sample: Sample) -> Example:
        """Questions, reasoning and replies as lines of text; everything but images is learned."""
        special = self.tokenizer.special
        ids = [] if special.bos is None else [special.bos]
        for turn in sample.turns:
            ids += [special.im_patch] * len(turn.images)
            text = f"{turn.question}\n{turn.reasoning}\n{turn.reply}\n"
            ids += self.tokenizer.encode(text, allow_special=False)
        ids.append(special.eot)
        ids, images = self._expand(ids, _images(sample), fast=True)
        return Example(ids, [id_ not in self._markers for id_ in ids], images)

    def chat(self, sample: Sample) -> Example:
        """The conversation as it is served; the last reply and its reasoning are learned."""
        rendered = render(self.tokenizer, messages(sample, answered=True), training=True)
        ids, images = self._expand(rendered.ids, _images(sample), fast=True)
        # Images stand in questions, before everything that is learned.
        grown = [False] * (len(ids) - len(rendered.ids))
        return Example(ids, grown + rendered.loss_mask, images)

    def prompt(self, sample: Sample) -> Example:
        """The conversation up to the last reply, as the gateway would send it."""
        rendered = render(self.tokenizer, messages(sample, answered=False))
        ids, images = self._expand(rendered.ids, _images(sample), fast=False)
        return Example(ids, [False] * len(ids), images)

    def _expand(
        self, ids: Sequence[int], pictures: Sequence[Image], *, fast: bool
    ) -> tuple[list[int], list[ImageInputs]]:
        to_pixels = preprocess_bytes if fast else preprocess
        images = [to_pixels(picture, self.config.vision) for picture in pictures]
        newlines = [image.newline_after for image in images]
        return expand_prompt(ids, newlines, self.config, self._image_ids), images


def _images(sample: Sample) -> list[Image]:
    return [image for turn in sample.turns for image in turn.images]


def messages(sample: Sample, *, answered: bool) -> list[Message]:
    """The sample as a conversation, with or without its last reply."""
    result = [] if sample.system is None else [Message("system", [TextPart(sample.system)])]
    for turn in sample.turns:
        images = [ImagePart() for _ in turn.images]
        parts: list[Part] = [*images, TextPart(turn.question)]
        result.append(Message("user", parts))
        result.append(Message("assistant", [TextPart(turn.reply)], turn.reasoning))
    return result if answered else result[:-1]
