"""The published figures: which reproduce, and that every other one is explained."""

import pytest

from shared.plan import published
from shared.plan.catalog import DEEPSEEK_V3, STEP_3
from shared.plan.cost import best_deployment
from shared.plan.hardware import ACCELERATORS
from shared.plan.roofline import minimum_sparsity
from shared.plan.tables import Table, all_tables, printed


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {table.title: table for table in all_tables()}


def find(tables: dict[str, Table], part: str) -> list[Table]:
    return [table for title, table in tables.items() if part in title]


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (3.624e9, "3.60e9", "3.62e9"),
        (2.806e-19, "2.80e-19", "2.81e-19"),
        (0.0582, "0.058", "0.058"),
        (127.6, "128", "128"),
        (7.17, "7.1", "7.2"),
    ],
)
def test_a_value_takes_the_printed_digits(value: float, like: str, text: str) -> None:
    assert printed(value, like) == text


def test_the_cost_table_reproduces_whole(tables: dict[str, Table]) -> None:
    costs = find(tables, "Table 6")
    assert sum(len(table.cells) for table in costs) == 9 * 12
    assert all(cell.reproduces for table in costs for cell in table.cells)


@pytest.mark.parametrize("part", ["Table 7", "section 5.1", "section 4.2"])
def test_sparsity_intensity_and_best_deployments_reproduce(
    tables: dict[str, Table], part: str
) -> None:
    (table,) = find(tables, part)
    assert [cell for cell in table.cells if cell.published is not None]
    assert not table.mismatches


def test_what_does_not_reproduce_is_known_and_explained(tables: dict[str, Table]) -> None:
    different = [cell for table in tables.values() for cell in table.mismatches]
    assert {(cell.row, cell.column) for cell in different} == {
        ("ERNIE 4.5", "total"),
        ("ERNIE 4.5", "KV"),
        ("Qwen3 32B", "KV"),
        ("MM M1", "core"),
        ("H800", "USD/FLOP"),
        ("L20: MB left for KV", "value"),
        ("L20: thousand tokens of KV", "value"),
        ("L20: sequences of 8K", "value"),
        ("L20: MB of FFN weights a layer", "value"),
        ("L20: GB of FFN weights a card", "value"),
        ("L20: GB of FFN weights a server", "value"),
        ("L4: cards for the FFN", "value"),
        ("8 x 400 Gb/s: tokens of a micro-batch", "value"),
    }
    assert len(different) == 14
    assert all(cell.why for cell in different)


def test_no_explanation_is_left_for_a_figure_that_reproduces(tables: dict[str, Table]) -> None:
    assert not [
        cell for table in tables.values() for cell in table.cells if cell.why and cell.reproduces
    ]


def test_every_published_figure_is_compared(tables: dict[str, Table]) -> None:
    compared = sum(cell.published is not None for table in tables.values() for cell in table.cells)
    figures = [value for name, value in vars(published).items() if name.isupper()]
    assert compared == sum(
        figure is not None for rows in figures for row in rows.values() for figure in row
    )


def test_the_cheapest_cards_are_those_the_report_names() -> None:
    step3, dsv3 = best_deployment(STEP_3, 8192), best_deployment(DEEPSEEK_V3, 8192)
    assert (step3.attention, step3.ffn) == ("H20", "H800")
    assert (dsv3.attention, dsv3.ffn) == ("H800", "H800")


def test_a_slower_network_or_shorter_time_needs_a_denser_moe() -> None:
    h800 = ACCELERATORS["H800"]
    base = minimum_sparsity(7168, 61, h800, 0.05)
    assert minimum_sparsity(7168, 61, h800, 0.025) == pytest.approx(2 * base)
    assert minimum_sparsity(7168, 61, h800, 0.05, network=200e9) == pytest.approx(2 * base)
