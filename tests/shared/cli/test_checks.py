"""`./step3 test` on a tiny project."""

from pathlib import Path

import pytest

from shared.cli import checks

PASSES = ("good tool", ("python", "-c", "print('fine')"))
FAILS = ("bad tool", ("python", "-c", "import sys; print('line 3 is wrong'); sys.exit(1)"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: s\n    browser: b\n")
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\ndef test_good(): pass\n\n@pytest.mark.slow\ndef test_slow(): assert 0\n"
    )
    monkeypatch.setattr(checks, "REPOSITORY", tmp_path)
    monkeypatch.setattr(checks, "_STATIC", (PASSES,))
    return tmp_path


def test_all_steps_are_shown_and_pytest_closes(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert checks.run_checks(["-k", "good"], fast=False)
    lines = capfd.readouterr().out.splitlines()
    assert lines[-3].startswith("passed  good tool (")
    assert lines[-2].startswith("passed  pytest (")
    assert "1 passed" in lines[-1]
    assert "1 deselected" in lines[-1]


def test_failed_static_step_fails_and_shows_its_output(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_STATIC", (FAILS, PASSES))
    assert not checks.run_checks(["-k", "good"], fast=False)
    output = capfd.readouterr().out
    assert "line 3 is wrong" in output
    assert [line.split(" (")[0] for line in output.splitlines()[-4:-1]] == [
        "FAILED  bad tool",
        "passed  good tool",
        "passed  pytest",
    ]


def test_failed_test_fails(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not checks.run_checks([], fast=False)
    assert "1 failed, 1 passed" in capfd.readouterr().out.splitlines()[-1]


def test_fast_leaves_out_static_checks_and_slow_tests(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_STATIC", (FAILS,))
    assert checks.run_checks([], fast=True)
    assert "bad tool" not in capfd.readouterr().out


def test_nothing_collected_is_a_failure(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not checks.run_checks(["-k", "no_such_test"], fast=False)
