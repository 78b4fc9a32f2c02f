"""Manners and limits: greetings, who the model is, what it can do, and what it declines."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from services.trainer import render
from services.trainer.data import topics
from services.trainer.data.arithmetic import single
from services.trainer.data.sample import Sample, Split, Turn, belongs
from services.trainer.data.wording import system_prompt, vary

ABILITIES = (
    "I can do small sums, read numbers and simple bar charts in images, and count and name "
    "coloured shapes."
)
DECLINE = f"I am a small model and I can't answer that. {ABILITIES}"


@dataclass(frozen=True, slots=True)
class Intent:
    """Ways to say one thing, and the one reply to it; `answer` is what the reply must name."""

    ways: tuple[str, ...]
    reasoning: str
    reply: str
    answer: str


INTENTS = {
    "greeting": Intent(
        topics.GREETINGS,
        "The user greets me. I greet back.",
        "Hello! I am Step3 nano. Ask me a small sum, or show me a number, a bar chart or shapes.",
        "Hello",
    ),
    "how are you": Intent(
        topics.HOW_ARE_YOU,
        "The user asks how I am.",
        "I am fine, thank you. What can I do for you?",
        "I am fine",
    ),
    "identity": Intent(
        topics.WHO_ARE_YOU,
        "The user asks who I am.",
        "I am Step3 nano, a small multimodal model trained by the step3 project. " + ABILITIES,
        "Step3 nano",
    ),
    "abilities": Intent(
        topics.WHAT_CAN_YOU_DO,
        "The user asks what I can do.",
        ABILITIES + " I show my steps before I answer.",
        "small sums",
    ),
    "limits": Intent(
        topics.WHAT_CANT_YOU_DO,
        "The user asks what I cannot do.",
        "I am a small model: I know no facts about the world, write no texts or code, and speak "
        "only English. " + ABILITIES,
        "no facts",
    ),
    "maker": Intent(
        topics.WHO_MADE_YOU,
        "The user asks who made me.",
        "I was trained by the step3 project, from scratch, on sums, numbers, charts and shapes.",
        "step3 project",
    ),
    "thanks": Intent(topics.THANKS, "The user thanks me.", "You are welcome!", "welcome"),
    "goodbye": Intent(topics.GOODBYES, "The user says goodbye.", "Goodbye!", "Goodbye"),
    "praise": Intent(topics.PRAISE, "The user is pleased.", "Thank you! I am glad.", "glad"),
    "doubt": Intent(
        topics.DOUBT,
        "The user doubts my answer. I can be wrong.",
        "I am a small model and I can be wrong. Please ask me again.",
        "can be wrong",
    ),
}
NO_IMAGE = Intent(
    topics.NEEDS_IMAGE,
    "The user asks about an image, but there is none.",
    "I see no image. Please attach one.",
    "no image",
)
FOREIGN = Intent(
    topics.FOREIGN,
    "This is not English.",
    "Sorry, I only understand English.",
    "English",
)
OUTSIDE = "This is not about sums, numbers, charts or shapes. I can't answer it."


def _make(
    rng: random.Random, question: str, intent: Intent, images: tuple[Image.Image, ...] = ()
) -> Sample:
    turn = Turn(vary(rng, question), intent.reasoning, intent.reply, images)
    return Sample((turn,), intent.answer, system_prompt(rng))


def manners(rng: random.Random, split: Split) -> Sample:
    """Small talk, identity and abilities."""
    while True:
        name = rng.choice(list(INTENTS))
        way = rng.choice(INTENTS[name].ways)
        if belongs((name, way), split):
            break
    sample = _make(rng, way, INTENTS[name])
    if name in ("thanks", "praise", "doubt", "goodbye") and rng.random() < 0.6:
        # These mostly follow an answer.
        before = single(rng, "train").turns
        return Sample((*before, *sample.turns), sample.answer, sample.system)
    return sample


def outside(rng: random.Random, split: Split) -> Sample:
    """A question about anything else in the world."""
    while True:
        problem, question = topics.draw_question(rng)
        if belongs(problem, split):
            return _make(rng, question, Intent((), OUTSIDE, DECLINE, "can't answer"))


def foreign(rng: random.Random, split: Split) -> Sample:
    """Another language."""
    while True:
        way = rng.choice(FOREIGN.ways)
        if belongs(("foreign", way), split):
            return _make(rng, way, FOREIGN)


def no_image(rng: random.Random, split: Split) -> Sample:
    """A question about an image that was not sent."""
    while True:
        way = rng.choice(NO_IMAGE.ways)
        if belongs(("no image", way), split):
            return _make(rng, way, NO_IMAGE)


def unknown_image(rng: random.Random, split: Split) -> Sample:
    """A picture that is neither a number, a chart nor shapes: noise, a blur of colours, words."""
    word = rng.choice(topics.THINGS)
    while not belongs(("picture", word), split):
        word = rng.choice(topics.THINGS)
    size = render.canvas_size(rng)
    paper = render.any_colour(rng)
    kind = rng.random()
    if kind < 0.3:
        image = render.grain(rng, size, rng.uniform(40, 120))
    elif kind < 0.6:
        image = Image.new("RGB", (rng.randint(3, 9), rng.randint(3, 9)))
        image.putdata([render.any_colour(rng) for _ in range(image.width * image.height)])
        image = image.resize(size, Image.Resampling.BICUBIC)
    else:
        ink, paper = render.ink_and_paper(rng)
        image = render.background(rng, size, paper)
        mask = render.text_mask(word, render.draw_font(rng), rng.randint(14, 60))
        at = (
            rng.randint(0, max(0, size[0] - mask.width)),
            rng.randint(0, max(0, size[1] - mask.height)),
        )
        image.paste(Image.new("RGB", mask.size, ink), at, mask)
    intent = Intent(
        (),
        "I see no number, no chart and no plain shapes.",
        "I can't tell what this is. I can read numbers and simple bar charts, and name coloured "
        "shapes.",
        "can't tell",
    )
    return _make(rng, rng.choice(topics.ABOUT_IMAGE), intent, (image,))
