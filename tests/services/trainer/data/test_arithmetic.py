"""Truths are computed again from the question's words, and traces checked column by column."""

import random
import re

import pytest

from services.trainer.data import arithmetic
from services.trainer.data.arithmetic import PLACES, Step, work
from services.trainer.data.sample import generator, is_held_out

SYMBOLS = {
    **dict.fromkeys(["+", "plus"], "+"),
    **dict.fromkeys(["-", "minus", "−", "–"], "-"),
    **dict.fromkeys(["x", "*", "×", "times", "multiplied by"], "*"),
    **dict.fromkeys(["/", "÷", "divided by", ":"], "//"),
}
WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
OPERATOR = "|".join(sorted(map(re.escape, SYMBOLS), key=len, reverse=True))


def solve(question: str) -> int:
    """What a reader of the question would compute."""
    text = " ".join(question.lower().split())
    text = re.sub(
        r"\b(" + "|".join(WORDS.split()) + r")\b(?= plus|\W*$)",
        lambda m: str(WORDS.split().index(m[1])),
        text,
    )
    text = re.sub(
        r"(?<=plus )(" + "|".join(sorted(WORDS.split(), key=len, reverse=True)) + r")\b",
        lambda m: str(WORDS.split().index(m[1])),
        text,
    )
    found = re.search(rf"\d+(?: ?(?:{OPERATOR}) ?\d+)+", text)
    if found:
        python = re.sub(OPERATOR, lambda m: SYMBOLS[m[0]], found[0])
        return int(eval(python, {}))
    first, second = map(int, re.findall(r"\d+", text))
    if re.search(r"divide|share", text):
        return first // second
    if re.search(r"multiply|product|boxes", text):
        return first * second
    if re.search(r"subtract|take|difference|left", text):
        return abs(first - second)
    assert re.search(r"add|sum|more|total", text), question
    return first + second


def check_equations(text: str) -> int:
    """Every `expression = number` is true; how many there were."""
    equations = re.findall(r"(-?\d+(?: [-+x/] -?\d+)+) = (-?\d+)(?:, \+ (\d+) = (\d+))?", text)
    for expression, result, carry, with_carry in equations:
        assert eval(expression.replace("x", "*").replace("/", "//"), {}) == int(result), text
        if carry:
            assert int(result) + int(carry) == int(with_carry), text
    return len(equations)


def check_columns(op: str, top: int, bottom: int, trace: str) -> None:
    """Follows the columns with pencil and paper: right digits, right carries, right result."""
    columns = re.findall(rf"({'|'.join(PLACES)}): ((?:[^.:]|borrow:)*)\.", trace)
    assert [place for place, _ in columns] == list(PLACES[: len(columns)])
    carry, value = 0, 0
    for place, (_, line) in enumerate(columns):
        x, y = (number // 10**place % 10 for number in (top, bottom))
        if op == "x":
            assert line.startswith(f"{x} x {bottom} = {x * bottom}")
            assert (f", + {carry} = {x * bottom + carry}" in line) == (carry > 0)
            total = x * bottom + carry
        elif op == "+":
            if line == "1":
                assert carry and place == max(len(str(top)), len(str(bottom)))
                total = 1
            else:
                assert line.startswith(f"{x} + {y}{' + 1' if carry else ''} = ")
                total = x + y + carry
        else:
            less = f"{' - 1' if carry else ''} - {y}"
            total = x - y - carry
            borrows = total < 0
            total += 10 * borrows
            expected = f", borrow: {x + 10}{less} = {total}" if borrows else f" = {total}"
            assert line == f"{x}{less}{expected}"
            carry = int(borrows)
        if op != "-":
            if written := re.search(r", write (\d), carry (\d)", line):
                assert (int(written[1]), int(written[2])) == (total % 10, total // 10)
                carry, total = total // 10, total % 10
            else:
                assert total < 10 or place == len(columns) - 1
                carry = 0
        value += total * 10**place
    assert carry == 0
    assert value == {"+": top + bottom, "-": top - bottom, "x": top * bottom}[op]


@pytest.mark.parametrize("name", ["single", "two_digit", "chain"])
def test_the_answer_follows_from_the_question(name):
    for index in range(600):
        sample = getattr(arithmetic, name)(generator(name, index), "train")
        assert solve(sample.turns[0].question) == int(sample.answer), sample.turns[0].question


def test_a_follow_up_goes_on_from_the_result():
    for index in range(300):
        sample = arithmetic.follow_up(generator(index), "train")
        opening, closing = sample.turns
        before = solve(opening.question)
        (number,) = map(int, re.findall(r"\d+", closing.question))
        minus = re.search(r"minus|subtract|take", closing.question.lower())
        assert before + (-number if minus else number) == int(sample.answer)


@pytest.mark.parametrize(
    ("op", "top", "bottom"),
    [
        ("+", 47, 38),
        ("+", 999, 1),
        ("+", 9999, 9999),
        ("+", 5, 120),
        ("+", 0, 0),
        ("-", 1000, 1),
        ("-", 305, 278),
        ("-", 44, 44),
        ("-", 7, 0),
        ("x", 987, 9),
        ("x", 100, 2),
        ("x", 13, 12),
    ],
)
def test_columns_at_the_edges(op, top, bottom):
    check_columns(op, top, bottom, work(Step(top, op, bottom)))


def test_columns_of_random_problems():
    rng = random.Random(3)
    for _ in range(2000):
        a, b = arithmetic.operand(rng), arithmetic.operand(rng)
        check_columns("+", a, b, work(Step(a, "+", b)))
        check_columns("-", max(a, b), min(a, b), work(Step(max(a, b), "-", min(a, b))))
        a, b = rng.randrange(13, 1000), rng.randrange(2, 10)
        check_columns("x", a, b, work(Step(*rng.choice([(a, "x", b), (b, "x", a)]))))


def test_every_equation_of_a_trace_is_true_and_the_last_is_the_problem():
    rng = random.Random(4)
    for _ in range(2000):
        a, b = rng.randrange(-300, 300), rng.randrange(300)
        step = Step(a, rng.choice("+-"), b)
        text = work(step)
        assert check_equations(text) >= 2
        assert text.endswith(f"{step} = {step.result}.")
        if step.left >= 0 and step.op == "-" and a < b:
            check_columns("-", b, a, text)


def test_traces_of_samples_are_true():
    for index in range(500):
        sample = arithmetic.chain(generator("trace", index), "train")
        assert check_equations(sample.turns[0].reasoning) >= 2


def two_digit_problem(question: str) -> tuple[str, int, int]:
    expression = re.search(rf"(\d+) ?({OPERATOR}) ?(\d+)", " ".join(question.lower().split()))
    assert expression, question
    return SYMBOLS[expression[2]], *sorted((int(expression[1]), int(expression[3])))


def test_the_gate_and_its_training_samples_share_no_problem():
    problems = {
        split: {
            two_digit_problem(arithmetic.two_digit(generator(i), split).turns[0].question)
            for i in range(1500)
        }
        for split in ("train", "heldout")
    }
    assert len(problems["heldout"]) > 300
    assert not problems["train"] & problems["heldout"]


def test_no_source_trains_on_a_problem_of_the_gate():
    """Whatever is written as a whole equation of two-digit numbers anywhere in the curriculum."""
    for name in ("single", "chain", "follow_up"):
        for index in range(800):
            for turn in getattr(arithmetic, name)(generator(name, index), "train").turns:
                for a, op, b in re.findall(r"(?<![-\d])(\d\d+) ([-+]) (\d\d+) = ", turn.reasoning):
                    assert not is_held_out((op, *sorted((int(a), int(b))))), turn


def test_both_orders_and_signs_are_one_problem():
    assert Step(12, "+", 50).problem == Step(50, "+", 12).problem
    assert Step(-12, "+", 50).problem == Step(50, "-", 12).problem == Step(12, "-", 50).problem
    assert Step(-12, "-", 50).problem == Step(12, "+", 50).problem


def test_facts_that_are_learnt_by_heart_are_never_held_out():
    assert not any(Step(a, op, b).held_out for a in range(10) for b in range(10) for op in "+-x")
    assert not any(Step(a, "x", b).held_out for a in range(13) for b in range(13))
    assert any(Step(a, "+", 10).held_out for a in range(100))
