import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.example import Example, Renderer
from services.trainer.mixture import Batches
from services.trainer.pack import IGNORED, pack
from services.trainer.pixels import normalize, preprocess_bytes
from services.trainer.step import learned_logits
from shared.model.images import preprocess


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


def test_chat_learns_thinking_and_reply_only(tokenizer, config):
    sample = source("arithmetic-follow-up")(generator("m", 3), "train")
    example = Renderer(tokenizer, config).chat(sample)
    learned = [i for i, flag in zip(example.ids, example.learned, strict=True) if flag]
    last = sample.turns[-1]
    assert tokenizer.decode(learned) == f"{last.reasoning}\n</think>\n{last.reply}<|EOT|>"


def test_a_prompt_is_the_beginning_of_its_example(tokenizer, config):
    renderer = Renderer(tokenizer, config)
    sample = source("number")(generator("m", 5), "train")
    prompt, example = renderer.prompt(sample), renderer.chat(sample)
    assert example.ids[: len(prompt.ids)] == prompt.ids
    assert not any(example.learned[: len(prompt.ids)])


def test_a_document_learns_everything_but_images(tokenizer, config):
    example = Renderer(tokenizer, config).document(source("number")(generator("m", 6), "train"))
    unlearned = {i for i, flag in zip(example.ids, example.learned, strict=True) if not flag}
    assert tokenizer.special.im_patch in unlearned
    assert tokenizer.decode(unlearned).replace("<im_", "").count("<") == len(unlearned) - sum(
        tokenizer.decode([i]).startswith("<im_") for i in unlearned
    )


def test_byte_pixels_are_the_exact_ones_to_two_grey_levels(config):
    for i in range(6):
        image = source("shapes-count")(generator("p", i), "train").turns[0].images[0]
        exact, fast = preprocess(image, config.vision), preprocess_bytes(image, config.vision)
        assert fast.newline_after == exact.newline_after
        for a, b in (
            (exact.thumbnail_13SS, fast.thumbnail_13SS),
            (exact.crops_P3ZZ, fast.crops_P3ZZ),
        ):
            assert a.shape == b.shape
            if len(a):
                assert (normalize(b) - a).abs().max() < 2 / 255 / 0.26


def test_packed_logits_equal_each_document_alone(tokenizer, config, recipe, model):
    batches = Batches(recipe, "chat", tokenizer, config)
    names = ["number", "arithmetic", "shapes-count"]
    examples = [
        batches.renderer.chat(source(name)(generator("eq", i), "train"))
        for i, name in enumerate(names)
    ]
    sizes = {"crop_tokens": config.patch_token_len, "thumbnail_tokens": config.image_token_len}
    long = max(len(example.ids) for example in examples)
    together = pack(iter(examples), 1, sum(len(e.ids) for e in examples), **sizes)
    with torch.no_grad():
        packed, targets = learned_logits(model, together)
        alone = [learned_logits(model, pack(iter([e]), 1, long, **sizes)) for e in examples]
    torch.testing.assert_close(packed, torch.cat([a for a, _ in alone]), atol=1e-4, rtol=1e-4)
    assert targets.tolist() == torch.cat([t for _, t in alone]).tolist()


def test_a_batch_is_a_function_of_its_step(tokenizer, config, recipe):
    one, same = (Batches(recipe, "document", tokenizer, config)[3] for _ in range(2))
    assert one.ids_RL.equal(same.ids_RL)
    assert one.thumbnails_I3SS.equal(same.thumbnails_I3SS)
    assert not one.ids_RL.equal(Batches(recipe, "document", tokenizer, config)[2].ids_RL)
