"""The trainer's command line: python -m services.trainer pretrain|sft|eval."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.trainer import evaluate as evaluation
from services.trainer.loop import DivergedError
from services.trainer.pretrain import pretrain as run_pretrain
from services.trainer.sft import sft as run_sft
from shared.errors import InvalidArgument, Step3Error

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Recipe = Annotated[Path, typer.Argument(help="A YAML file of recipes/.")]
Resume = Annotated[
    str | None, typer.Option(metavar="RUN", help="Continue this run of STEP3_HOME/runs.")
]
Seconds = Annotated[
    float | None, typer.Option(min=0.001, help="Compress the schedule so that it ends by then.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's steps.")]


@app.command()
def pretrain(
    recipe: Recipe, resume: Resume = None, max_seconds: Seconds = None, steps: Steps = None
) -> None:
    """Train a preset from scratch.

    Example: python -m services.trainer pretrain recipes/nano-pretrain.yaml --resume nano-pretrain
    """
    with _failures():
        typer.echo(run_pretrain(recipe, resume=resume, max_seconds=max_seconds, max_steps=steps))


@app.command()
def sft(
    recipe: Recipe, resume: Resume = None, max_seconds: Seconds = None, steps: Steps = None
) -> None:
    """Fine-tune on conversations.

    Example: python -m services.trainer sft recipes/nano-sft.yaml
    """
    with _failures():
        typer.echo(run_sft(recipe, resume=resume, max_seconds=max_seconds, max_steps=steps))


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    suite: Annotated[str, typer.Option(help="gate, or all tasks.")] = "gate",
    n: Annotated[int, typer.Option(min=1, help="Held-out samples of each task.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws other samples.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Held-out accuracy of a checkpoint, task by task.

    Example: python -m services.trainer eval models/nano --suite all --json
    """
    with _failures():
        scores = evaluation.evaluate_folder(model, suite, n, seed)
    if json_:
        typer.echo(json.dumps(evaluation.as_json(model, suite, scores), indent=1))
        return
    table = Table("task", "n", "accuracy", "finished")
    for score in scores:
        table.add_row(score.task, str(score.n), f"{score.accuracy:.1%}", f"{score.finished:.1%}")
    Console().print(table)


@contextmanager
def _failures() -> Iterator[None]:
    """Expected failures become one line and exit status 1, or 2 for wrong input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except (Step3Error, ValueError, DivergedError) as error:
        typer.echo(f"error: {error}", err=True)
        misuse = isinstance(error, (InvalidArgument, ValueError))
        raise typer.Exit(2 if misuse else 1) from None


if __name__ == "__main__":
    app()
