"""Checks that compare two calls: of negated, scaled, permuted and cut arrays. The first array of an example is what is changed."""

from __future__ import annotations

import numpy as np

from refquant.conformance.laws.calls import answer_for, main_array
from refquant.conformance.laws.law import Example, Subject, broken, first_index, number, require_same
from refquant.numerics.casting import as_float64


def sign_symmetry(subject: Subject, example: Example) -> None:
    """Negated numbers give negated results."""
    x = main_array(subject, example)
    require_same(answer_for(subject, example, -x).values, -answer_for(subject, example).values, "f(-x) against -f(x)")


def scaling(subject: Subject, example: Example) -> None:
    """Powers of two scale the result and change no code."""
    x, power = main_array(subject, example), example["power"]
    plain, scaled = answer_for(subject, example), answer_for(subject, example, np.ldexp(as_float64(x), power).astype(x.dtype))
    require_same(scaled.values, np.ldexp(plain.values, power), f"f(2^{power} x) against 2^{power} f(x)")
    if plain.codes is not None and scaled.codes is not None:
        require_same(scaled.codes, plain.codes, f"codes of 2^{power} x against codes of x")


def zero_kept(subject: Subject, example: Example) -> None:
    """0 becomes 0."""
    x = main_array(subject, example)
    found = answer_for(subject, example)
    moved = (as_float64(x) == 0) & (found.values != 0)
    if moved.any():
        at = first_index(moved)
        broken(f"{number(x[at])} at index {at} became {number(found.values[at])}")


def signed_zero(subject: Subject, example: Example) -> None:
    """The sign of zero changes nothing."""
    x = main_array(subject, example)
    zero = x.dtype.type(0)
    negative, positive = np.where(x == 0, -zero, x), np.where(x == 0, zero, x)
    require_same(answer_for(subject, example, negative).values, answer_for(subject, example, positive).values, "-0 against 0")


def row_permutation(subject: Subject, example: Example) -> None:
    """Rows can be exchanged."""
    x, order = main_array(subject, example), example["row_order"]
    expected = answer_for(subject, example).values[order]
    require_same(answer_for(subject, example, x[order]).values, expected, "f of permuted rows against permuted rows of f")


def column_permutation(subject: Subject, example: Example) -> None:
    """Columns can be exchanged as far as tiles allow."""
    x, order = main_array(subject, example), example["column_order"]
    expected = answer_for(subject, example).values[:, order]
    require_same(answer_for(subject, example, x[:, order]).values, expected, "f of permuted columns against permuted columns of f")


def batch_independence(subject: Subject, example: Example) -> None:
    """Rows alone give what they give among others."""
    x, cut = main_array(subject, example), example["row_cut"]
    whole = answer_for(subject, example).values
    for piece in (slice(0, cut), slice(cut, len(x))):
        what = f"f of rows {piece.start}..{piece.stop} alone against f of all"
        require_same(answer_for(subject, example, x[piece]).values, whole[piece], what)


def chunk_independence(subject: Subject, example: Example) -> None:
    """Columns cut where a tile ends give what they give together."""
    x, cut = main_array(subject, example), example["column_cut"]
    whole = answer_for(subject, example).values
    for piece in (slice(0, cut), slice(cut, x.shape[1])):
        what = f"f of columns {piece.start}..{piece.stop} alone against f of all"
        require_same(answer_for(subject, example, x[:, piece]).values, whole[:, piece], what)
