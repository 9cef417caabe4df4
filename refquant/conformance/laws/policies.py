"""Laws on numbers that are none: NaN and infinities do what was declared."""

from __future__ import annotations

import numpy as np

from refquant.conformance.laws.calls import answer_for, main_array
from refquant.conformance.laws.law import Example, Kind, Law, Subject, broken, require_same
from refquant.conformance.laws.tiles import tile_members
from refquant.numerics.arrays import Array

REFUSALS: tuple[type[Exception], ...] = (ValueError, ArithmeticError)  # refquant's own errors are both


def _with(x: Array, place: tuple[int, ...], value: float) -> Array:
    changed = x.copy()
    changed[place] = value
    return changed


def _place(example: Example, x: Array) -> tuple[int, ...]:
    """Index of the element that is replaced; drawn as a number so that it fits every shape."""
    return tuple(int(i) for i in np.unravel_index(int(example["place"]) % x.size, x.shape))


def _must_raise(subject: Subject, example: Example, changed: Array, what: str) -> None:
    try:
        found = answer_for(subject, example, changed)
    except REFUSALS:
        return
    broken(f"{what} was promised to raise ValueError or ArithmeticError, and gave {found.values.tolist()}")


def _must_propagate(subject: Subject, example: Example, changed: Array, place: tuple[int, ...], what: str) -> None:
    found = answer_for(subject, example, changed).values
    if np.isfinite(found[place]):
        broken(f"{what} at index {place} was promised to propagate, and became {float(found[place])!r}")
    if subject.traits.tiling is None:
        return
    plain = answer_for(subject, example).values
    for members in tile_members(subject.traits.tiling, changed.shape):
        if not members[place]:
            require_same(found[members], plain[members], f"a tile without {what} against the same tile before")


def _nan_policy(subject: Subject, example: Example) -> None:
    x = main_array(subject, example)
    place = _place(example, x)
    changed = _with(x, place, np.nan)
    match subject.traits.nan:
        case "raise":
            _must_raise(subject, example, changed, f"NaN at index {place}")
        case "zero":
            as_zero = answer_for(subject, example, _with(x, place, 0.0))
            require_same(answer_for(subject, example, changed).values, as_zero.values, "with NaN against with 0 in its place")
        case "propagate":
            _must_propagate(subject, example, changed, place, "NaN")


def _infinity_policy(subject: Subject, example: Example) -> None:
    x = main_array(subject, example)
    place, infinity = _place(example, x), float(example["infinity"])
    changed = _with(x, place, infinity)
    match subject.traits.infinity:
        case "raise":
            _must_raise(subject, example, changed, f"{infinity} at index {place}")
        case "saturate":
            found = answer_for(subject, example, changed).values
            if not np.isfinite(found).all():
                broken(f"{infinity} at index {place} was promised to saturate, and the result is {found.tolist()}")
        case "propagate":
            _must_propagate(subject, example, changed, place, str(infinity))


def _needs_nan(subject: Subject) -> str | None:
    return None if subject.traits.nan else "nobody said what NaN becomes; give spec= or traits="


def _needs_infinity(subject: Subject) -> str | None:
    return None if subject.traits.infinity else "nobody said what infinities become; give spec= or traits="


def policy_laws(kind: Kind, draws: tuple[str, ...]) -> tuple[Law, ...]:
    """Both laws for a family of functions; `draws` are the (not empty) arrays that its functions take."""
    return (
        Law(
            name="nan_policy",
            kind=kind,
            statement="NaN raises, counts as 0, or propagates inside its tile, as declared",
            draws=(*draws, "place"),
            needs=_needs_nan,
            check=_nan_policy,
        ),
        Law(
            name="infinity_policy",
            kind=kind,
            statement="infinities raise, saturate, or propagate inside their tile, as declared",
            draws=(*draws, "place", "infinity"),
            needs=_needs_infinity,
            check=_infinity_policy,
        ),
    )
