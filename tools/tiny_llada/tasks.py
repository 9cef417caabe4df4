"""The generated tasks of the tiny model: prompts with exact answers. No third-party text.

A prompt is held out iff its CRC-32 is divisible by 16, so training and evaluation can never share one. Equations of held-out prompts are
kept out of training word problems and drills too.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

NAMES = ["Ann", "Ben", "Tom", "Eve", "Dan", "Ruth", "Mark", "Sara", "Paul", "Mary"]
THINGS = ["apples", "coins", "sheep", "loaves", "stones", "books", "fishes", "jars"]
GEN_LENGTH = {"add": 12, "sub": 12, "sort": 12, "reverse": 12, "word": 40}

Equation = tuple[int, str, int, int]
Item = tuple[str, str, str, list[Equation]]  # prompt, response, answer, equations that the response writes out


def held_out(prompt: str) -> bool:
    return zlib.crc32(prompt.encode()) % 16 == 0


def final_answer(task: str, text: str) -> str:
    """What counts as the answer in a generated response."""
    cut = {"add": "=", "sub": "=", "word": "So"}.get(task)
    return (text.split(cut)[-1] if cut else text).strip()


def equation(r: random.Random, op: str | None = None) -> Equation:
    """Operands below 100, small ones more often; results never negative."""
    op = op or r.choice("+-")
    a = r.randrange(10) if r.random() < 0.15 else r.randrange(100)
    b = r.randrange(10) if r.random() < 0.25 else r.randrange(100)
    if op == "-" and a < b:
        a, b = b, a
    return a, op, b, a + b if op == "+" else a - b


def question(a: int, op: str, b: int) -> str:
    return f"Q: {a}{op}{b}=?\nA:"


def drill(r: random.Random, count: int) -> str:
    """Equations one after the other, for training only; held-out pairs never appear."""
    out: list[str] = []
    while len(out) < count:
        a, op, b, c = equation(r)
        if not held_out(question(a, op, b)):
            out.append(f"{a}{op}{b}={c}.")
    return " ".join(out)


def arithmetic(r: random.Random, op: str) -> Item:
    a, op, b, c = equation(r, op)
    return question(a, op, b), f" {a}{op}{b}={c}", str(c), []


def reorder(r: random.Random, word: str, change: Callable[[list[str]], object]) -> Item:
    digits = [str(r.randrange(10)) for _ in range(r.randint(4, 8))]
    given = "".join(digits)
    change(digits)
    answer = "".join(digits)
    return f"Q: {word} {given}\nA:", f" {answer}", answer, []


def word_problem(r: random.Random) -> Item:
    """Two or three steps; the response writes every one out. All values are below 100."""
    name, other = r.sample(NAMES, 2)
    thing = r.choice(THINGS)
    value = r.randint(2, 60)
    parts, steps = [f"{name} has {value} {thing}."], []
    for _ in range(r.randint(2, 3)):
        kind = r.choice(["buys", "gets", "finds", "loses", "gives", "sells", "double"])
        if kind == "double" and value <= 49:
            parts.append(f"{name} doubles the {thing}.")
            steps.append((value, "+", value, value + value))
        elif (kind in ("loses", "gives", "sells") and value > 1) or value > 89:
            k = r.randint(1, min(value - 1, 40))
            lines = {"loses": f"{name} loses {k}.", "gives": f"{name} gives {k} to {other}."}
            parts.append(lines.get(kind, f"{name} sells {k}."))
            steps.append((value, "-", k, value - k))
        else:
            k = r.randint(1, min(40, 99 - value))
            lines = {"buys": f"{name} buys {k} more.", "gets": f"{other} gives {name} {k}."}
            parts.append(lines.get(kind, f"{name} finds {k}."))
            steps.append((value, "+", k, value + k))
        value = steps[-1][3]
    written = " ".join(f"{a}{op}{b}={c}." for a, op, b, c in steps)
    return f"Q: {' '.join(parts)} How many {thing} has {name}?\nA:", f" {written} So {value}", str(value), steps


TASKS: dict[str, Callable[[random.Random], Item]] = {
    "add": lambda r: arithmetic(r, "+"),
    "sub": lambda r: arithmetic(r, "-"),
    "sort": lambda r: reorder(r, "sort", list.sort),
    "reverse": lambda r: reorder(r, "reverse", list.reverse),
    "word": word_problem,
}


def sample(name: str, r: random.Random, for_evaluation: bool = False) -> tuple[str, str, str]:
    """Prompt, response, answer, from the right side of the split."""
    while True:
        prompt, response, answer, steps = TASKS[name](r)
        leaks = not for_evaluation and any(held_out(question(a, op, b)) for a, op, b, _ in steps)
        if held_out(prompt) == for_evaluation and not leaks:
            return prompt, response, answer
