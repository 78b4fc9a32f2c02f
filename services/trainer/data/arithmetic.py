"""Sums, differences, small products and quotients, worked digit by digit as on paper.

The trace goes column by column from the right, so that every step is a one-digit fact and a small
model is as reliable on three digits as on one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.trainer.data.sample import Sample, Split, Turn, is_held_out
from services.trainer.data.wording import system_prompt, vary

PLACES = ("Ones", "Tens", "Hundreds", "Thousands", "Ten thousands")
TABLE = 12

# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)
# fmt: on

_SYMBOLS = {
    "+": ("+", "+", "+", "plus"),
    "-": ("-", "-", "-", "minus", "−", "–"),
    "x": ("x", "*", "×", "times", "multiplied by", "X"),
    "/": ("/", "÷", "divided by", ":"),
}
_ASK = (
    "What is {e}?",
    "What is {e}?",
    "What is {e}?",
    "Compute {e}",
    "Compute {e}.",
    "Calculate {e}.",
    "How much is {e}?",
    "{e}",
    "{e}",
    "{e}?",
    "{e} =",
    "{e} = ?",
    "Solve {e}",
    "Work out {e}.",
    "Can you compute {e}?",
    "Could you tell me what {e} is?",
    "Tell me {e}.",
    "I need the result of {e}.",
    "What does {e} equal?",
    "What do you get for {e}?",
    "Do you know what {e} is?",
    "Evaluate {e}",
    "Answer this: {e}",
    "What is the result of {e}?",
    "What is the answer to {e}?",
    "Find {e}.",
    "Please compute {e}.",
    "Give me {e}",
    "Show me how to compute {e} step by step.",
    "{e}, what is that?",
)
_ASK_ONE = {
    "+": (
        "Add {a} and {b}.",
        "Add {b} to {a}.",
        "What is the sum of {a} and {b}?",
        "Please add {a} and {b}",
        "Sum {a} and {b}.",
        "What is the total of {a} and {b}?",
        "If I have {a} apples and get {b} more, how many apples do I have?",
        "Tom has {a} coins and finds {b} more. How many coins does he have now?",
        "There are {a} birds in a tree and {b} more come. How many birds are there?",
        "Anna read {a} pages yesterday and {b} pages today. How many pages is that in total?",
    ),
    "-": (
        "Subtract {b} from {a}.",
        "Take {b} away from {a}.",
        "What is the difference between {a} and {b}?",
        "What is {a} take away {b}?",
        "What is left if I take {b} from {a}?",
        "I had {a} apples and ate {b}. How many are left?",
        "Tom has {a} coins and spends {b}. How many coins does he have left?",
        "There were {a} birds and {b} flew away. How many birds are left?",
    ),
    "x": (
        "Multiply {a} by {b}.",
        "Multiply {a} and {b}",
        "What is the product of {a} and {b}?",
        "How many eggs are in {a} boxes of {b} eggs?",
    ),
    "/": ("Divide {a} by {b}.", "Share {a} sweets among {b} children. How many does each get?"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One binary operation; `op` is one of + - x /."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        match self.op:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "x":
                return self.left * self.right
            case "/":
                return self.left // self.right
        raise AssertionError(self.op)

    @property
    def problem(self) -> tuple[object, ...]:
        """Both orders of the operands are one problem, and signs are taken off as `work` does."""
        op = self.op
        if self.left < 0 and op in "+-":
            op = "-" if op == "+" else "+"
        return (op, *sorted((abs(self.left), self.right)))

    @property
    def held_out(self) -> bool:
        """One-digit facts and the tables are learnt by heart: none of them is held out."""
        by_heart = TABLE if self.op == "x" else 9
        largest = max(abs(self.left), self.right)
        return self.op in "+-x" and largest > by_heart and is_held_out(self.problem)

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"


def work(step: Step) -> str:
    """The steps on paper of one operation; they end in the equation and its result."""
    left, right = step.left, step.right
    if step.op == "+" and left >= 0 and right >= 0:
        shown = _add_columns(left, right)
    elif step.op == "+" and left < 0 <= right:
        inner = Step(right, "-", -left)
        shown = f"{step} is {inner}. {work(inner)}"
    elif step.op == "-" and left < 0:
        inner = Step(-left, "+", right)
        shown = f"Both count down: {inner} with a minus. {work(inner)}"
    elif step.op == "-" and left >= right:
        shown = _subtract_columns(left, right)
    elif step.op == "-":
        inner = Step(right, "-", left)
        shown = f"{left} is less than {right}: {inner} with a minus. {work(inner)}"
    elif step.op == "x" and max(left, right) > TABLE:
        shown = _multiply_columns(max(left, right), min(left, right))
    elif step.op == "/":
        shown = f"{step.result} x {right} = {left}."
    else:
        return f"{step} = {step.result}."
    return f"{shown} {step} = {step.result}."


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def _at(digits: Sequence[int], place: int) -> int:
    return digits[place] if place < len(digits) else 0


def _add_columns(left: int, right: int) -> str:
    a, b = _digits(left), _digits(right)
    lines, carry = [], 0
    for place in range(max(len(a), len(b))):
        x, y = _at(a, place), _at(b, place)
        total = x + y + carry
        line = f"{PLACES[place]}: {x} + {y}" + (" + 1" if carry else "") + f" = {total}"
        carry = total // 10
        lines.append(line + (f", write {total % 10}, carry 1." if carry else "."))
    if carry:
        lines.append(f"{PLACES[max(len(a), len(b))]}: 1.")
    return " ".join(lines)


def _subtract_columns(left: int, right: int) -> str:
    a, b = _digits(left), _digits(right)
    lines, borrow = [], 0
    for place in range(len(a)):
        x, y = _at(a, place), _at(b, place)
        take = (" - 1" if borrow else "") + f" - {y}"
        total = x - borrow - y
        borrow = int(total < 0)
        line = f"{PLACES[place]}: {x}{take}"
        lines.append(
            line + (f", borrow: {x + 10}{take} = {total + 10}." if borrow else f" = {total}.")
        )
    return " ".join(lines)


def _multiply_columns(left: int, right: int) -> str:
    digits = _digits(left)
    lines, carry = [], 0
    for place, x in enumerate(digits):
        product = x * right
        total = product + carry
        line = f"{PLACES[place]}: {x} x {right} = {product}"
        line += f", + {carry} = {total}" if carry else ""
        last = place == len(digits) - 1
        carry = total // 10
        lines.append(line + ("." if last else f", write {total % 10}, carry {carry}."))
    return " ".join(lines)


def spell(number: int) -> str:
    return _NUMBER_WORDS[number]


def expression(rng: random.Random, first: int, *rest: tuple[str, int]) -> str:
    """`first op operand op operand ...` as people type it."""
    tight = rng.random() < 0.3
    words = rng.random() < 0.3
    text = str(first)
    for op, operand in rest:
        symbols = [s for s in _SYMBOLS[op] if len(s) > 1]
        symbol = rng.choice(symbols if words else [s for s in _SYMBOLS[op] if s not in symbols])
        gap = "" if tight and not words else " "
        text += f"{gap}{symbol}{gap}{operand}"
    return text


def operand(rng: random.Random, sizes: Sequence[float] = (0.15, 0.55, 0.26, 0.04)) -> int:
    """A number whose count of digits is drawn with the given weights."""
    digits = rng.choices(range(1, len(sizes) + 1), sizes)[0]
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def draw_step(rng: random.Random) -> Step:
    op = rng.choices(("+", "-", "x", "/"), (0.42, 0.42, 0.13, 0.03))[0]
    if op in "+-":
        step = Step(operand(rng), op, operand(rng))
        if op == "-" and step.left < step.right and rng.random() < 0.6:
            step = Step(step.right, op, step.left)
        return step
    if op == "/":
        divisor = rng.randrange(1, TABLE + 1)
        return Step(divisor * rng.randrange(TABLE + 1), "/", divisor)
    if rng.random() < 0.7:
        return Step(rng.randrange(TABLE + 1), "x", rng.randrange(TABLE + 1))
    pair = [rng.randrange(TABLE + 1, 1000), rng.randrange(2, 10)]
    rng.shuffle(pair)
    return Step(pair[0], "x", pair[1])


def _single(rng: random.Random) -> tuple[str, list[Step]]:
    step = draw_step(rng)
    if step.op == "+" and max(step.left, step.right) < len(_NUMBER_WORDS) and rng.random() < 0.5:
        return f"What is {spell(step.left)} plus {spell(step.right)}?", [step]
    if rng.random() < 0.2 and (step.op != "-" or step.left >= step.right):
        question = rng.choice(_ASK_ONE[step.op]).format(a=step.left, b=step.right)
        return question, [step]
    text = expression(rng, step.left, (step.op, step.right))
    return rng.choice(_ASK).format(e=text), [step]


def _chain(rng: random.Random) -> tuple[str, list[Step]]:
    """Two operations, products first."""
    a, b, c = (operand(rng, (0.3, 0.55, 0.15)) for _ in range(3))
    first, second = rng.choice("+-"), rng.choice("+-")
    kind = rng.random()
    if kind < 0.7:
        one = Step(a, first, b)
        steps = [one, Step(one.result, second, c)]
        ops = ((first, b), (second, c))
    else:
        b, factor = rng.randrange(2, TABLE + 1), rng.randrange(2, TABLE + 1)
        if kind < 0.85:
            one = Step(b, "x", factor)
            steps = [one, Step(one.result, second, c)]
            a, ops = b, (("x", factor), (second, c))
        else:
            one = Step(b, "x", factor)
            steps = [one, Step(a, first, one.result)]
            ops = ((first, b), ("x", factor))
    return rng.choice(_ASK).format(e=expression(rng, a, *ops)), steps


def _turn(rng: random.Random, question: str, steps: Sequence[Step]) -> Turn:
    last = steps[-1]
    reply = f"{last} = {last.result}." if len(steps) == 1 else f"The result is {last.result}."
    reasoning = " ".join(work(step) for step in steps)
    return Turn(vary(rng, question), reasoning, reply)


def _draw(
    rng: random.Random, split: Split, make: Callable[[random.Random], tuple[str, list[Step]]]
) -> tuple[Turn, int]:
    """Training never shows a held-out step; a held-out sample has at least one."""
    while True:
        question, steps = make(rng)
        if any(step.held_out for step in steps) == (split == "heldout"):
            return _turn(rng, question, steps), steps[-1].result


def single(rng: random.Random, split: Split) -> Sample:
    """One operation."""
    turn, result = _draw(rng, split, _single)
    return Sample((turn,), str(result), system_prompt(rng))


def chain(rng: random.Random, split: Split) -> Sample:
    """Two operations in one expression."""
    turn, result = _draw(rng, split, _chain)
    return Sample((turn,), str(result), system_prompt(rng))


def two_digit(rng: random.Random, split: Split) -> Sample:
    """The gate: addition and subtraction of two two-digit numbers."""

    def make(rng: random.Random) -> tuple[str, list[Step]]:
        step = Step(rng.randrange(10, 100), rng.choice("+-"), rng.randrange(10, 100))
        text = expression(rng, step.left, (step.op, step.right))
        return rng.choice(_ASK).format(e=text), [step]

    turn, result = _draw(rng, split, make)
    return Sample((turn,), str(result), system_prompt(rng))


def follow_up(rng: random.Random, split: Split) -> Sample:
    """A sum, and a second one that starts from its result."""
    while True:
        first = draw_step(rng)
        second = Step(first.result, rng.choice("+-"), operand(rng, (0.5, 0.5)))
        if (first.held_out or second.held_out) == (split == "heldout"):
            break
    ask = {
        "+": ("Now add {b}.", "Add {b} to that.", "And plus {b}?", "Plus {b}", "And {b} more?"),
        "-": ("Now subtract {b}.", "Take {b} from that.", "And minus {b}?", "Minus {b}"),
    }[second.op]
    text = expression(rng, first.left, (first.op, first.right))
    opening = _turn(rng, rng.choice(_ASK).format(e=text), [first])
    closing = _turn(rng, rng.choice(ask).format(b=second.right), [second])
    return Sample((opening, closing), str(second.result), system_prompt(rng))
