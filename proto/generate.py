"""Make the Python stubs of proto/step3/v1 anew: .venv/bin/python proto/generate.py [OUT]."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Write messages, services and their types below `out`.

    Raises:
      SystemExit: protoc refused; its own message is on stderr.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *sorted(str(path) for path in (ROOT / "step3" / "v1").glob("*.proto")),
    ]
    if status := protoc.main(arguments):
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
