"""The `plan` command as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shared.cli.app import app
from shared.cli.report import MISUSE


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def plan_json(*arguments: str) -> dict[str, Any]:
    result = plan(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_help_needs_no_torch() -> None:
    code = "import sys, shared.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_deployment_for_people_and_for_programs() -> None:
    arguments = ("--context", "8192", "--gpu", "H20", "--ffn-gpu", "h800", "--tpot", "50")
    result = plan_json(*arguments)
    assert (result["attention_gpu"], result["ffn_gpu"]) == ("H20", "H800")
    assert result["kv_bytes_per_sequence"] == 61 * 512 * 8192
    text = plan(*arguments).stdout
    assert f"{result['attention_gpus']} H20" in text
    assert f"{result['ffn_gpus']} H800" in text
    assert f"{result['usd_per_million_tokens']:.3f} USD" in text


def test_the_other_side_takes_the_same_kind_by_default() -> None:
    assert plan_json("--gpu", "L20")["ffn_gpu"] == "L20"


def test_the_memory_of_a_pool() -> None:
    arguments = (
        *("--model", "step3", "--gpu", "L40S", "--gpus", "8"),
        *("--weights", "int8", "--kv", "bf16", "--kv-tokens", "800000"),
    )
    layouts = {row["layout"]: row for row in plan_json(*arguments)["layouts"]}
    assert layouts["all split"]["verdict"] == "fits on paper only"
    assert layouts["tensor parallel"]["verdict"] == "does not fit"
    text = plan(*arguments).stdout
    assert f"{layouts['all split']['kv_tokens_max']:,}" in text
    assert "800,000 tokens of KV" in text


def test_a_checkpoint_folder_is_a_model(tmp_path: Path) -> None:
    from shared.model.presets import TINY

    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    result = plan_json("--model", str(tmp_path))
    assert result["context"] == 2048  # the model has no more positions
    assert result["total_parameters"] == plan_json("--model", "tiny")["total_parameters"]


def test_the_tables_show_both_figures_and_say_why() -> None:
    text = plan("--tables").stdout
    assert "1.02e9=1.02e9" in text
    assert "3.62e9≠3.60e9" in text
    assert "233 of 247 printed figures reproduce" in text
    tables = plan_json("--tables")["tables"]
    cells = [cell for table in tables for cell in table["cells"]]
    assert sum(cell["reproduces"] is False for cell in cells) == 14
    assert all(cell["why"] for cell in cells if cell["reproduces"] is False)


def test_the_plot(tmp_path: Path) -> None:
    path = tmp_path / "pareto.svg"
    result = plan_json("--pareto", str(path), "--context", "32768")
    assert path.read_text().startswith("<svg")
    assert result["points"][0]["name"] == "Step-3"


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--gpu", "V100"), "gpu", "V100"),
        (("--ffn-gpu", "V100"), "ffn-gpu", "V100"),
        (("--model", "step4"), "model", "step4"),
        (("--context", "0"), "context", "0"),
        (("--model", "nano", "--context", "4096"), "context", "4096"),
        (("--tpot", "0"), "tpot", "0"),
        (("--gpus", "0"), "gpus", "0"),
        (("--gpus", "8", "--kv-tokens", "-1"), "kv-tokens", "-1"),
        (("--kv-tokens", "5"), "kv-tokens", "5"),
        (("--gpus", "8", "--ffn-gpu", "H800"), "ffn-gpu", "H800"),
        (("--pareto", "plot.png"), "pareto", "plot.png"),
    ],
)
def test_a_wrong_value_is_named(arguments: tuple[str, ...], field: str, value: str) -> None:
    result = plan(*arguments, "--json")
    assert result.exit_code == MISUSE
    error = json.loads(result.stdout)["error"]
    assert error["field"] == field
    assert value in error["message"] and field in error["message"]


@pytest.mark.parametrize(("option", "value"), [("--kv", "int4"), ("--weights", "fp4")])
def test_a_value_of_the_wrong_kind_is_named(option: str, value: str) -> None:
    result = plan(option, value)
    assert result.exit_code == MISUSE
    assert option in result.output and value in result.output


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    result = plan("--model", str(tmp_path))
    assert result.exit_code == MISUSE
    assert "model = " in result.output and "config.json" in result.output
