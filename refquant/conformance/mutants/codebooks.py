"""Codebooks by looking at every distance, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "exact_midpoints": ("near-tie", "the middle is not rounded to float32, where the format's is"),
    "rounded_midpoints": ("near-tie", "the middle is rounded to float32, where the format's is not"),
    "x_in_float32": ("near-tie", "numbers are rounded to float32 first"),
    "x_in_float16": ("near-tie", "numbers are rounded to float16 first"),
    "ties_other_way": ("tie", "on ties the other neighbour is taken"),
    "ties_to_even_code": ("tie", "ties go to the even code whatever the rule"),
    "wrong_middle": ("near-tie", "the boundary above a member is a thousandth of the gap too high"),
    "lower_member": ("near-tie", "the member below is taken"),
    "sorted_codes": ("special-codes", "codes count the members from the lowest, whatever the order of the table"),
    "last_of_equals": ("special-codes", "of two codes of a number the higher is written"),
    "one_zero": ("negative-zero", "the second code of 0 is never written"),
    "zero_by_sign": ("negative-zero", "the second code of 0 is written for negative numbers"),
    "wraps": ("out-of-range", "what lies beyond the last member takes the first"),
    "infinity_is_zero": ("not-finite", "infinities become the number nearest 0"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def encode(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Encode; wrong in one way if a fault is named."""
    table = np.asarray(inputs["table"])
    with np.errstate(over="ignore", under="ignore"):
        narrow = {"x_in_float32": np.float32, "x_in_float16": np.float16}.get(fault, np.float64)
        x = np.asarray(inputs["x"]).astype(narrow).astype(np.float64)
    order = np.argsort(table.astype(np.float64), kind="stable")
    if fault == "last_of_equals":
        order = np.lexsort((-np.arange(len(table)), table.astype(np.float64)))
    members = table.astype(np.float64)[order]
    kept = np.append(True, members[1:] != members[:-1])
    members, order = members[kept], order[kept]
    place = np.array([_place(float(number), members, order, parameters, fault) for number in x], dtype=np.int64)
    codes = place if fault == "sorted_codes" else order[place]
    second = parameters["zero_from_above"]
    if second is not None and fault != "one_zero":
        codes = np.where((members[place] == 0) & ((x < 0) if fault == "zero_by_sign" else (x > 0)), second, codes)
    return {"codes": codes.astype(np.uint8), "y": table[codes]}


def _place(x: float, members: Array, order: Array, parameters: Parameters, fault: str) -> int:
    last = len(members) - 1
    if fault == "infinity_is_zero" and np.isinf(x):
        return int(np.argmin(np.abs(members)))
    if fault == "wraps" and x > members[last]:
        return 0
    upper = int(np.searchsorted(members, x))
    if upper > last or upper == 0 or members[upper] == x:
        return min(upper, last)
    lower, rule = upper - 1, str(parameters["rounding"])
    if rule in ("floor", "ceil") or fault == "lower_member":
        return upper if rule == "ceil" and fault != "lower_member" else lower
    a, b = float(members[lower]), float(members[upper])
    middle = (a + b) / 2
    rounded = parameters["midpoints"] == "float32"
    if (rounded and fault != "exact_midpoints") or fault == "rounded_midpoints":
        middle = float(np.float32(middle))
    if fault == "wrong_middle":
        middle += (b - a) / 1000
    if x != middle:
        return upper if x > middle else lower
    equal = abs(a) == abs(b)
    up = {
        "half_up": True,
        "half_down": False,
        "half_away": equal or abs(b) > abs(a),
        "half_zero": equal or abs(b) < abs(a),
        "half_even": order[upper] % 2 == 0,
    }["half_even" if fault == "ties_to_even_code" else rule]
    return upper if bool(up) != (fault == "ties_other_way") else lower


MUTANTS = tuple(
    Mutant(name=f"codebook-{fault}", operation="codebook.encode", flag=flag, what=what, run=partial(encode, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"codebook.encode": encode}
