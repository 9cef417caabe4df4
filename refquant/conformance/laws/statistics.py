"""Laws of statistics: ``collect(x)`` of inputs ``[tokens, features]``, and ``merge(a, b)`` of two such statistics."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from refquant.conformance.laws.calls import arrays_of
from refquant.conformance.laws.law import Example, Law, Subject, always, broken, require_same, require_within
from refquant.conformance.laws.purity import purity_laws
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64


def _parts(found: Any) -> list[Array]:
    return [as_float64(part) for part in arrays_of(found)]


def _compare(found: Any, expected: Any, what: str, relative: float) -> None:
    one, other = _parts(found), _parts(expected)
    if len(one) != len(other):
        broken(f"{what}: {len(one)} arrays instead of {len(other)}")
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        if relative:
            require_within(a, b, relative * np.abs(b).max(initial=0.0), f"{what}, array {index}")
        else:
            require_same(a, b, f"{what}, array {index}")


def _merge(subject: Subject) -> Callable[[Any, Any], Any]:
    merge = subject.also
    if merge is None:
        raise TypeError("a law of merging was run without a merge")  # its need was not asked
    return merge


def _pieces(x: Array, cuts: Array) -> list[Array]:
    """`x` cut into three pieces of at least one token."""
    first, second = sorted(int(cut) for cut in cuts)
    return [x[:first], x[first:second], x[second:]]


def _associative(subject: Subject, example: Example) -> None:
    merge, relative = _merge(subject), float(subject.options["relative"])
    a, b, c = (subject.call(piece) for piece in _pieces(example["x"], example["cuts"]))
    _compare(merge(merge(a, b), c), merge(a, merge(b, c)), "(a + b) + c against a + (b + c)", relative)


def _commutative(subject: Subject, example: Example) -> None:
    merge, relative = _merge(subject), float(subject.options["relative"])
    a, b, _ = (subject.call(piece) for piece in _pieces(example["x"], example["cuts"]))
    _compare(merge(b, a), merge(a, b), "b + a against a + b", relative)


def _chunk_independence(subject: Subject, example: Example) -> None:
    pieces = [subject.call(piece) for piece in _pieces(example["x"], example["cuts"])]
    whole, relative = subject.call(example["x"]), float(subject.options["relative"])
    _compare(reduce(_merge(subject), pieces), whole, "statistics of pieces, merged, against those of the whole", relative)


def _token_permutation(subject: Subject, example: Example) -> None:
    x = example["x"]
    found, relative = subject.call(x[example["row_order"]]), float(subject.options["relative"])
    _compare(found, subject.call(x), "statistics of tokens in another order", relative)


def _needs_merge(subject: Subject) -> str | None:
    return None if subject.also is not None else "there is no function that merges; give merge="


def _law(name: str, statement: str, check: Callable[[Subject, Example], None], needs: Callable[[Subject], str | None], *draws: str) -> Law:
    return Law(name=name, kind="statistics", statement=statement, draws=draws, needs=needs, check=check)


STATISTICS_LAWS: tuple[Law, ...] = (
    _law("merge_associativity", "(a + b) + c = a + (b + c)", _associative, _needs_merge, "tokens", "cuts"),
    _law("merge_commutativity", "a + b = b + a", _commutative, _needs_merge, "tokens", "cuts"),
    _law("chunk_independence", "merged pieces give what the whole gives", _chunk_independence, _needs_merge, "tokens", "cuts"),
    _law("token_permutation", "the order of tokens changes nothing", _token_permutation, always, "tokens", "row_order"),
    *purity_laws("statistics", ("tokens",)),
)
