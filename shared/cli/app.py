"""The commands. Each imports what it needs when it runs: `--help` must answer at once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.cli import report
from shared.cli.config import load_settings
from shared.cli.plan import plan

app = typer.Typer(
    help="""Step3: from raw documents to a served multimodal reasoning model.

    \b
    Examples:
      ./step3 up                        start everything here; Ctrl-C stops it
      ./step3 up --detach               the same in the background
      ./step3 chat "What is 47 + 38?"   ask it
      ./step3 down                      stop the background one
      ./step3 test                      the whole test suite
    """,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Options that another module reads are passed on as they are.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Transport = Literal["auto", "shm", "unix", "tcp", "verbs", "cuda"]


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready.")] = False,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Without the console.")] = False,
    ffn: Annotated[int | None, typer.Option(min=1, help="Number of FFN shards.")] = None,
    transport: Annotated[Transport | None, typer.Option(help="Of the activations.")] = None,
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder.")] = None,
) -> None:
    """Start Redis and every service here.

    A service that crashes is started again. Ctrl-C stops all in order; a second one kills.

    \b
    Examples:
      ./step3 up
      ./step3 up --detach --no-ui
      ./step3 up --ffn 2 --transport shm --model models/nano
      STEP3_PORT_BASE=7400 STEP3_HOME=/tmp/second ./step3 up
    """
    overrides = {
        "STEP3_FFN__SHARDS": ffn,
        "STEP3_TRANSPORT": transport,
        "STEP3_MODEL": model,
    }
    with report.failures():
        settings = load_settings(
            {name: str(value) for name, value in overrides.items() if value is not None}
        )
        from shared.cli.up import up as start

        start(settings, ui=not no_ui, detach=detach)


@app.command()
def down() -> None:
    """Stop what `up` started, in order, and wait for it."""
    with report.failures():
        from shared.cli.status import down as stop

        stop(load_settings().home)


@app.command()
def status(json_output: Json = False) -> None:
    """Show what runs, and how it does.

    Of each service: state, pid, uptime, restarts, address, memory and what it says of itself.
    The exit status is 0 if everything that `up` started answers, else 1.

    \b
    Examples:
      ./step3 status
      ./step3 status --json
    """
    with report.failures(json_output=json_output):
        from shared.cli import status as status_module

        result = status_module.status(load_settings().home)
        if json_output:
            report.print_json(result)
        else:
            status_module.print_table(result)
        if not status_module.is_healthy(result):
            raise typer.Exit(report.FAILED)


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="redis, ffn-0, ffn, supervisor...")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show new lines, too.")] = False,
) -> None:
    """Show the end of the services' logs.

    \b
    Examples:
      ./step3 logs
      ./step3 logs attention -f
    """
    with report.failures():
        from shared.cli.logs import show

        try:
            show(load_settings().home, service, follow=follow, write=typer.echo)
        except KeyboardInterrupt:  # the way to end -f
            return


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="redis, vision, ffn, attention, gateway or ui.")],
    index: Annotated[int | None, typer.Option(min=0, help="Which FFN shard.")] = None,
) -> None:
    """Run one service in the foreground.

    For containers and supervisors of your own; needs the services before it to be up.

    \b
    Examples:
      ./step3 serve gateway
      STEP3_FFN__SHARDS=2 ./step3 serve ffn --index 1
    """
    with report.failures():
        from shared.cli.handover import execute
        from shared.cli.services import command_of

        settings = load_settings()
        execute(command_of(service, settings, host=settings.host, index=index))


@app.command()
def health(
    addr: Annotated[str, typer.Option(help="host:port of the service.")],
    service: Annotated[
        str, typer.Option(help="redis, ui, or a name of the gRPC health protocol.")
    ] = "",
) -> None:
    """Ask whether one service is ready to work.

    The exit status is 0 if it is, else 1.

    \b
    Examples:
      ./step3 health --addr 127.0.0.1:7300
      ./step3 health --addr 127.0.0.1:7303 --service redis
    """
    with report.failures():
        from shared.cli.probe import check

        asyncio.run(check(addr, service))


@app.command()
def chat(
    text: Annotated[str, typer.Argument(help="What to say.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image; may be repeated.")] = None,
    json_output: Json = False,
    max_tokens: Annotated[int | None, typer.Option(help="Length of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
) -> None:
    """Ask the running gateway one thing.

    \b
    Examples:
      ./step3 chat "What is 47 + 38?"
      ./step3 chat "What number is this?" --image number.png
      ./step3 chat "Who are you?" --json --temperature 0.7 --seed 1
    """
    with report.failures(json_output=json_output):
        settings = load_settings()
        from shared.cli.chat import build_request
        from shared.cli.chat import chat as ask

        request = build_request(
            text, image or [], max_tokens=max_tokens, temperature=temperature, seed=seed
        )
        ask(
            settings.address("gateway"),
            request,
            deadline_s=settings.gateway.default_deadline_s,
            json_output=json_output,
        )


@app.command()
def score(
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    requests: Annotated[Path, typer.Option(help="JSON lines: id, ids, images, generate.")],
    out: Annotated[Path, typer.Option(help="safetensors file to write.")],
) -> None:
    """Compute logits here, without any service.

    Writes those of given token ids and images to one safetensors file.

    \b
    Example:
      ./step3 score --model models/nano --requests requests.jsonl --out logits.safetensors
    """
    with report.failures():
        from shared.model.score import score as score_file

        score_file(model, requests, out)


@app.command(context_settings=_PASS_ON)
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="One of benchmarks/.")],
) -> None:
    """Run one of the benchmarks.

    Options go on to it, --json FILE among them.

    \b
    Example:
      ./step3 bench decode --json decode.json
    """
    with report.failures():
        from shared.cli.handover import run_benchmark

        run_benchmark(name, context.args)


app.command()(plan)


@app.command(context_settings=_PASS_ON)
def train(
    context: typer.Context,
    stage: Annotated[Literal["pretrain", "sft"], typer.Argument(help="Which training.")],
    recipe: Annotated[str, typer.Argument(help="Its configuration, a YAML file.")],
) -> None:
    """Train a model.

    Options go on to the trainer: --resume RUN continues that run of STEP3_HOME/runs.

    \b
    Examples:
      ./step3 train pretrain recipes/nano-pretrain.yaml
      ./step3 train sft recipes/nano-sft.yaml --resume nano-sft
    """
    with report.failures():
        from shared.cli.handover import run_module

        run_module("services.trainer", [stage, recipe, *context.args])


@app.command("eval", context_settings=_PASS_ON)
def evaluate(
    context: typer.Context,
    model_dir: Annotated[str, typer.Argument(help="Checkpoint folder.")],
) -> None:
    """Measure a model on held-out tasks.

    Options go on to the evaluation: --suite S, --json.

    \b
    Example:
      ./step3 eval models/nano --json
    """
    with report.failures():
        from shared.cli.handover import run_module

        run_module("services.trainer", ["eval", model_dir, *context.args])


@app.command(context_settings=_PASS_ON)
def test(
    context: typer.Context,
    fast: Annotated[
        bool, typer.Option("--fast", help="No static checks, no slow or browser tests.")
    ] = False,
) -> None:
    """Run the static checks and all tests.

    This is what continuous integration runs. Arguments go on to pytest.

    \b
    Examples:
      ./step3 test
      ./step3 test --fast
      ./step3 test tests/shared -k settings
    """
    from shared.cli.checks import run_checks

    if not run_checks(context.args, fast=fast):
        raise typer.Exit(report.FAILED)


def main() -> None:
    """Runs the command of sys.argv; never returns."""
    try:
        app(prog_name="step3")
    except Exception as error:
        report.report_bug(error)
        sys.exit(report.FAILED)
