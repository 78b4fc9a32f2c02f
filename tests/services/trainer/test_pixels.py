"""The training loader's pixels beside those of serving."""

import pytest
import torch
from PIL import Image

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.pixels import normalize, preprocess_bytes
from shared.model.images import MEAN, STD, preprocess

STD_311 = torch.tensor(STD).view(3, 1, 1)
MEAN_311 = torch.tensor(MEAN).view(3, 1, 1)


def grey_levels(pixels):
    return (pixels * STD_311 + MEAN_311) * 255


def compare(image, vision):
    exact, fast = preprocess(image, vision), preprocess_bytes(image, vision)
    assert fast.newline_after == exact.newline_after
    for a, b in ((exact.thumbnail_13SS, fast.thumbnail_13SS), (exact.crops_P3ZZ, fast.crops_P3ZZ)):
        assert b.dtype == torch.uint8
        assert a.shape == b.shape
        if len(a):
            assert (grey_levels(normalize(b)) - grey_levels(a)).abs().max() <= 2


@pytest.mark.parametrize("name", ["shapes-count", "number", "chart", "unknown-image"])
def test_bytes_are_within_two_grey_levels(config, name):
    for index in range(6):
        compare(source(name)(generator("p", index), "train").turns[0].images[0], config.vision)


@pytest.mark.parametrize(
    "size", [(1, 1), (200, 20), (20, 200), (90, 60), (100, 112), (500, 130), (300, 300), (640, 470)]
)
def test_every_way_of_cutting(config, size):
    noise = torch.randint(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BILINEAR)
    compare(image, config.vision)


def test_normalize_is_that_of_serving():
    bytes_13SS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    assert grey_levels(normalize(bytes_13SS)).round().equal(bytes_13SS.float())
