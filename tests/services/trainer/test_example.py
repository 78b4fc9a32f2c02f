"""Which tokens are learned, and that training reads what serving sends."""

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.example import Renderer
from shared.model.tiling import num_image_tokens


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


def test_an_image_takes_the_tokens_that_serving_counts(renderer, config, tokenizer):
    special = tokenizer.special
    markers = {special.im_start, special.im_patch, special.im_end}
    markers |= {special.patch_start, special.patch_end, special.patch_newline}
    for index in range(20):
        sample = source("number-two-images")(generator("tokens", index), "train")
        ids = renderer.chat(sample).ids
        expected = sum(num_image_tokens(config, *i.size) for i in sample.turns[0].images)
        assert sum(id_ in markers for id_ in ids) == expected


def test_earlier_turns_are_read_and_not_learned(renderer, tokenizer):
    sample = source("arithmetic-follow-up")(generator("turns"), "train")
    example = renderer.chat(sample)
    text = tokenizer.decode(example.ids)
    assert sample.turns[0].reply in text
    assert sample.turns[0].reasoning not in text
    assert example.learned[-1] and example.ids[-1] == tokenizer.special.eot


def test_a_caption_is_the_pictures_and_what_is_seen_in_them(renderer, tokenizer):
    sample = source("number")(generator("caption", 2), "train")
    turn = sample.turns[-1]
    example = renderer.caption(sample)
    learned = [i for i, flag in zip(example.ids, example.learned, strict=True) if flag]
    text = tokenizer.decode(learned)
    assert text.endswith(f"{turn.reasoning}<|EOT|>")
    assert turn.question not in text
    assert len(example.images) == len(turn.images)
