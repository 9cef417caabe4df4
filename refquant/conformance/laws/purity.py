"""Laws of every function, whatever it computes: the same answer twice, inputs left alone, no opinion on memory layouts."""

from __future__ import annotations

import numpy as np

from refquant.conformance.laws.calls import ARGUMENTS, arguments, arrays_of
from refquant.conformance.laws.law import Example, Kind, Law, Subject, always, broken
from refquant.numerics.arrays import Array


def _answers(subject: Subject, inputs: tuple[Array, ...]) -> list[Array]:
    return [np.array(part) for part in arrays_of(subject.call(*inputs))]


def _require_same_bytes(found: list[Array], expected: list[Array], what: str) -> None:
    if len(found) != len(expected):
        broken(f"{what}: {len(found)} arrays instead of {len(expected)}")
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype or one.tobytes() != other.tobytes():
            broken(f"{what}: array {index} of the answer is {one.tolist()} instead of {other.tolist()}")


def _determinism(subject: Subject, example: Example) -> None:
    inputs = arguments(subject, example)
    first = _answers(subject, inputs)
    first_input = inputs[0]
    other = (
        first_input * first_input.dtype.type(0.5) if first_input.dtype.kind == "f" else first_input[::-1]
    )  # still in any interval with 0
    _require_same_bytes(_answers(subject, inputs), first, "the second call")
    subject.call(other, *inputs[1:])  # a state that survives a call would show now
    _require_same_bytes(_answers(subject, inputs), first, "the call after one with other numbers")


def _inputs_untouched(subject: Subject, example: Example) -> None:
    names, inputs = ARGUMENTS[subject.kind], tuple(array.copy() for array in arguments(subject, example))
    before = [array.tobytes() for array in inputs]
    expected = _answers(subject, inputs)
    for name, array, original in zip(names, inputs, before, strict=True):
        if array.tobytes() != original:
            broken(f"the function wrote into its argument {name}: it is {array.tolist()} now")
    for array in inputs:
        array.flags.writeable = False
    _require_same_bytes(_answers(subject, inputs), expected, "the answer to arrays that refuse writes")


def _layout_independence(subject: Subject, example: Example) -> None:
    inputs = arguments(subject, example)
    expected = _answers(subject, inputs)
    for what, lay in (("Fortran order", np.asfortranarray), ("a strided view", _strided), ("negative strides", _mirrored)):
        _require_same_bytes(_answers(subject, tuple(lay(array) for array in inputs)), expected, f"the answer to {what}")


def _strided(x: Array) -> Array:
    wide = np.zeros(tuple(2 * length for length in x.shape), dtype=x.dtype)
    view = wide[(slice(None, None, 2),) * x.ndim]
    view[...] = x
    return view


def _mirrored(x: Array) -> Array:
    backwards = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[backwards])[backwards]


def purity_laws(kind: Kind, draws: tuple[str, ...]) -> tuple[Law, ...]:
    """The three laws for a family of functions; `draws` are the arrays that its functions take."""
    return (
        Law(
            name="determinism",
            kind=kind,
            statement="the same input gives the same bytes, whatever was asked in between",
            draws=draws,
            needs=always,
            check=_determinism,
        ),
        Law(
            name="inputs_untouched",
            kind=kind,
            statement="inputs are not written to, and may refuse to be",
            draws=draws,
            needs=always,
            check=_inputs_untouched,
        ),
        Law(
            name="layout_independence",
            kind=kind,
            statement="the memory layout of inputs changes nothing",
            draws=draws,
            needs=always,
            check=_layout_independence,
        ),
    )
