import pytest
import torch

from shared.model.config import ConfigError, Step3Config
from shared.model.init import initialize
from shared.model.presets import NANO, PRESETS, TINY, parameter_counts, preset
from shared.model.step3 import Step3ForConditionalGeneration


def test_step3_has_the_published_parameter_counts():
    counts = parameter_counts(preset("step3"))
    assert counts.text == 316_294_538_240
    assert counts.vision == 4_675_374_592
    assert counts.total == 320_969_912_832
    assert round(counts.active / 1e9, 2) == 37.92


def test_slice_holds_three_experts_of_110_million():
    step3, part = (parameter_counts(preset(name)) for name in ("step3", "step3-slice"))
    per_layer = 45 * 110_100_480 + 45 * 7168
    assert step3.text - part.text == 56 * per_layer


def test_tiny_is_the_vectors_config(tiny_dir):
    tiny = Step3Config.from_dir(tiny_dir)
    assert (tiny.text, tiny.vision) == (TINY.text, TINY.vision)


def test_nano_has_every_feature_and_trains_on_two_cores():
    text, vision = NANO.text, NANO.vision
    assert text.head_dim != text.hidden_size // text.num_attention_heads
    assert text.share_q_dim < text.num_attention_heads * text.head_dim
    assert text.num_hidden_layers - 1 not in text.moe_layers
    assert vision.crop_size != vision.image_size
    assert parameter_counts(NANO).total < 20e6


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_its_file_form(name):
    config = preset(name)
    again = Step3Config.from_dict(config.to_dict())
    assert (again.text, again.vision) == (config.text, config.vision)
    assert again.torch_dtype == config.torch_dtype


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset 'huge': must be one of step3, step3-slice"):
        preset("huge")


def test_projector_stride_other_than_two_is_refused():
    with pytest.raises(ConfigError, match="understand_projector_stride = 1"):
        Step3Config.from_dict(TINY.to_dict() | {"understand_projector_stride": 1})


def initialized(seed):
    model = Step3ForConditionalGeneration(TINY)
    initialize(model, seed)
    return model


def test_initialisation_is_seeded_and_sane():
    model, same, other = initialized(1), initialized(1), initialized(2)
    for (name, a), b in zip(model.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    down = model.model.layers[2].moe.down_proj.weight
    assert down.std().item() == pytest.approx(0.02 / 12**0.5, rel=0.1)
    assert model.model.norm.weight.eq(1).all()
    assert model.vision_model.transformer.layers[0].layer_norm1.weight.eq(1).all()
    assert model.vit_downsampler.bias.eq(0).all()


def test_a_few_training_steps_lower_the_loss():
    model = initialized(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pixels = torch.randn(1, 3, 504, 504, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[*range(20), *[TINY.image_token_id] * 81, *range(40, 60)]])
    losses = []
    for _ in range(12):
        logits = model(ids, model.encode_images(pixels).flatten(0, 1))
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Stacked experts: an idle one has a zero gradient, so none is missing.
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.7 * losses[0]
