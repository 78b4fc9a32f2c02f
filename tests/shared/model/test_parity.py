"""The whole model against the vectors of an independent implementation."""

import pytest
import torch

from shared.model.generate import generate
from shared.model.images import preprocess
from shared.model.tiling import ImageTokenIds, expand_prompt

TOLERANCE = 2e-4
IMAGES = {"B": (200, 120), "C": (96, 80), "D": (800, 760)}


def assert_near(got, want):
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


def record_outputs(model, names, run):
    """Outputs of the named submodules while `run()` runs."""
    outputs = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.inference_mode():
        run()
    for hook in hooks:
        hook.remove()
    return outputs


def test_text_prefill_and_cached_decode(tiny, vectors):
    steps = list(generate(tiny, vectors["A.input_ids"].tolist(), max_new_tokens=9))
    assert [step.token_id for step in steps] == vectors["A.generated_ids"].tolist()
    assert_near(steps[0].logits_TV, vectors["A.prefill_logits"])
    assert_near(torch.cat([step.logits_TV for step in steps[1:]]), vectors["A.decode_logits"])


def test_every_part_of_every_text_layer(tiny, vectors):
    parts = {
        "inter_norm": "self_attn.inter_norm",
        "self_attn": "self_attn",
        "mlp": "mlp",
        "share_expert": "share_expert",
        "router_logits": "moe.gate",
        "out": "",
    }
    wanted = {}
    for key in vectors:
        if key.startswith("A.layers."):
            _, _, layer, part = key.split(".")
            if part in parts:
                wanted[key] = f"model.layers.{layer}.{parts[part]}".rstrip(".")
    assert len(wanted) == 6 * 3 + 3 + 3 * 2
    names = [*wanted.values(), *(f"model.layers.{layer}.moe" for layer in (2, 3, 4)), "model.norm"]
    outputs = record_outputs(tiny, names, lambda: tiny(vectors["A.input_ids"]))
    for key, name in wanted.items():
        got = outputs[name]
        assert_near(got.reshape(-1, got.shape[-1]), vectors[key])
    assert_near(outputs["model.norm"][0], vectors["A.final_hidden"])
    for layer in (2, 3, 4):
        assert_near(outputs[f"model.layers.{layer}.moe"][0], vectors[f"A.layers.{layer}.moe"])


@pytest.mark.parametrize("case", IMAGES)
def test_image_prompt(tiny, vectors, tiny_dir, formula_image, case):
    inputs = preprocess(formula_image(*IMAGES[case]), tiny.config.vision)
    torch.testing.assert_close(
        inputs.thumbnail_13SS[..., ::26, ::26],
        vectors[f"{case}.pixel_values_every26"],
        atol=1e-5,
        rtol=0,
    )
    mean_std = torch.stack((inputs.thumbnail_13SS.mean((2, 3)), inputs.thumbnail_13SS.std((2, 3))))
    torch.testing.assert_close(
        mean_std, vectors[f"{case}.pixel_values_mean_std"], atol=1e-5, rtol=0
    )
    with torch.inference_mode():
        thumbnail = tiny.encode_images(inputs.thumbnail_13SS)
        crops = tiny.encode_images(inputs.crops_P3ZZ)
    wanted = vectors[f"{case}.projector.0"]
    assert_near(thumbnail[..., : wanted.shape[-1]], wanted)
    if f"{case}.projector.1" in vectors:
        torch.testing.assert_close(
            inputs.crops_P3ZZ[..., ::18, ::18],
            vectors[f"{case}.crop_pixel_values_every18"],
            atol=1e-5,
            rtol=0,
        )
        wanted = vectors[f"{case}.projector.1"]
        assert_near(crops[..., : wanted.shape[-1]], wanted)
    else:
        assert inputs.crops_P3ZZ.shape[0] == 0

    ids = expand_prompt(
        vectors[f"{case}.prompt_ids"].tolist(),
        [inputs.newline_after],
        tiny.config,
        ImageTokenIds.from_dir(tiny_dir),
    )
    assert ids == vectors[f"{case}.expanded_ids"].tolist()

    features = torch.cat((crops.flatten(0, 1), thumbnail.flatten(0, 1)))
    steps = list(generate(tiny, ids, features, max_new_tokens=4))
    assert [step.token_id for step in steps] == vectors[f"{case}.generated_ids"].tolist()
    last = torch.stack([step.logits_TV[-1] for step in steps])
    assert_near(last, vectors[f"{case}.last_logits"])
    if case == "B":
        assert_near(steps[0].logits_TV[::8], vectors["B.prefill_logits_every8"])
        outputs = record_outputs(tiny, ["model.norm"], lambda: tiny(torch.tensor(ids), features))
        assert_near(outputs["model.norm"][0], vectors["B.final_hidden"])


def test_inside_the_image_encoder(tiny, vectors, formula_image):
    thumbnail = preprocess(formula_image(96, 80), tiny.config.vision).thumbnail_13SS
    layers = "vision_model.transformer.layers"
    names = [
        "vision_model.embeddings",
        f"{layers}.0",
        f"{layers}.1",
        "vit_downsampler",
        "vit_downsampler2",
    ]
    got = record_outputs(tiny, names, lambda: tiny.encode_images(thumbnail))
    assert_near(got[names[0]][:, :8], vectors["C.vision_embeddings_first8"])
    assert_near(got[names[1]][:, :40], vectors["C.vision_layer0_first40"])
    assert_near(got[names[2]][:, :40], vectors["C.vision_layer1_first40"])
    assert_near(got["vit_downsampler"].mean((2, 3)), vectors["C.down1_mean_hw"])
    assert_near(got["vit_downsampler2"], vectors["C.down2"])


def test_crop_positions_are_resized(tiny, vectors, formula_image):
    crops = preprocess(formula_image(200, 120), tiny.config.vision).crops_P3ZZ
    with torch.inference_mode():
        embeddings = tiny.vision_model.embeddings(crops)
    assert_near(embeddings[:, :8], vectors["B.crop_embeddings_first8"])
