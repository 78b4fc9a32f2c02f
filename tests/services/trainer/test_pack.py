import pytest
import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.example import Example
from services.trainer.mixture import Batches
from services.trainer.pack import IGNORED, pack, padded
from services.trainer.pixels import normalize
from services.trainer.step import learned_logits


def _examples(lengths):
    return iter([Example([10 * n + i for i in range(n)], [True] * n, []) for n in lengths])


def test_documents_go_to_the_first_row_with_room():
    batch = pack(_examples([5, 4, 3, 4, 9]), 2, 8, crop_tokens=9, thumbnail_tokens=16)
    assert batch.documents_RL.tolist() == [[0] * 5 + [1] * 3, [2] * 4 + [3] * 4]
    assert batch.positions_RL[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.documents == 4


def test_targets_never_cross_a_document():
    batch = pack(_examples([3, 2]), 1, 6, crop_tokens=9, thumbnail_tokens=16)
    i = IGNORED
    assert batch.targets_RL.tolist() == [[31, 32, i, 21, i, i]]
    assert batch.documents_RL[0].tolist() == [0, 0, 0, 1, 1, 2]


def test_packed_logits_equal_each_document_alone(tokenizer, config, recipe, model, sizes):
    batches = Batches(recipe, "chat", tokenizer, config)
    names = ["number", "arithmetic", "shapes-count"]
    examples = [
        batches.renderer.chat(source(name)(generator("eq", i), "train"))
        for i, name in enumerate(names)
    ]
    long = max(len(example.ids) for example in examples)
    together = pack(iter(examples), 1, sum(len(e.ids) for e in examples), **sizes)
    with torch.no_grad():
        packed, targets = learned_logits(model, together)
        alone = [learned_logits(model, pack(iter([e]), 1, long, **sizes)) for e in examples]
    torch.testing.assert_close(packed, torch.cat([a for a, _ in alone]), atol=1e-4, rtol=1e-4)
    assert targets.tolist() == torch.cat([t for _, t in alone]).tolist()


def test_a_document_sees_nothing_of_its_neighbours(model, sizes):
    """Other tokens before it in the row leave its logits as they are."""
    last = Example(list(range(40, 52)), [True] * 12, [])
    logits = []
    for neighbour in (range(100, 120), range(200, 220)):
        before = Example(list(neighbour), [False] * 20, [])
        with torch.no_grad():
            logits.append(learned_logits(model, pack(iter([before, last]), 1, 32, **sizes))[0])
    torch.testing.assert_close(logits[0], logits[1], atol=1e-6, rtol=0)


def test_features_stand_in_the_order_of_serving(renderer, model, monkeypatch, sizes):
    """All images in one go and reordered, or one image after the other as the services do."""
    samples = [source("number-two-images")(generator("order", i), "train") for i in range(4)]
    examples = [renderer.chat(sample) for sample in samples]
    assert sum(len(image.crops_P3ZZ) for e in examples for image in e.images) > 1
    batch = pack(iter(examples), 2, sum(len(e.ids) for e in examples), **sizes)
    seen = []
    embed = model.embed

    def spy(ids, features_FH):
        seen.append(features_FH)
        return embed(ids, features_FH)

    monkeypatch.setattr(model, "embed", spy)
    with torch.no_grad():
        learned_logits(model, batch)
        one_by_one = [
            model.encode_images(normalize(pixels)).flatten(0, 1)
            for example in examples
            for image in example.images
            for pixels in (image.crops_P3ZZ, image.thumbnail_13SS)
            if len(pixels)
        ]
    torch.testing.assert_close(seen[0], torch.cat(one_by_one), atol=1e-5, rtol=1e-5)


def test_image_counts_are_rounded_up_and_the_filling_is_black(renderer, sizes):
    example = renderer.chat(source("number")(generator("fill"), "train"))
    batch = pack(iter([example]), 1, len(example.ids), **sizes)
    assert len(batch.thumbnails_I3SS) == 32
    assert not batch.thumbnails_I3SS[1:].any()
    assert [padded(n) for n in (0, 1, 32, 33)] == [0, 32, 32, 64]


def test_a_document_longer_than_a_row_is_left_out():
    batch = pack(_examples([9, 3, 9, 5, 4]), 1, 8, crop_tokens=9, thumbnail_tokens=16)
    assert batch.documents_RL.tolist() == [[0] * 3 + [1] * 5]


def test_rows_that_hold_no_document_at_all_are_an_error():
    with pytest.raises(ValueError, match="row_length = 8: 1000 samples were longer"):
        pack(_examples([9] * 5000), 1, 8, crop_tokens=9, thumbnail_tokens=16)
