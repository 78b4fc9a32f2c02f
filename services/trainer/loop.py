"""The training loop: batches in, updates out, metrics to the terminal and to metrics.jsonl.

Two runs of the same recipe give the same weights bit for bit on a CPU, and so does one that was
stopped and resumed: batches are a function of the step, the step draws no random number, and a
checkpoint holds the weights, the optimiser's moments and the step.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from services.trainer.mixture import Batches, loader
from services.trainer.pack import Batch
from services.trainer.recipe import Recipe
from services.trainer.schedule import learning_rate, vision_share
from services.trainer.state import load_state, save_state
from services.trainer.step import TrainStep, exact_share
from shared.model.init import is_vision


class DivergedError(RuntimeError):
    """The loss is no number any more."""


def optimizer_for(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices other than embedding tables; vision has its own rate."""
    groups: list[dict[str, Any]] = []
    for vision in (False, True):
        for matrix in (False, True):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if is_vision(name) == vision
                and (parameter.dim() > 1 and "embed" not in name) == matrix
            ]
            groups.append(
                {
                    "params": chosen,
                    "weight_decay": recipe.weight_decay if matrix else 0.0,
                    "vision": vision,
                }
            )
    device = next(model.parameters()).device
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=device.type == "cuda",
    )


def train(
    recipe: Recipe,
    step_fn: TrainStep,
    batches: Batches,
    run: Path,
    *,
    max_seconds: float | None = None,
    stop_at: int | None = None,
) -> int:
    """Train until the recipe's last step; the number of steps done.

    Continues from the newest checkpoint in `run`/state, if there is one.

    Args:
      recipe: how long, how fast.
      step_fn: the loss; its model is updated in place.
      batches: the data by step.
      run: folder of the run; gets metrics.jsonl and state/.
      max_seconds: the schedule is then compressed so that it ends by this time at the latest.
      stop_at: stop before this step, with a checkpoint, as an interruption would.

    Raises:
      DivergedError: the loss became infinite or no number.
    """
    model = step_fn.model
    device = next(model.parameters()).device
    optimizer = optimizer_for(model, recipe)
    first = _restore(run, model, optimizer)
    checks = {name: batches.held_out(name).to(device) for name in recipe.validation}
    autocast = (
        torch.autocast("cuda", torch.bfloat16)
        if device.type == "cuda"
        else contextlib.nullcontext()
    )
    end = min(recipe.steps, stop_at if stop_at is not None else recipe.steps)
    started = shown = time.monotonic()
    step, tokens, waited = first, 0, 0.0

    with _Report(run, recipe, first) as report:
        source = iter(loader(batches, first, end))
        while step < end:
            before = time.monotonic()
            batch = next(source)
            waited += time.monotonic() - before
            progress = step / recipe.steps
            if max_seconds is not None:
                progress = max(progress, (time.monotonic() - started) / max_seconds)
            if progress >= 1:
                break
            rate = learning_rate(recipe, progress + 1 / recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * (vision_share(recipe, progress) if group["vision"] else 1.0)
            with autocast:
                result = step_fn(batch.to(device))
            result.loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += batch.ids_RL.numel()
            step += 1

            if step % recipe.log_every == 0 or step == recipe.steps:
                now = time.monotonic()
                metrics = {name: float(value) for name, value in result.metrics.items()}
                span = now - shown
                speeds = {"tokens_per_s": round(tokens / span), "waiting": round(waited / span, 3)}
                shown, tokens, waited = now, 0, 0.0
                report.line(
                    step,
                    metrics
                    | {
                        "rate": rate,
                        "gradient_norm": float(norm),
                        **speeds,
                        "progress": round(progress, 4),
                        "seconds": round(now - started, 1),
                    },
                )
                if not math.isfinite(metrics["loss"]):
                    raise DivergedError(
                        f"the loss is {metrics['loss']} at step {step}: lower learning_rate"
                    )
            if checks and (step % recipe.validate_every == 0 or step == recipe.steps):
                with autocast:
                    report.line(step, validate(step_fn, checks))
            if step % recipe.checkpoint_every == 0 and step < end:
                _save(run, step, model, optimizer)
        _save(run, step, model, optimizer)
    return step


def validate(step_fn: TrainStep, checks: Mapping[str, Batch]) -> dict[str, float]:
    """Share of held-out samples that would be answered word for word, by source."""
    step_fn.model.eval()
    shares = {
        f"exact/{name}": round(exact_share(step_fn.model, batch), 4)
        for name, batch in checks.items()
    }
    step_fn.model.train()
    return shares


def _save(run: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_state(run / "state", step, state)


def _restore(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = load_state(run / "state")
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


class _Report:
    """metrics.jsonl, and on the terminal a progress bar or plain lines."""

    def __init__(self, run: Path, recipe: Recipe, first: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._file = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(recipe.name),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=recipe.steps, completed=first, note="")

    def __enter__(self) -> _Report:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._file.close()

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._console.is_terminal and "loss" in metrics:
            self._bar.update(self._task, completed=step, note=f"loss {metrics['loss']:.4f}")
        else:
            self._console.print(f"step {step}  {text}", highlight=False, soft_wrap=True)
