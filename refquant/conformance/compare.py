"""Hold what a backend gave against a vector, by the rule of each part.

Codes of the bounded lane may differ where the vector's decision margin is at most the bound of the rule: there, two correct computations
may decide differently. In a method that feeds errors back (GPTQ), everything behind such a decision rightly differs as well. So those are
compared row by row, in the order of decisions: the first difference must be such an honest tie, and behind it the comparison is anchored
again at the backend's own past: the operation's `reanchor` says by how many steps each of the backend's codes misses the nearest one, given
what the backend chose before, and none may miss by more than the bound; other parts are held against what follows from those codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Operation
from refquant.conformance.reanchor import Reanchored
from refquant.conformance.rules import Rule
from refquant.numerics.arrays import Array, BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One thing that is wrong.

    `index` is None where a whole part is wrong (absent, shape, dtype); `count` is the number of wrong elements of the part, of which this
    is the first; `margin` is the decision margin of the vector there, or by how many steps the re-anchored code misses the nearest.
    """

    case: str
    part: str
    index: tuple[int, ...] | None
    expected: Any
    found: Any
    rule: str
    why: str
    count: int = 1
    margin: float | None = None


def compare(operation: Operation, case: Case, found: Mapping[str, Array]) -> list[Mismatch]:
    """Everything in which `found` breaks the rules of a case, at most one record a part.

    Parameters
    ----------
    operation : Operation
    case : Case
    found : mapping of str to ndarray
        The backend's outputs; integers may come in any integer dtype, floats in any that holds the same values.

    Returns
    -------
    list of Mismatch
        Empty if the backend is right.

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> floor = find_operation("rounding.floor")
    >>> case = next(floor.cases())
    >>> [m.why for m in compare(floor, case, {"y": -case.expected["y"]})]
    ['the value differs']
    """
    records: list[Mismatch] = []
    stray = sorted(set(found) - set(case.expected))
    for part in stray:
        records.append(_whole(case, part, "no such output", f"has an output {part!r} that the operation does not have"))
    converted: dict[str, Array] = {}
    for part, expected in case.expected.items():
        if part not in found:
            records.append(_whole(case, part, "absent", f"the output {part!r} is missing"))
            continue
        array = np.asarray(found[part])
        if array.shape != expected.shape:
            records.append(_whole(case, part, array.shape, f"shape {array.shape}, expected is {expected.shape}"))
            continue
        cast = _same_values(array, expected.dtype)
        if cast is None:
            records.append(_whole(case, part, array.dtype.name, f"dtype {array.dtype} holds values that {expected.dtype} does not"))
            continue
        converted[part] = cast
    anchored = None
    if operation.reanchor is not None and len(converted) == len(case.expected):
        honest = _honest_rows(case, converted)
        anchored = _Anchored(honest, operation.reanchor(case, converted)) if honest.any() else None
    for part, array in converted.items():
        records += _part(case, part, array, anchored)
    return records


@dataclass(frozen=True, slots=True)
class _Anchored:
    """Rows that go their own way behind an honest tie, and what their own past demands of them."""

    honest: BoolArray
    given_past: Reanchored


def _whole(case: Case, part: str, found: Any, why: str) -> Mismatch:
    return Mismatch(case=case.id, part=part, index=None, expected=None, found=found, rule=str(case.rule(part)), why=why)


def _same_values(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """`array` in the expected dtype if that changes no value; None if it does, or if one is a number and the other is not."""
    if array.dtype == dtype:
        return array
    kinds = {"i": "integer", "u": "integer", "b": "bool", "f": "float", "V": "float"}  # ml_dtypes are of kind V
    if kinds.get(array.dtype.kind) != kinds.get(dtype.kind):
        return None
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        back = cast.astype(array.dtype)
    same = (back == array) | ((back != back) & (array != array))
    return cast if bool(np.asarray(same).all()) else None


def _part(case: Case, part: str, found: Array, anchored: _Anchored | None) -> Iterator[Mismatch]:
    expected, rule, margins = case.expected[part], case.rule(part), case.margins.get(part)
    wrong, why = differences(expected, found, rule, margins)
    if anchored is not None and expected.ndim and len(expected) == len(anchored.honest):
        own = np.reshape(anchored.honest, (-1,) + (1,) * (expected.ndim - 1))
        if part in anchored.given_past.beyond:
            beyond = np.asarray(anchored.given_past.beyond[part])
            missed = own & (beyond > rule.bound)
            if missed.any() and not (wrong & ~own).any():
                margins, why = beyond, "behind an honest tie and given its own past, the code is not the nearest"
            wrong = (wrong & ~own) | missed
        elif part in anchored.given_past.expected:
            expected = np.where(own, np.asarray(anchored.given_past.expected[part], dtype=expected.dtype), expected)
            wrong, why = differences(expected, found, rule, margins)
        else:
            wrong = wrong & ~own
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()
    yield Mismatch(
        case=case.id,
        part=part,
        index=index,
        expected=expected[index].item(),
        found=found[index].item(),
        rule=str(rule),
        why=why,
        count=int(np.count_nonzero(wrong)),
        margin=None if margins is None else float(margins[index]),
    )


def _honest_rows(case: Case, found: Mapping[str, Array]) -> BoolArray:
    """Rows whose first differing decision, in the order of decisions, lies at a margin within the bound, and is off by one code."""
    for part, rule in case.rules.items():
        expected = case.expected[part]
        if rule.kind == "margin" and expected.ndim == 2:
            order = decision_order(case, expected.shape[1])
            apart = np.abs(expected.astype(np.float64) - found[part].astype(np.float64))[:, order]
            rows, first = np.arange(len(expected)), np.argmax(apart != 0, axis=1)
            at_first = np.asarray(case.margins[part])[:, order][rows, first]
            return np.asarray((apart[rows, first] == 1) & (at_first <= rule.bound))
    return np.zeros(0, dtype=bool)


def decision_order(case: Case, columns: int) -> Array:
    """The order in which columns are decided: the case's expected or given ``order``, or from left to right."""
    for arrays in (case.expected, case.inputs):
        if "order" in arrays:
            return np.asarray(arrays["order"])
    return np.arange(columns)


def differences(expected: Array, found: Array, rule: Rule, margins: Array | None = None) -> tuple[BoolArray, str]:
    """Which elements break a rule, and what to say of them; both arrays have one dtype and shape."""
    if rule.kind == "bytes":
        return _unequal(expected, found), "the value differs"
    if rule.kind == "margin":
        if margins is None:
            return _unequal(expected, found), "the value differs"
        far = np.abs(found.astype(np.float64) - expected.astype(np.float64)) > 1 if expected.dtype.kind in "iu" else np.False_
        return np.asarray((expected != found) & ((margins > rule.bound) | far)), f"no honest tie: its margin exceeds {rule.bound:g} steps"
    finite = np.isfinite(expected) & np.isfinite(found)
    odd = _unequal(expected, found) & ~finite
    wide = [np.where(finite, array, 0).astype(np.float64) for array in (expected, found)]
    if rule.kind == "ulp":
        return np.asarray(odd | (ulps_apart(*[w.astype(expected.dtype) for w in wide]) > rule.bound)), f"more than {rule.bound:g} ulp apart"
    largest = float(np.abs(wide[0]).max(initial=0.0))
    far = np.asarray(np.abs(wide[0] - wide[1]) > rule.bound * largest)
    return odd | far, f"off by more than {rule.bound:g} of the largest, {largest:g}"


def _unequal(expected: Array, found: Array) -> BoolArray:
    """Other bytes; all NaN are one."""
    if expected.dtype.kind in "iub":
        return np.asarray(expected != found)
    same = (expected == found) & (np.signbit(expected) == np.signbit(found))
    return np.asarray(~(same | (np.isnan(expected) & np.isnan(found))))


def ulps_apart(a: Array, b: Array) -> Array:
    """How many representable numbers lie between two finite floats, elementwise; -0.0 and 0.0 are one.

    Examples
    --------
    >>> ulps_apart(np.array([1.0, 0.0, 5e-324]), np.array([1.0000000000000002, -0.0, -5e-324]))
    array([1., 0., 2.])
    """
    places = []
    for array in (a, b):
        size = array.dtype.itemsize
        bits = np.ascontiguousarray(array).view(f"u{size}").astype(np.uint64)
        magnitude = (bits & np.uint64((1 << (8 * size - 1)) - 1)).astype(np.int64)
        places.append(np.where(np.signbit(array), -magnitude, magnitude))
    # Modulo 2^64 the difference is exact, even that of the largest numbers of both signs.
    return np.asarray(np.maximum(*places).view(np.uint64) - np.minimum(*places).view(np.uint64)).astype(np.float64)
