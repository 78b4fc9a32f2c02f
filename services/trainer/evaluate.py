"""Held-out accuracy by task: whole conversations, greedy answers, graded by their final reply."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.example import Example, Renderer
from shared.model.cache import KVCache
from shared.model.checkpoint import load_model
from shared.model.images import ImageInputs
from shared.model.step3 import Step3ForConditionalGeneration
from shared.text.tokenizer import Tokenizer

# Dimension key: B prompts, T tokens, F image tokens, H hidden

# Tasks of the gate come first.
SUITES: dict[str, tuple[str, ...]] = {
    "gate": ("arithmetic-two-digit", "number-short", "shapes-count-few"),
    "all": (
        "arithmetic-two-digit",
        "number-short",
        "shapes-count-few",
        "arithmetic",
        "arithmetic-chain",
        "arithmetic-follow-up",
        "number-calculate",
        "number-two-images",
        "shapes-count-some",
        "shapes-describe",
        "shapes-colour",
        "shapes-is-there",
        "chart",
        "manners",
        "outside",
        "foreign",
        "no-image",
        "unknown-image",
        "conversation",
    ),
}
MAX_NEW_TOKENS = 320
_BATCH = 64


class Answerer(Protocol):
    """Gives each prompt's new tokens, up to the stop token."""

    def __call__(self, prompts: Sequence[Example]) -> list[list[int]]: ...


@dataclass(frozen=True, slots=True)
class Score:
    """`finished`: share of answers that closed their thinking and their turn."""

    task: str
    n: int
    correct: int
    accuracy: float
    finished: float


def evaluate(
    renderer: Renderer, answer: Answerer, tasks: Sequence[str], n: int, seed: int = 0
) -> list[Score]:
    """Score `n` held-out samples of each task."""
    scores = []
    for task in tasks:
        samples = [
            source(task)(generator("evaluation", seed, task, i), "heldout") for i in range(n)
        ]
        replies = answer([renderer.prompt(sample) for sample in samples])
        parsed = [split_reply(renderer.tokenizer, ids) for ids in replies]
        correct = sum(
            content is not None and is_correct(content, sample.answer)
            for content, sample in zip(parsed, samples, strict=True)
        )
        finished = sum(content is not None for content in parsed)
        scores.append(Score(task, n, correct, round(correct / n, 4), round(finished / n, 4)))
    return scores


def split_reply(tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """The reply after the thinking; None where either was not closed."""
    special = tokenizer.special
    if special.end_think not in ids or special.eot not in ids:
        return None
    start = list(ids).index(special.end_think) + 1
    return tokenizer.decode(ids[start : list(ids).index(special.eot)]).strip()


def is_correct(reply: str, answer: str) -> bool:
    """A number must be the last one of the reply; anything else must stand in it as words."""
    if re.fullmatch(r"-?\d+", answer):
        # A hyphen after a digit and a space is the operator of "47 - 38 = 9".
        numbers = re.findall(r"(?<![\d\w])-?\d+", reply)
        return bool(numbers) and int(numbers[-1]) == int(answer)
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply) is not None


class Greedy:
    """Decodes with the plain model; prompts of equal length share a batch."""

    def __init__(self, model: Step3ForConditionalGeneration, stop_id: int) -> None:
        self.model = model.eval()
        self._stop_id = stop_id

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Example]) -> list[list[int]]:
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            by_length[len(prompt.ids)].append(index)
        replies: list[list[int]] = [[] for _ in prompts]
        for indices in by_length.values():
            for start in range(0, len(indices), _BATCH):
                some = indices[start : start + _BATCH]
                for index, reply in zip(
                    some, self._decode([prompts[i] for i in some]), strict=True
                ):
                    replies[index] = reply
        return replies

    def _decode(self, prompts: Sequence[Example]) -> list[list[int]]:
        """Prompts of one length."""
        weight = self.model.lm_head.weight
        ids_BT = torch.tensor([prompt.ids for prompt in prompts], device=weight.device)
        images = [image for prompt in prompts for image in prompt.images]
        features_FH = self._encode(images) if images else None
        cache = KVCache(
            self.model.config.text,
            ids_BT.shape[1] + MAX_NEW_TOKENS,
            batch=len(prompts),
            dtype=weight.dtype,
            device=weight.device,
        )
        chosen = []
        finished_B = torch.zeros(len(prompts), dtype=torch.bool, device=weight.device)
        for _ in range(MAX_NEW_TOKENS):
            next_B = self.model(ids_BT, features_FH, cache=cache)[:, -1].argmax(-1)
            chosen.append(next_B)
            finished_B |= next_B == self._stop_id
            if bool(finished_B.all()):
                break
            ids_BT, features_FH = next_B.unsqueeze(1), None
        rows = torch.stack(chosen, dim=1).tolist()
        return [
            row[: row.index(self._stop_id) + 1] if self._stop_id in row else row for row in rows
        ]

    def _encode(self, images: Sequence[ImageInputs]) -> Tensor:
        """Image tokens [F, H] in the order of the prompts."""
        weight = self.model.lm_head.weight
        parts = []
        for image in images:
            for pixels in (image.crops_P3ZZ, image.thumbnail_13SS):
                if len(pixels):
                    there = pixels.to(weight.device, weight.dtype)
                    parts.append(self.model.encode_images(there).flatten(0, 1))
        return torch.cat(parts)


def evaluate_folder(folder: Path, suite: str, n: int, seed: int = 0) -> list[Score]:
    """Score a checkpoint on the GPU, or on the CPU where there is none.

    Raises:
      ValueError: there is no suite of that name.
      CheckpointError: the folder cannot be used.
    """
    if suite not in SUITES:
        raise ValueError(f"suite {suite!r}: must be one of {', '.join(SUITES)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, device=device)
    tokenizer = Tokenizer.from_dir(folder)
    renderer = Renderer(tokenizer, model.config)
    return evaluate(renderer, Greedy(model, model.config.eos_token_id), SUITES[suite], n, seed)


def as_json(folder: Path, suite: str, scores: Sequence[Score]) -> dict[str, object]:
    return {"model": str(folder), "suite": suite, "tasks": [asdict(score) for score in scores]}
