import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from shared.model.presets import NANO, STEP3, TINY
from shared.model.tiling import (
    ImageTokenIds,
    expand_prompt,
    max_side,
    num_image_tokens,
    tile,
)

TOKENS = ImageTokenIds(500, 501, 502, 503, 504, 506)


def test_sizes_of_an_independent_implementation(tiny_dir):
    cases = json.loads((tiny_dir / "image-tiling.json").read_text())
    assert len(cases) > 20
    for case in cases:
        width, height = case["w"], case["h"]
        tiling = tile(STEP3.vision, width, height)
        assert list(tiling.size) == case["thumb"], case
        assert tiling.num_crops == case["num_crops"], case
        assert [[tiling.window] * 2] * bool(tiling.num_crops) == case["crop_sizes"], case
        newlines = [i for i, newline in enumerate(tiling.newline_after) if newline]
        assert newlines == case["newline_after"], case
        assert num_image_tokens(STEP3, width, height) == case["num_image_tokens"], case


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (640, 480, 171),
        (200, 120, 337),
        (32, 200, 758),
        (728, 728, 504),
        (1080, 1920, 838),
        (3024, 3024, 3164),
    ],
)
def test_token_counts(width, height, tokens):
    assert num_image_tokens(STEP3, width, height) == tokens


def test_sizes_scale_with_the_configuration():
    small = replace(STEP3, vision=replace(STEP3.vision, image_size=168, crop_size=112))
    assert (max_side(STEP3.vision), max_side(small.vision)) == (3024, 672)
    assert max_side(NANO.vision) % NANO.vision.crop_size == 0
    # Below 168 pixels and not elongated: the thumbnail alone, 9 tokens and 2 markers.
    assert num_image_tokens(small, 160, 120) == 11
    assert tile(small.vision, 168, 168).num_crops == 4
    assert tile(small.vision, 4000, 4000).crop_canvas == (672, 672)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (33, 200_000), (50_000, 1)])
def test_extreme_sizes_keep_at_least_a_pixel(size):
    tiling = tile(STEP3.vision, *size)
    assert min(tiling.size) >= 1
    assert max(tiling.size) <= 3024


def test_expansion_puts_crops_first_and_keeps_order():
    config = replace(TINY, vision=replace(TINY.vision, image_size=84, crop_size=28))
    assert (config.image_token_len, config.patch_token_len) == (4, 1)
    crop = [503, 501, 504]
    thumbnail = [500, 501, 501, 501, 501, 502]
    got = expand_prompt([7, 501, 8, 501], [(False, True, False), ()], config, TOKENS)
    assert got == [7, *crop, *crop, 506, *crop, *thumbnail, 8, *thumbnail]
    assert expand_prompt([7, 8], [], config, TOKENS) == [7, 8]
    with pytest.raises(ValueError, match="has 1 <im_patch> tokens for 2 images"):
        expand_prompt([501], [(), ()], config, TOKENS)


def test_token_ids_come_from_the_tokenizer(tiny_dir, tmp_path):
    assert ImageTokenIds.from_dir(tiny_dir) == TOKENS
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        ImageTokenIds.from_dir(tmp_path)
    with pytest.raises(ValueError, match="has no token <im_start>"):
        ImageTokenIds.from_tokenizer(Tokenizer(BPE()))
