"""The trainer's command line: python -m services.trainer pretrain|sft|eval."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.trainer import evaluate as evaluation
from services.trainer.loop import Diverged
from services.trainer.pretrain import pretrain as run_pretrain
from services.trainer.sft import sft as run_sft
from shared.errors import Step3Error

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Recipe = Annotated[Path, typer.Argument(help="A YAML file of recipes/.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run of the recipe's name.")]
Seconds = Annotated[
    float | None, typer.Option(help="Compress the schedule so that it ends by then.")
]
Steps = Annotated[int | None, typer.Option(help="Fewer (or more) steps than the recipe's.")]


@app.command()
def pretrain(
    recipe: Recipe, resume: Resume = False, max_seconds: Seconds = None, steps: Steps = None
) -> None:
    """Train a preset from scratch.

    Example: python -m services.trainer pretrain recipes/nano-pretrain.yaml
    """
    with _failures():
        typer.echo(run_pretrain(recipe, resume=resume, max_seconds=max_seconds, max_steps=steps))


@app.command()
def sft(
    recipe: Recipe, resume: Resume = False, max_seconds: Seconds = None, steps: Steps = None
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
        table.add_row(
            score.task, str(score.n), f"{score.accuracy:.1%}", f"{score.finished:.1%}"
        )
    Console().print(table)


class _failures:
    """Expected failures become one line and exit status 1 (2 for a wrong input)."""

    def __enter__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (Step3Error, ValueError)):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        if isinstance(error, Diverged):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
