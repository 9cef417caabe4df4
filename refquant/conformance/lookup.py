"""What decided one element: the numbers that went into it, and the two neighbours on the grid between which the choice was.

Everything is taken from the vector, never from the backend: what should have been decided, and how closely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.element import forms
from refquant.conformance.operations import gptq as gptq_vectors
from refquant.conformance.operations import per_token, uniform_quantize
from refquant.conformance.reanchor import replay
from refquant.core import QuantSpec, Tiling, fit_grid
from refquant.numerics.arrays import Array

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A labelled number in three forms."""

    label: str
    decimal: str
    hexadecimal: str
    exact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Around one element: its inputs, the neighbours, and where between them the exact value lies, in steps."""

    inputs: tuple[Number, ...] = ()
    neighbours: tuple[Number, ...] = ()
    place: str = ""
    margin: float | None = field(default=None)


def number(label: str, value: Any) -> Number:
    """A NumPy number or a Fraction in three forms.

    Examples
    --------
    >>> number("x", np.float32(0.5))
    Number(label='x', decimal='0.5', hexadecimal='0x1.0000000000000p-1', exact='1/2')
    """
    if isinstance(value, Fraction):
        return Number(label, repr(float(value)), float(value).hex(), str(value))
    return Number(label, *forms(value))


def surroundings(case: Case, part: str, index: Index) -> Surroundings:
    """Look around an element of an expected part.

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> ties = next(c for c in find_operation("rounding.half_even").cases() if c.slug == "f32-ties")
    >>> around = surroundings(ties, "y", (0,))
    >>> around.inputs[0].exact, [n.decimal for n in around.neighbours], around.margin
    ('-17/2', ['-9.0', '-8.0'], 0.0)
    """
    name = case.operation
    for beginning, look in _LOOKS.items():
        if name.startswith(beginning):
            found = look(case, part, index)
            if found is not None:
                return found
    return Surroundings(inputs=_same_place(case, part, index))


def _same_place(case: Case, part: str, index: Index) -> tuple[Number, ...]:
    shape = case.expected[part].shape
    return tuple(number(_at(name, index), array[index]) for name, array in case.inputs.items() if array.shape == shape)


def _at(name: str, index: Index) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


def _between(place: Fraction, lo: int, hi: int, value: Callable[[int], Fraction]) -> tuple[tuple[Number, ...], str, float]:
    """The codes beside an exact place in steps, the place in words, and its distance from the nearest tie."""
    below = max(lo, min(hi, place.numerator // place.denominator))
    codes = [below, min(hi, below + 1)] if place >= below else [below]
    neighbours = tuple(number(f"code {code}", value(code)) for code in dict.fromkeys(codes))
    inside = lo <= place <= hi
    where = f"{float(place):.17g} steps" + ("" if inside else f", beyond the codes {lo}..{hi}")
    away = abs(place - below - Fraction(1, 2)) if inside else abs(place - (lo if place < lo else hi))
    return neighbours, where, float(away)


def _rounding(case: Case, part: str, index: Index) -> Surroundings | None:
    x = case.inputs["x"][index]
    if not np.isfinite(x):
        return None
    exact = Fraction(float(x))
    below = exact.numerator // exact.denominator
    ends = [below] if exact == below else [below, below + 1]
    neighbours = tuple(number(f"integer {end}", Fraction(end)) for end in ends)
    away = abs(exact - below - Fraction(1, 2))
    return Surroundings(inputs=_same_place(case, part, index), neighbours=neighbours, place=f"{float(x)!r}", margin=float(away))


def _quantized(
    name: str, value: Any, scale: Any, zero: Any, limits: tuple[int, int], index: Index, inputs: tuple[Number, ...] = ()
) -> Surroundings:
    """A value, its grid, and the codes beside it."""
    given = (*inputs, number(_at(name, index), value), number("scale", scale), number("zero", zero))
    if not np.isfinite(value):
        return Surroundings(inputs=given)
    step, offset = Fraction(float(scale)), int(zero)
    place = Fraction(float(value)) / step + offset
    neighbours, where, away = _between(place, *limits, lambda code: step * (code - offset))
    return Surroundings(inputs=given, neighbours=neighbours, place=where, margin=away)


def _spread(tiling: Tiling, entries: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.broadcast_to(tiling.expand(entries, shape), shape))


def _limits(how: QuantSpec) -> tuple[int, int]:
    return int(how.format.lo), int(how.format.hi)


def _tile(case: Case, index: Index, tiling: Tiling) -> Surroundings:
    """Extremes of the tile that an entry of scale or zero belongs to."""
    x = case.inputs["x" if "x" in case.inputs else "weight"]
    names = np.arange(np.prod(case.expected["scale"].shape)).reshape(case.expected["scale"].shape)
    inside = _spread(tiling, names, x.shape) == names[index]
    values, places = x[inside], np.argwhere(inside)
    ends = ((int(np.argmin(values)), "least"), (int(np.argmax(values)), "largest"), (int(np.argmax(np.abs(values))), "largest magnitude"))
    inputs = tuple(number(f"{what} of the tile, {_at('x', tuple(map(int, places[i])))}", values[i]) for i, what in ends)
    grid = tuple(number(f"expected {name}", case.expected[name][index]) for name in ("scale", "zero"))
    return Surroundings(inputs=(*inputs, *grid))


def _uniform(case: Case, part: str, index: Index) -> Surroundings | None:
    how = uniform_quantize.spec_of(case.parameters)
    if part != "codes":
        return _tile(case, index, how.tiling)
    x = case.inputs["x"]
    scale, zero = (_spread(how.tiling, case.expected[name], x.shape)[index] for name in ("scale", "zero"))
    return _quantized("x", x[index], scale, zero, _limits(how), index)


def _per_token(case: Case, part: str, index: Index) -> Surroundings | None:
    how, x = per_token.spec_of(case.parameters), np.asarray(case.inputs["x"], dtype=np.float32)
    grid = fit_grid(x, how)
    zero = np.zeros(grid.scale.shape, np.int32) if grid.zero is None else grid.zero
    here = [_spread(how.tiling, np.asarray(array), x.shape)[index] for array in (grid.scale, zero)]
    return _quantized("x", x[index], here[0], int(here[1]), _limits(how), index)


def _dequantized(case: Case, part: str, index: Index) -> Surroundings | None:
    codes, group = case.inputs["codes"], case.parameters["group"]
    tile = (index[0], index[1] // (group or codes.shape[1]))
    given = [number(_at("codes", index), codes[index])] + [number(_at(name, tile), case.inputs[name][tile]) for name in ("scale", "zero")]
    dtype = np.dtype(case.parameters["dtype"])
    exact = Fraction(float(case.inputs["scale"][tile])) * (int(codes[index]) - int(case.inputs["zero"][tile]))
    nearest = dtype.type(float(case.expected[part][index]))
    beside = sorted({np.nextafter(nearest, dtype.type(np.inf * (1 if exact >= float(nearest) else -1))), nearest})
    return Surroundings(
        inputs=(*given, number("scale * (code - zero)", exact)), neighbours=tuple(number(f"{dtype}", value) for value in beside)
    )


def _clip(case: Case, part: str, index: Index) -> Surroundings | None:
    group = case.parameters["group"]
    return _tile(case, index, Tiling.channel() if group is None else Tiling.group(group))


def _gptq(case: Case, part: str, index: Index) -> Surroundings | None:
    if part in ("order", "damped"):
        order = case.expected["order"]
        place = tuple(int(order[i]) for i in index) if part == "damped" else (int(order[index]),) * 2
        return Surroundings(inputs=(number(_at("hessian", place), case.inputs["hessian"][place]),))
    if part not in ("codes", "errors"):
        return Surroundings()
    how, order, weight = gptq_vectors.spec_of(case.parameters), case.expected["order"], _living(case)
    whole = case.parameters["group"] is None or case.parameters["static_groups"]
    fixed = fit_grid(weight, how) if whole else None
    past = replay(weight, case.expected["factor"], order, case.expected["codes"], how, fixed)
    column = index[1] if part == "codes" else int(order[index[1]])
    step = int(np.flatnonzero(order == column)[0])
    width = case.parameters["group"] or weight.shape[1]
    group = (column if case.parameters["static_groups"] else step) // width
    row = index[0]
    scale, zero = case.expected["scale"][row, group], case.expected["zero"][row, group]
    inputs = (number(_at("weight", (row, column)), weight[row, column]),)
    name = f"column {column} when it is decided (step {step}), value"
    return _quantized(name, past.decided[row, column], scale, zero, _limits(how), (row, column), inputs)


def _living(case: Case) -> Array:
    """The weight with dead columns set to zero."""
    return np.asarray(np.where(np.diagonal(case.inputs["hessian"]) == 0, 0.0, case.inputs["weight"]))


_LOOKS: dict[str, Callable[[Case, str, Index], Surroundings | None]] = {
    "rounding.": _rounding,
    "uniform.quantize": _uniform,
    "uniform.dequantize": _dequantized,
    "activation.per_token": _per_token,
    "grid.clip_search": _clip,
    "gptq.codes": _gptq,
}
"""By the beginning of the operation's name; whatever is not here shows the inputs at the same index."""
