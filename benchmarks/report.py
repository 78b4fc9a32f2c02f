"""What every benchmark prints: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from shared.settings import REPOSITORY


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median of `n` measurements and the distance from least to most."""

    name: str
    value: float
    unit: str
    n: int
    spread: float

    @classmethod
    def of(cls, name: str, values: list[float], unit: str) -> Row:
        return cls(name, median(values), unit, len(values), max(values) - min(values))


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure that was promised: the value of this run against what it is to reach."""

    id: str
    value: float
    unit: str
    reach: float
    met: bool

    @classmethod
    def at_least(cls, name: str, value: float, reach: float, unit: str) -> Claim:
        return cls(name, value, unit, reach, value >= reach)


@dataclass(slots=True)
class Report:
    bench: str
    rows: list[Row] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def show(self) -> None:
        """Print the table."""
        table = Table(title=f"{self.bench} on {machine()}", title_justify="left")
        for heading in ("", "median", "unit", "n", "spread"):
            table.add_column(heading, justify="left" if heading in ("", "unit") else "right")
        for row in self.rows:
            table.add_row(row.name, _short(row.value), row.unit, str(row.n), _short(row.spread))
        console = Console()
        console.print(table)
        for claim in self.claims:
            verdict = "met" if claim.met else "NOT MET"
            console.print(
                f"{claim.id}: {_short(claim.value)} {claim.unit}, "
                f"to reach {_short(claim.reach)}: {verdict}"
            )

    def write(self, path: Path) -> None:
        """Write the JSON form, whole or not at all."""
        value = {
            "bench": self.bench,
            "machine": machine(),
            "commit": commit(),
            "rows": [asdict(row) for row in self.rows],
            "claims": [asdict(claim) for claim in self.claims],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def machine() -> str:
    """Processor and number of cores."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def commit() -> str:
    """The checkout's commit, marked when files differ from it; "unknown" outside a checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return result.stdout.strip() or "unknown"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
