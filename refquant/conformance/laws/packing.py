"""Laws of packings: ``pack(codes)`` and ``unpack(packed, shape)``, which have to be a bijection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.conformance.laws.calls import arrays_of
from refquant.conformance.laws.law import Example, Law, Subject, always, broken, require_same
from refquant.conformance.laws.purity import purity_laws
from refquant.numerics.arrays import Array


def _unpacked(subject: Subject, packed: Any, shape: tuple[int, ...]) -> Array:
    if subject.also is None:
        raise TypeError("a law of packing was run without an unpack")  # check_packing always has one
    return np.asarray(subject.also(packed, shape))


def _identity(subject: Subject, example: Example) -> None:
    codes = example["codes"]
    require_same(_unpacked(subject, subject.call(codes), codes.shape), codes, "unpack(pack(codes)) against codes")


def _injective(subject: Subject, example: Example) -> None:
    codes, place = example["codes"], int(example["place"])
    lo, hi = subject.options["ends"]
    other = codes.copy()
    at = np.unravel_index(place % codes.size, codes.shape)
    other[at] = lo + (int(codes[at]) - lo + int(example["shift"])) % (hi - lo + 1)
    same = [a.tobytes() == b.tobytes() for a, b in zip(arrays_of(subject.call(codes)), arrays_of(subject.call(other)), strict=True)]
    if all(same):
        broken(f"codes that differ at {tuple(int(i) for i in at)} ({int(codes[at])} and {int(other[at])}) have the same bytes")


def _size(subject: Subject, example: Example) -> None:
    codes, bits = example["codes"], subject.options["bits"]
    found = sum(part.nbytes for part in arrays_of(subject.call(codes)))
    least = -(-codes.size * int(bits) // 8)
    if found < least:
        broken(f"{codes.size} codes of {bits} bits became {found} bytes; no bijection needs fewer than {least}")


def _law(name: str, statement: str, check: Callable[[Subject, Example], None], *draws: str) -> Law:
    return Law(name=name, kind="packing", statement=statement, draws=draws, needs=always, check=check)


PACKING_LAWS: tuple[Law, ...] = (
    _law("pack_identity", "unpack(pack(codes), shape) = codes", _identity, "codes"),
    _law("pack_injectivity", "different codes have different bytes", _injective, "codes", "place", "shift"),
    _law("pack_size", "there are at least as many bits as codes need", _size, "codes"),
    *purity_laws("packing", ("codes",)),
)
