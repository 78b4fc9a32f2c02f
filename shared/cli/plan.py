"""`plan`: what a deployment needs and costs, and the published tables beside the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shared.cli import report

if TYPE_CHECKING:
    from shared.model.config import Step3Config
    from shared.plan.deployment import DeploymentPlan, Workload
    from shared.plan.hardware import Accelerator
    from shared.plan.memory import CardPlan
    from shared.plan.plot import Point
    from shared.plan.tables import Table as FigureTable

_CONTEXT = 8192


def plan(
    model: Annotated[str, typer.Option(help="A preset or a checkpoint folder.")] = "step3",
    context: Annotated[
        int | None, typer.Option(help="Cached tokens of a sequence; 8192 or the model's most.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="Kind of the attention cards.")] = "H800",
    ffn_gpu: Annotated[str | None, typer.Option(help="Of the FFN cards; else the same.")] = None,
    tpot: Annotated[float, typer.Option(help="Milliseconds for an output token.")] = 50.0,
    kv: Annotated[Literal["bf16", "fp8"], typer.Option(help="Storage of the cache.")] = "fp8",
    weights: Annotated[
        Literal["fp8", "bf16", "int8"], typer.Option(help="int8 leaves attention in bf16.")
    ] = "fp8",
    gpus: Annotated[
        int | None, typer.Option(help="Plan the memory of one pool of so many cards instead.")
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(help="With --gpus: cached tokens of all requests.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Check the published tables.")] = False,
    pareto: Annotated[
        Path | None, typer.Option(help="Draw parameters against cost into this .svg file.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compute memory, stage times and cost of a deployment.

    Cards for each side of a disaggregated deployment; with --gpus, what a pool of cards holds.

    \b
    Examples:
      ./step3 plan --model step3 --context 8192 --gpu H20 --ffn-gpu H800 --tpot 50
      ./step3 plan --gpu L40S --gpus 8 --weights int8 --kv bf16 --kv-tokens 800000
      ./step3 plan --tables
      ./step3 plan --pareto pareto.svg
    """
    with report.failures(json_output=json_output):
        if tables:
            _show_tables(json_output)
        elif pareto is not None:
            from shared.plan.plot import write_pareto

            points = write_pareto(pareto, _CONTEXT if context is None else context)
            _show_pareto(points, pareto, json_output)
        else:
            from shared.plan.hardware import accelerator

            config, card = _config(model), accelerator(gpu)
            if gpus is not None:
                from shared.plan.memory import pool_plan

                if ffn_gpu is not None:
                    raise _misuse("ffn-gpu", ffn_gpu, "goes without --gpus, which plans one pool")
                tokens = 0 if kv_tokens is None else kv_tokens
                rows = pool_plan(config, card, gpus, weights=weights, kv=kv, kv_tokens=tokens)
                _show_pool(rows, card, gpus, tokens, json_output)
            elif kv_tokens is not None:
                raise _misuse("kv-tokens", kv_tokens, "goes with --gpus N")
            else:
                from shared.plan.deployment import Workload, plan_deployment

                ffn_card = card if ffn_gpu is None else accelerator(ffn_gpu, field="ffn-gpu")
                if context is None:
                    context = min(_CONTEXT, config.text.max_position_embedding)
                work = Workload.of(config, context=context, weights=weights, kv=kv, name=model)
                _show_deployment(
                    work, plan_deployment(work, card, ffn_card, tpot / 1e3), json_output
                )


def _misuse(field: str, value: object, wanted: str) -> Exception:
    from shared.errors import InvalidArgument

    return InvalidArgument(f"{field} = {value!r}: {wanted}", reason="BAD_OPTION", field=field)


def _config(model: str) -> Step3Config:
    """The configuration of a preset, or of a checkpoint folder."""
    from shared.model.config import ConfigError, Step3Config
    from shared.model.presets import PRESETS

    if model in PRESETS:
        return PRESETS[model]
    if not Path(model).is_dir():
        raise _misuse("model", model, f"must be a folder or one of {', '.join(PRESETS)}")
    try:
        return Step3Config.from_dir(model)
    except ConfigError as error:
        raise _misuse("model", model, str(error)) from error


def _count(value: float) -> str:
    """Three digits and an SI prefix: 316G, 7.1M."""
    scales = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
    power, prefix = next((power, prefix) for power, prefix in scales if value >= power)
    return f"{value / power:.3g} {prefix}"


def _fields(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def _show_deployment(work: Workload, result: DeploymentPlan, json_output: bool) -> None:
    if json_output:
        report.print_json(
            {
                "model": work.model.name,
                "context": work.context,
                "weights": work.weights,
                "kv": work.kv,
                "total_parameters": work.model.total_parameters,
                "active_parameters": work.model.active_parameters,
                "core_flops_per_token": work.model.core_flops(work.context),
                "linear_flops_per_token": work.model.linear_flops,
                "ffn_flops_per_token": work.model.ffn_flops,
                "kv_bytes_per_sequence": work.sequence_bytes,
                "weight_bytes": work.held.total,
                "intensity": work.intensity,
                "sparsity": work.model.sparsity,
                **_fields(result),
            }
        )
        return
    from rich.console import Console

    layers, console = work.model.layers, Console(highlight=False)
    console.print(
        f"{work.model.name}: {_count(work.model.total_parameters)} text parameters, "
        f"{_count(work.model.active_parameters)} active; "
        f"{_count(work.held.total)}B of {work.weights} weights, "
        f"{_count(work.sequence_bytes)}B of {work.kv} KV for {work.context} tokens\n"
        f"a token: {_count(work.model.core_flops(work.context))}FLOP of attention, "
        f"{_count(work.model.linear_flops)}FLOP of projections, "
        f"{_count(work.model.ffn_flops)}FLOP of FFN\n"
        f"attention: {work.intensity:.0f} FLOPs for a byte of KV; {result.attention_gpu} balances "
        f"at {result.attention_roofline:.0f}\n"
        f"MoE: {work.model.sparsity:.3f} of the experts; {result.ffn_gpu} wants at least "
        f"{result.minimum_sparsity:.3f} for full GEMMs behind its network\n",
        markup=False,
        soft_wrap=True,
    )
    sides = _table("", "cards", "GB each", "ms a stage", "us a layer", "bound by")
    for side, cards, memory, seconds, bound in (
        (
            "attention",
            f"{result.attention_gpus} {result.attention_gpu}",
            f"{result.attention_memory_bytes / 1e9:.1f}",
            result.attention_s,
            result.attention_bound,
        ),
        (
            "FFN",
            f"{result.ffn_gpus} {result.ffn_gpu}",
            f"{result.ffn_memory_bytes / 1e9:.1f}",
            result.ffn_s,
            result.ffn_bound,
        ),
        ("network", "", "", result.wire_s, ""),
        ("budget", "", "", result.stage_budget_s, ""),
    ):
        times = f"{seconds * 1e3:.2f}", f"{seconds / layers * 1e6:.0f}"
        sides.add_row(side, cards, memory, *times, bound)
    console.print(sides)
    usd = result.usd_per_million_tokens
    console.print(
        f"\nmicro-batch {result.micro_batch}, {result.sequences_per_attention_gpu} sequences on an "
        f"attention card: {result.tokens_per_s:,.0f} tokens/s, "
        f"{result.tokens_per_gpu_s:,.0f} for each card"
        + ("" if usd is None else f", {usd:.3f} USD for a million tokens")
        + "\nAt peak rates: at least so many cards, at most so many tokens.",
        soft_wrap=True,
    )


def _show_pool(
    rows: list[CardPlan], card: Accelerator, gpus: int, tokens: int, json_output: bool
) -> None:
    if json_output:
        report.print_json(
            {
                "gpu": card.name,
                "gpus": gpus,
                "memory_bytes": card.memory,
                "kv_tokens": tokens,
                "layouts": [_fields(row) for row in rows],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"{gpus} {card.name} of {card.memory / 1e9:.0f} GB, {tokens:,} tokens of KV; GB on a card\n"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(row.layout, justify="right")
    for part in ("attention", "ffn", "router", "embeddings", "vision", "kv", "left"):
        table.add_row(part, *(f"{getattr(row, part) / 1e9:.2f}" for row in rows))
    table.add_row("KV tokens that fit", *(f"{row.kv_tokens_max:,}" for row in rows))
    table.add_row("", *(row.verdict for row in rows))
    console.print(table)
    console.print()
    for row in rows:
        console.print(f"{row.layout}: {row.means}", markup=False, soft_wrap=True)
    console.print(
        "On paper only: less than 1 GB is left for the CUDA context, workspaces and activations.",
        soft_wrap=True,
    )


def _show_tables(json_output: bool) -> None:
    from shared.plan.tables import all_tables

    results = all_tables()
    if json_output:
        report.print_json(
            {
                "tables": [
                    {
                        "title": table.title,
                        "cells": [
                            _fields(cell) | {"reproduces": cell.reproduces} for cell in table.cells
                        ],
                    }
                    for table in results
                ]
            }
        )
        return
    from rich.console import Console

    console = Console(highlight=False)
    for figures in results:
        console.print(f"\n{figures.title}", markup=False, style="bold")
        console.print(_figure_table(figures))
        for cell in figures.mismatches:
            what = cell.row if len(figures.columns) == 1 else f"{cell.row}, {cell.column}"
            console.print(
                f"≠ {what}: {cell.ours}, printed {cell.published}: {cell.why}",
                markup=False,
                soft_wrap=True,
            )
    printed = [cell for table in results for cell in table.cells if cell.published is not None]
    same = sum(1 for cell in printed if cell.reproduces)
    console.print(
        f"\n{same} of {len(printed)} printed figures reproduce to the last digit. In each cell: "
        "computed, = or ≠, printed.",
        soft_wrap=True,
    )


def _figure_table(figures: FigureTable) -> Any:
    table = _table("", *figures.columns)
    for name in dict.fromkeys(cell.row for cell in figures.cells):
        cells = {cell.column: cell for cell in figures.cells if cell.row == name}
        texts = []
        for column in figures.columns:
            cell = cells.get(column)
            if cell is None or cell.published is None:
                texts.append("" if cell is None else cell.ours)
            else:
                texts.append(f"{cell.ours}{'=' if cell.reproduces else '≠'}{cell.published}")
        table.add_row(name, *texts)
    return table


def _show_pareto(points: list[Point], path: Path, json_output: bool) -> None:
    if json_output:
        report.print_json({"file": str(path), "points": [_fields(point) for point in points]})
        return
    from rich.console import Console

    table = _table("model", "USD / 1M tokens", "active (B)", "on the frontier")
    for point in points:
        frontier = "yes" if point.on_frontier else ""
        table.add_row(point.name, f"{point.usd:.3f}", f"{point.active_b:.1f}", frontier)
    Console(highlight=False).print(table)
    report.say(f"wrote {path}")


def _table(first: str, *numbers: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right")
    return table
