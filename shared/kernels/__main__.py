"""Build the CPU kernels now, not at the first start: python -m shared.kernels."""

from __future__ import annotations

import sys

from shared.kernels.build import BuildError, ensure_built

if __name__ == "__main__":
    try:
        sys.stdout.write(f"CPU kernels: {ensure_built()}\n")
    except BuildError as failure:
        sys.exit(f"error: {failure}")
