import random

from services.trainer.data import conversation, dialogue, topics
from services.trainer.data.sample import belongs, generator


def test_every_intent_can_be_asked_in_both_splits():
    for name, intent in dialogue.INTENTS.items():
        ways = {
            split: [w for w in intent.ways if belongs((name, w), split)]
            for split in ("train", "heldout")
        }
        assert len(ways["train"]) > len(ways["heldout"])
        assert intent.answer in intent.reply


def test_who_are_you_is_answered_with_the_name():
    replies = {
        sample.turns[-1].reply
        for sample in (dialogue.manners(generator(i), "train") for i in range(200))
    }
    assert dialogue.INTENTS["identity"].reply in replies
    assert "Step3 nano" in dialogue.INTENTS["identity"].reply
    assert len(replies) == len(dialogue.INTENTS)


def test_questions_about_the_world_are_declined():
    for index in range(50):
        sample = dialogue.outside(generator(index), "train")
        assert sample.turns[-1].reply == dialogue.DECLINE
        assert "{" not in sample.turns[-1].question


def test_a_question_is_named_by_all_that_it_is_made_of():
    """Equal tuples are equal questions, so a hash of the tuple splits questions."""
    rng = random.Random(2)
    seen: dict[tuple[object, ...], str] = {}
    for _ in range(3000):
        problem, question = topics.draw_question(rng)
        assert seen.setdefault(problem, question) == question


def test_word_lists_hold_whole_items():
    assert "Hello, nice to meet you" in topics.GREETINGS
    for words in (topics.GREETINGS, topics.PLACES, topics.FIXED, topics.FOREIGN):
        assert all(word == word.strip() and word and "|" not in word for word in words)


def test_unknown_images_have_one_image():
    for index in range(30):
        assert len(dialogue.unknown_image(generator(index), "train").turns[0].images) == 1


def test_a_conversation_is_graded_by_its_last_turn():
    for index in range(40):
        sample = conversation.mixed(generator(index), "train")
        assert len(sample.turns) >= 2
