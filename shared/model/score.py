"""Logits of given token ids and images with the local model: the parity tool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import InvalidArgument
from shared.model.checkpoint import Checkpoint, load_model
from shared.model.config import Step3Config
from shared.model.generate import generate
from shared.model.images import open_image, preprocess
from shared.model.step3 import Step3ForConditionalGeneration
from shared.model.tiling import ImageTokenIds, expand_prompt

# Limits against accidents only: this runs the caller's own files.
_MAX_IMAGE_BYTES = 100 * 2**20
_MAX_IMAGE_PIXELS = 150_000_000


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One line of a request file."""

    id: str
    # One `<im_patch>` for each image, expanded here; without images taken as they are.
    ids: tuple[int, ...]
    images: tuple[Path, ...] = ()
    # Tokens to generate greedily after the prompt.
    generate: int = 0


def score(
    model_dir: str | Path,
    requests_jsonl: str | Path,
    out_safetensors: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run every request in float32 and write one safetensors file.

    Tensors of a request (V vocabulary, H hidden):
      `<id>.expanded_ids` [T]: the prompt with every image's tokens in place;
      `<id>.generated_ids` [n]: greedy, an end-of-sequence token does not stop it;
      `<id>.logits` [T + max(n - 1, 0), V]: a row for each prompt token, then one for each
        generated token that was fed back, which are all but the last;
      `<id>.image_features.<i>` [1, tokens, H]: thumbnail of image i;
      `<id>.crop_features.<i>` [crops, tokens, H]: absent without crops.

    Args:
      model_dir: a checkpoint folder.
      requests_jsonl: lines {"id", "ids": [...], "images": [path...], "generate": n}; the last two
        may be left out. Relative image paths start at the current folder.
      out_safetensors: replaced as a whole at the end.
      progress: called with the number of finished requests and of all.

    Raises:
      CheckpointError: the folder cannot be used.
      InvalidArgument: a request line or an image is wrong; names line, field and value.
    """
    out = Path(out_safetensors)
    if not out.parent.is_dir():
        raise InvalidArgument(
            f"out = {str(out)!r}: its folder does not exist; make it or choose another",
            reason="OUT_UNWRITABLE",
        )
    requests = list(read_requests(Path(requests_jsonl), Checkpoint.open(model_dir).config))
    model = load_model(model_dir)
    tokens = ImageTokenIds.from_dir(model_dir) if any(r.images for r in requests) else None
    tensors: dict[str, Tensor] = {}
    for done, request in enumerate(requests, start=1):
        results = _score_one(model, request, tokens)
        tensors |= {f"{request.id}.{name}": tensor for name, tensor in results.items()}
        if progress is not None:
            progress(done, len(requests))
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


@torch.inference_mode()
def _score_one(
    model: Step3ForConditionalGeneration, request: ScoreRequest, tokens: ImageTokenIds | None
) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    features: list[Tensor] = []
    newlines: list[tuple[bool, ...]] = []
    for index, path in enumerate(request.images):
        field = f"request {request.id!r}, images[{index}] = {str(path)!r}"
        image = open_image(
            path, max_bytes=_MAX_IMAGE_BYTES, max_pixels=_MAX_IMAGE_PIXELS, field=field
        )
        inputs = preprocess(image, model.config.vision)
        newlines.append(inputs.newline_after)
        if inputs.newline_after:
            crops = model.encode_images(inputs.crops_P3ZZ)
            results[f"crop_features.{index}"] = crops
            features.append(crops.flatten(0, 1))
        thumbnail = model.encode_images(inputs.thumbnail_13SS)
        results[f"image_features.{index}"] = thumbnail
        features.append(thumbnail.flatten(0, 1))

    ids = list(request.ids)
    if tokens is not None and request.images:
        ids = expand_prompt(ids, newlines, model.config, tokens)
    limit = model.config.text.max_position_embedding
    if len(ids) + request.generate > limit:
        raise InvalidArgument(
            f"request {request.id!r}: {len(ids)} prompt tokens after expansion and generate = "
            f"{request.generate} exceed the model's context of {limit}",
            reason="PROMPT_TOO_LONG",
        )
    merged = torch.cat(features) if features else None
    if request.generate:
        steps = list(generate(model, ids, merged, max_new_tokens=request.generate))
        logits = torch.cat([step.logits_TV for step in steps])
        generated = [step.token_id for step in steps]
    else:
        logits = model(torch.tensor(ids), merged)
        generated = []
    return results | {
        "logits": logits,
        "expanded_ids": torch.tensor(ids),
        "generated_ids": torch.tensor(generated, dtype=torch.int64),
    }


def read_requests(path: Path, config: Step3Config) -> Iterator[ScoreRequest]:
    """Parse and check every line; empty lines are skipped.

    Raises:
      InvalidArgument: the file cannot be read, or a line is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"requests = {str(path)!r}: cannot be read: {error}", reason="REQUESTS_UNREADABLE"
        ) from None
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        request = _parse(f"{path}, line {number}", line, config)
        if request.id in seen:
            raise _bad(f"{path}, line {number}", "id", request.id, "different from earlier lines'")
        seen.add(request.id)
        yield request


def _parse(where: str, line: str, config: Step3Config) -> ScoreRequest:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"{where}: is not JSON: {error}", reason="REQUEST_INVALID") from None
    if not isinstance(raw, dict):
        raise _bad(where, "request", raw, "a JSON object")
    if unknown := sorted(set(raw) - {"id", "ids", "images", "generate"}):
        raise _bad(where, unknown[0], raw[unknown[0]], "left out: there is no such field")
    identifier, ids = raw.get("id"), raw.get("ids")
    images, count = raw.get("images", []), raw.get("generate", 0)
    if not isinstance(identifier, str) or not identifier:
        raise _bad(where, "id", identifier, "a text that is not empty")
    vocabulary = config.text.vocab_size
    if not isinstance(ids, list) or not ids:
        raise _bad(where, "ids", ids, "a list of at least one token id")
    for index, token in enumerate(ids):
        if not _is_int(token) or not 0 <= token < vocabulary:
            raise _bad(where, f"ids[{index}]", token, f"a token id of 0..{vocabulary - 1}")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise _bad(where, "images", images, "a list of file paths")
    slots = ids.count(config.image_token_id)
    if images and slots != len(images):
        raise _bad(
            where,
            "images",
            images,
            f"one path for each of the {slots} image tokens (id {config.image_token_id}) in ids",
        )
    if not _is_int(count) or count < 0:
        raise _bad(where, "generate", count, "a whole number of at least 0")
    return ScoreRequest(identifier, tuple(ids), tuple(Path(image) for image in images), count)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(where: str, field: str, value: Any, wanted: str) -> InvalidArgument:
    text = json.dumps(value, ensure_ascii=False)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return InvalidArgument(
        f"{where}: {field} = {shown}: must be {wanted}", reason="REQUEST_INVALID", field=field
    )
