from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from shared.model.checkpoint import load_model
from shared.model.step3 import Step3ForConditionalGeneration

TINY_DIR = Path(__file__).parents[2] / "data" / "step3-tiny"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    return TINY_DIR


@pytest.fixture(scope="session")
def vectors() -> dict[str, Tensor]:
    return load_file(TINY_DIR / "vectors.safetensors")


@pytest.fixture(scope="session")
def tiny() -> Step3ForConditionalGeneration:
    """The vectors' model; shared, so no test may change it."""
    return load_model(TINY_DIR)


@pytest.fixture(scope="session")
def formula_image():
    """An RGB image of the vectors' formula."""

    def make(width: int, height: int) -> Image.Image:
        y, x = np.mgrid[0:height, 0:width]
        channels = [(3 * x + 5 * y + 40 * c + x * y // 64) % 256 for c in range(3)]
        return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))

    return make
