"""Drawing the examples of laws: this is where hypothesis comes in, so nothing but the search imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from refquant.conformance.laws.calls import ARGUMENTS
from refquant.conformance.laws.law import Law, Subject
from refquant.conformance.strategies import activations, hessians, weights
from refquant.numerics.arrays import Array

Drawn = dict[str, Any]
Ingredient = Callable[[st.DrawFn, Subject, Drawn], None]
LARGEST_POWER = 6  # ordinary numbers times 2^-6 .. 2^6 stay clear of float16's ends


@st.composite
def law_examples(draw: st.DrawFn, law: Law, subject: Subject) -> Drawn:
    """What a law's check takes: its ingredients, drawn one after the other."""
    drawn: Drawn = {}
    for name in law.draws:
        INGREDIENTS[name](draw, subject, drawn)
    return drawn


def _matrix(draw: st.DrawFn, subject: Subject, *, nasty: bool, empty: bool) -> Array:
    values = subject.options.get("values")
    if values is not None:
        x: Array = draw(values.filter(lambda array: array.size) if not empty else values)
        return x
    return draw(weights(dtypes=subject.options["dtypes"], nasty=nasty and bool(subject.options["nasty"]), empty=empty))


def _x(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["x"] = _matrix(draw, subject, nasty=True, empty=True)


def _ordinary(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["x"] = _matrix(draw, subject, nasty=False, empty=True)


def _filled(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["x"] = _matrix(draw, subject, nasty=False, empty=False)


def _weight(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["weight"] = _matrix(draw, subject, nasty=False, empty=False)


def _hessian(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["hessian"] = draw(hessians(drawn["weight"].shape[1]))


def _alive_hessian(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["hessian"] = draw(hessians(drawn["weight"].shape[1], dead=False, singular=False))


def _tokens(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    shape = draw(st.integers(3, 8)), draw(st.integers(1, 6))
    drawn["x"] = draw(activations(shape=shape, dtypes=("float64", "float32")))


def _layer(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    """A weight and inputs of as many features."""
    features = draw(st.sampled_from(subject.options["widths"]))
    outputs, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    drawn["weight"] = draw(weights(shape=(outputs, features), dtypes=subject.options["dtypes"], nasty=False))
    drawn["x"] = draw(activations(shape=(tokens, features), dtypes=subject.options["dtypes"]))


def _cuts(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    tokens = len(drawn["x"])
    drawn["cuts"] = np.array(draw(st.lists(st.integers(1, tokens - 1), min_size=2, max_size=2, unique=True)))


def _codes(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    lo, hi = subject.options["ends"]
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    drawn["codes"] = draw(hnp.arrays(subject.options["dtype"], shape, elements=st.integers(lo, hi)))


def _main(subject: Subject, drawn: Drawn) -> Array:
    array: Array = drawn[ARGUMENTS[subject.kind][0]]
    return array


def _row_order(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["row_order"] = np.array(draw(st.permutations(range(len(_main(subject, drawn))))), dtype=np.int64)


def _column_order(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    """Columns inside every tile exchanged, and tiles of full width with each other."""
    count = _main(subject, drawn).shape[1]
    tiling = subject.traits.tiling
    width = (tiling.extents[1] if tiling is not None else None) or max(count, 1)
    groups = [list(range(start, min(start + width, count))) for start in range(0, count, width)]
    tail = [groups.pop()] if groups and len(groups[-1]) < width else []
    moved = [groups[i] for i in draw(st.permutations(range(len(groups))))] + tail
    drawn["column_order"] = np.array([column for group in moved for column in draw(st.permutations(group))], dtype=np.int64)


def _power(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["power"] = draw(st.integers(-LARGEST_POWER, LARGEST_POWER))


def _row_cut(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["row_cut"] = draw(st.integers(0, len(_main(subject, drawn))))


def _column_cut(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    count = _main(subject, drawn).shape[1]
    tiling = subject.traits.tiling
    width = (tiling.extents[1] if tiling is not None else None) or max(count, 1)
    drawn["column_cut"] = width * draw(st.integers(0, count // width))


def _place(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["place"] = draw(st.integers(0, max(_main(subject, drawn).size - 1, 0)))


def _shift(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    lo, hi = subject.options["ends"]
    drawn["shift"] = draw(st.integers(1, max(hi - lo, 1)))


def _infinity(draw: st.DrawFn, subject: Subject, drawn: Drawn) -> None:
    drawn["infinity"] = draw(st.sampled_from([np.inf, -np.inf]))


INGREDIENTS: dict[str, Ingredient] = {
    "x": _x,
    "ordinary": _ordinary,
    "filled": _filled,
    "weight": _weight,
    "hessian": _hessian,
    "alive_hessian": _alive_hessian,
    "tokens": _tokens,
    "layer": _layer,
    "cuts": _cuts,
    "codes": _codes,
    "row_order": _row_order,
    "column_order": _column_order,
    "power": _power,
    "row_cut": _row_cut,
    "column_cut": _column_cut,
    "place": _place,
    "shift": _shift,
    "infinity": _infinity,
}
