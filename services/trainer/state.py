"""Training state on disk: written whole or not at all, checked when read, the last two kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shared.errors import FailedPrecondition

KEPT = 2
_STATE, _MANIFEST = "state.pt", "manifest.json"
log = logging.getLogger(__name__)


def save_state(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write `folder`/step-NNNNNNN and remove all but the newest `KEPT`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        with (temporary / _STATE).open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        manifest = {"step": step, "sha256": _digest(temporary / _STATE)}
        (temporary / _MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        temporary.replace(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return final


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state whose hash is right; None if the folder holds none.

    Raises:
      FailedPrecondition: there are states, and all of them are damaged.
    """
    candidates = sorted(folder.glob("step-*"), reverse=True)
    for path in candidates:
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            if _digest(path / _STATE) == manifest["sha256"]:
                state: dict[str, Any] = torch.load(
                    path / _STATE, map_location="cpu", weights_only=True
                )
                return state
            problem = "its hash is wrong"
        except (OSError, ValueError, KeyError) as error:
            problem = str(error)
        log.warning("checkpoint %s is damaged (%s): trying the one before", path, problem)
    if candidates:
        raise FailedPrecondition(
            f"every checkpoint in {str(folder)!r} is damaged: remove the run and start it again",
            reason="CHECKPOINT_CORRUPT",
        )
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
