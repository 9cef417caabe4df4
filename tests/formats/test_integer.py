"""Integer formats against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.errors import UsageError
from refquant.formats import FORMATS, INTEGERS, IntFormat, find_format
from refquant.formats.catalog import NARROW_UNSIGNED


def test_the_catalogue_is_complete() -> None:
    assert len(INTEGERS) == 16 + 16 + 15
    assert sorted(entry.name for entry in INTEGERS) == sorted(
        [f"int{b}" for b in range(1, 17)] + [f"uint{b}" for b in range(1, 17)] + [f"int{b}_narrow" for b in range(2, 17)]
    )
    for name, entry in FORMATS.items():
        assert entry.name == name
        assert find_format(name) is entry


@pytest.mark.parametrize("entry", [*INTEGERS, *NARROW_UNSIGNED], ids=str)
def test_members_are_what_the_bits_can_hold(entry: IntFormat) -> None:
    patterns = range(1 << entry.bits)
    if entry.signed:
        values = sorted(int.from_bytes(p.to_bytes(4, "little"), "little") - ((p >> (entry.bits - 1)) << entry.bits) for p in patterns)
    else:
        values = list(patterns)
    if entry.narrow and entry.signed:
        values = values[1:]
        assert values[0] == -values[-1]
    elif entry.narrow:
        values = values[:-1]
        assert len(values) == len(IntFormat(bits=entry.bits, signed=True, narrow=True).members)
    assert list(entry.members) == values
    assert (entry.lo, entry.hi) == (values[0], values[-1])
    assert np.array([entry.lo, entry.hi]).astype(entry.dtype).tolist() == [entry.lo, entry.hi]
    assert entry.dtype.itemsize == (1 if entry.bits <= 8 else 2)


@pytest.mark.parametrize("bits", [0, 17, -1, 4.0, "4", True, None])
def test_widths_that_are_none(bits: object) -> None:
    with pytest.raises(UsageError, match="1 to 16 bits"):
        IntFormat(bits=bits, signed=True)  # type: ignore[arg-type]


def test_what_is_not_allowed_is_said() -> None:
    with pytest.raises(UsageError, match="only the number 0"):
        IntFormat(bits=1, signed=True, narrow=True)
    with pytest.raises(UsageError, match="True or False"):
        IntFormat(bits=4, signed=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown format 'nf5'"):
        find_format("nf5")
