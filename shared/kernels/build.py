"""Compile the C++ kernels for this processor, once.

The library has a plain C interface, so neither torch's nor Python's headers are needed and the
build takes seconds. It lies in the environment, beside the installed packages, under a name made
of everything that went into it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = ("attention.cpp", "ffn.cpp", "head.cpp", "pool.cpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-pthread",
)
_FOLDER = Path(__file__).resolve().parent / "native"
_BUILD_DEADLINE_S = 180


class BuildError(RuntimeError):
    """The kernels cannot be built here; the text is one sentence."""


def library_path() -> Path:
    """Where the library of these sources, flags and this processor belongs."""
    digest = hashlib.sha256()
    for source in sorted(_FOLDER.glob("*.cpp")) + sorted(_FOLDER.glob("*.h")):
        digest.update(source.read_bytes())
    digest.update(repr((FLAGS, platform.machine(), _cpu_flags())).encode())
    return Path(sys.prefix) / "lib" / "step3" / f"kernels-{digest.hexdigest()[:16]}.so"


def ensure_built() -> Path:
    """The library's path; compiled first if it is not there.

    Raises:
      BuildError: no compiler, a compiler error, or the environment is not writable.
    """
    path = library_path()
    if path.exists():
        return path
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise BuildError("no C++ compiler was found: install g++ for the fast CPU kernels")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
        os.close(handle)
    except OSError as error:
        raise BuildError(f"{path.parent} is not writable: {error.strerror}") from None
    try:
        result = subprocess.run(
            [compiler, *FLAGS, *(str(_FOLDER / source) for source in SOURCES), "-o", temporary],
            capture_output=True,
            text=True,
            timeout=_BUILD_DEADLINE_S,
            check=False,
        )
        if result.returncode != 0:
            first = next((ln for ln in result.stderr.splitlines() if "error" in ln), "no message")
            raise BuildError(f"{compiler} failed on the CPU kernels: {first.strip()}")
        # Several processes may build at once: the last rename wins, and all files are equal.
        os.replace(temporary, path)
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"{compiler} took more than {_BUILD_DEADLINE_S} s on the CPU kernels"
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _cpu_flags() -> str:
    """What -march=native depends on."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()
