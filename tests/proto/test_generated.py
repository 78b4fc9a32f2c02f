"""The stubs in the repository are what the protos give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parents[2] / "proto"


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROTO / "generate.py", tmp_path], check=True, timeout=60)
    fresh = {path.name: path.read_text() for path in (tmp_path / "step3" / "v1").iterdir()}
    kept = {
        path.name: path.read_text()
        for path in (PROTO / "step3" / "v1").iterdir()
        if path.suffix in {".py", ".pyi"} and path.name != "__init__.py"
    }
    assert fresh.keys() == kept.keys()
    assert [name for name in fresh if fresh[name] != kept[name]] == []
