"""The release's and the report's tables, computed and set beside the printed figures.

A cell reproduces when the computed value, rounded to the printed digits, is the printed text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.plan import published
from shared.plan.catalog import DEEPSEEK_V3, MODELS, STEP_3
from shared.plan.cost import attention_cost, best_deployment, ffn_cost
from shared.plan.hardware import ACCELERATORS, GPUS_PER_INSTANCE, PRICED, Accelerator
from shared.plan.models import DecodeModel
from shared.plan.published import Rows
from shared.plan.roofline import PIPELINE_STAGES, intensity, minimum_sparsity, wire_batch_limit

K8, K32 = 8192, 32768
_TPOT_S = 0.050
# The report's text computes with 16.6 ms, not with 50 / 3.
_STAGE_S = 0.0166

_BY_NAME: Mapping[str, DecodeModel] = {model.name: model for model in MODELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure. `ours` has the printed digits; `why` says what a mismatch comes from."""

    row: str
    column: str
    value: float
    ours: str
    published: str | None
    why: str | None

    @property
    def reproduces(self) -> bool | None:
        """None where nothing was printed."""
        return None if self.published is None else self.ours == self.published


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def mismatches(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.reproduces is False)


def printed(value: float, like: str) -> str:
    """`value` with as many digits as `like` shows, in the same notation."""
    mantissa, e, _ = like.partition("e")
    digits = len(mantissa.partition(".")[2])
    if not e:
        return f"{value:.{digits}f}"
    number, _, power = f"{value:.{digits}e}".partition("e")
    return f"{number}e{int(power)}"


def all_tables() -> tuple[Table, ...]:
    """Every table, the release's first."""
    return (
        release_attention(),
        load(K8, published.REPORT_LOAD_8K),
        load(K32, published.REPORT_LOAD_32K),
        hardware(),
        *costs(),
        best(),
        sparsity(),
        intensities(),
        text_figures(),
    )


def release_attention() -> Table:
    """Parameters and attention at 32768 tokens, as the release compares them."""
    return _table(
        "Release: parameters (B), and attention at 32K (KV in elements)",
        ("total", "active", "KV", "core FLOPs", "intensity"),
        {
            name: (
                _BY_NAME[name].total_parameters / 1e9,
                _BY_NAME[name].active_parameters / 1e9,
                _BY_NAME[name].kv_elements(K32),
                _BY_NAME[name].core_flops(K32),
                intensity(_BY_NAME[name], K32),
            )
            for name in published.RELEASE_ATTENTION
        },
        published.RELEASE_ATTENTION,
        {
            ("ERNIE 4.5", "total"): "299.48: rounds to 299; the vendor calls it 300B",
            ("ERNIE 4.5", "KV"): "54 x 2 x 8 x 128 x 32768 is 3.62e9, as the report's Table 3 has",
            ("Qwen3 32B", "KV"): "4.295e9, rounded twice; the report's Table 3 has 4.29e9",
        },
    )


def load(context: int, figures: Rows) -> Table:
    """Report, Tables 2 and 3."""
    return _table(
        f"Report, Tables 2 and 3: one token decoded at {context // 1024}K (KV in bytes; FLOPs)",
        ("KV", "core", "linear", "FFN"),
        {
            model.name: (
                model.kv_bytes(context),
                model.core_flops(context),
                model.linear_flops,
                model.ffn_flops,
            )
            for model in MODELS
        },
        figures,
        {
            ("MM M1", "core"): "a recurrent state costs 5 FLOPs an element (decay, outer product, "
            "add, query); the printed figure needs 10. No cost changes: reading the KV costs more"
        },
    )


def hardware() -> Table:
    """Report, Tables 4 and 5."""
    return _table(
        "Report, Tables 4 and 5: accelerators",
        ("roofline", "USD/FLOP", "USD/byte"),
        {
            name: (
                ACCELERATORS[name].roofline,
                ACCELERATORS[name].usd_per_flop,
                ACCELERATORS[name].usd_per_byte,
            )
            for name in PRICED
        },
        published.REPORT_HARDWARE,
        {("H800", "USD/FLOP"): "2 / 3600 / 1.98e15 is 2.806e-19: printed cut off, not rounded"},
    )


def costs() -> tuple[Table, ...]:
    """Report, Table 6."""
    cards = [ACCELERATORS[name] for name in PRICED]

    def one(part: str, cost: Callable[[DecodeModel, Accelerator], float], rows: Rows) -> Table:
        values = {model.name: tuple(cost(model, gpu) for gpu in cards) for model in MODELS}
        return _table(
            f"Report, Table 6: USD for a million tokens, {part}", PRICED, values, rows, {}
        )

    return (
        one(
            "attention at 8K",
            lambda model, gpu: attention_cost(model, K8, gpu),
            published.REPORT_ATTENTION_COST_8K,
        ),
        one(
            "attention at 32K",
            lambda model, gpu: attention_cost(model, K32, gpu),
            published.REPORT_ATTENTION_COST_32K,
        ),
        one("FFN", ffn_cost, published.REPORT_FFN_COST),
    )


def best() -> Table:
    """Report, section 4.2, observation 1."""
    return _table(
        "Report, section 4.2: USD for a million tokens, the cheapest card for each side",
        ("8K", "32K"),
        {
            name: tuple(best_deployment(_BY_NAME[name], context).usd for context in (K8, K32))
            for name in published.REPORT_BEST
        },
        published.REPORT_BEST,
        {},
    )


def sparsity() -> Table:
    """Report, Table 7, at Step-3's width and depth."""
    return _table(
        "Report, Table 7: minimum MoE sparsity (H = 7168, L = 61, 50 ms)",
        ("NICs at their rate", "40 GB/s a NIC"),
        {
            name: (
                _minimum_sparsity(name),
                _minimum_sparsity(name, GPUS_PER_INSTANCE * 40e9) if name == "H800" else math.nan,
            )
            for name in PRICED
        },
        published.REPORT_SPARSITY,
        {},
    )


def intensities() -> Table:
    """Report, section 5.1."""
    return _table(
        "Report, section 5.1: attention",
        ("intensity", "effective rank"),
        {
            name: (
                intensity(_BY_NAME[name], K8),
                max(kind.effective_rank for kind in _BY_NAME[name].attention),
            )
            for name in published.REPORT_INTENSITY
        },
        published.REPORT_INTENSITY,
        {},
    )


def text_figures() -> Table:
    """Single figures of the report's sections 5.4, 6 and 7.3."""
    layers, hidden = STEP_3.layers, STEP_3.hidden
    layer_s = _STAGE_S / layers
    l20, l4 = ACCELERATORS["L20"], ACCELERATORS["L4"]
    # One byte a weight; o_proj is on one card of eight.
    mfa = STEP_3.attention[0]
    output = mfa.effective_rank * hidden
    attention_bytes = mfa.weights - output + output / GPUS_PER_INSTANCE
    kv_bytes = l20.bandwidth * layer_s - attention_bytes
    # Half of the bandwidth: the report's picture of a compute-bound FFN.
    l20_ffn, l4_ffn = (gpu.bandwidth / 2 * _STAGE_S for gpu in (l20, l4))
    kv_tokens = kv_bytes / mfa.kv_elements
    dsv3 = next(kind for kind in DEEPSEEK_V3.ffn if kind.experts)
    wanted = _minimum_sparsity("H800") * (dsv3.experts + dsv3.shared_experts)
    wire_batch = wire_batch_limit(
        hidden, layers, GPUS_PER_INSTANCE * 50e9, PIPELINE_STAGES * _STAGE_S
    )
    values = (
        layer_s * 1e6,
        STEP_3.sparsity,
        wanted - dsv3.shared_experts,
        l20.bandwidth * layer_s / 1e6,
        attention_bytes / 1e6,
        kv_bytes / 1e6,
        kv_tokens / 1e3,
        math.floor(kv_tokens / K8),
        l20_ffn / layers / 1e6,
        l20_ffn / 1e9,
        GPUS_PER_INSTANCE * l20_ffn / 1e9,
        _whole_servers(STEP_3.ffn_weights / l20_ffn),
        _whole_servers(STEP_3.ffn_weights / l4_ffn),
        wire_batch,
    )
    names = tuple(published.REPORT_TEXT)
    cut = "the report cuts 117.6 off to 117 and goes on with that"
    whys = {
        "L20: MB left for KV": "the report subtracts the rounded 67 from 235",
        "L20: thousand tokens of KV": "follows from the rounded 168 MB",
        "L20: sequences of 8K": "the report divides by 8000; 8K is 8192 in its tables",
        "L20: MB of FFN weights a layer": cut,
        "L20: GB of FFN weights a card": cut,
        "L20: GB of FFN weights a server": cut,
        "L4: cards for the FFN": "the report triples 48; 300 GB/s is 0.347 of 864 GB/s, not 1/3",
        "8 x 400 Gb/s: tokens of a micro-batch": (
            "section 5.4's 3 H B L / Net <= 16.6 ms lets so many into one FFN instance, and "
            f"{wire_batch * 3 / 4:.0f} out of the 3 attention instances of 3A4F: neither is 3072"
        ),
    }
    return _table(
        "Report, sections 5.4, 6 and 7.3: single figures",
        ("value",),
        {name: (value,) for name, value in zip(names, values, strict=True)},
        published.REPORT_TEXT,
        {(name, "value"): why for name, why in whys.items()},
    )


def _minimum_sparsity(gpu: str, network: float | None = None) -> float:
    return minimum_sparsity(STEP_3.hidden, STEP_3.layers, ACCELERATORS[gpu], _TPOT_S, network)


def _whole_servers(cards: float) -> int:
    return GPUS_PER_INSTANCE * math.ceil(cards / GPUS_PER_INSTANCE)


def _table(
    title: str,
    columns: tuple[str, ...],
    values: Mapping[str, Sequence[float]],
    figures: Rows,
    whys: Mapping[tuple[str, str], str],
) -> Table:
    cells = [
        Cell(
            row=row,
            column=column,
            value=value,
            ours=printed(value, figure or "0.00"),
            published=figure,
            why=whys.get((row, column)),
        )
        for row, numbers in values.items()
        for column, value, figure in zip(columns, numbers, figures[row], strict=True)
        if not math.isnan(value)
    ]
    return Table(title=title, columns=columns, cells=tuple(cells))
