"""Extremes of rows, against Python's own comparison, element by element."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.numerics import extremes
from refquant.numerics.extremes import row_extremes


@given(
    st.sampled_from([np.float32, np.float64, np.int32, np.uint8]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 3, 4, 7, 8, 12, 16, 32, 48, 600])),
            elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False),
            fill=hnp.from_dtype(np.dtype(dtype), allow_nan=False),
        )
    )
)
def test_rows_have_the_extremes_that_a_loop_finds(x):
    lo, hi = row_extremes(x)
    assert lo.dtype == hi.dtype == x.dtype
    assert lo.tolist() == [min(row) for row in x.tolist()]
    assert hi.tolist() == [max(row) for row in x.tolist()]


@pytest.mark.parametrize("size", [3, 4, 32, 128, extremes.LONG])
def test_every_place_of_a_row_is_looked_at(size):
    for place in range(size):
        x = np.zeros((3, size), np.float32)
        x[1, place], x[2, place] = 5, -5
        lo, hi = row_extremes(x)
        assert (lo.tolist(), hi.tolist()) == ([0, 0, -5], [0, 5, 0])
        x[1, place] = np.nan
        lo, hi = row_extremes(x)
        assert np.isnan([lo[1], hi[1]]).all()
        assert not np.isnan([*lo[::2], *hi[::2]]).any()


def test_rows_may_lie_anywhere_in_memory():
    x = np.random.default_rng(0).integers(-99, 99, (40, 64)).astype(np.float32)
    for view in (x[::2, ::2], x.T, x[:, 3:35], x[::-1, ::-1]):
        lo, hi = row_extremes(view)
        assert lo.tolist() == [min(row) for row in view.tolist()]
        assert hi.tolist() == [max(row) for row in view.tolist()]


def test_the_argument_is_not_written_to():
    x = np.arange(256, dtype=np.float32).reshape(2, 128)
    x.flags.writeable = False
    lo, hi = row_extremes(x)
    lo += 1
    hi += 1
    assert x.sum() == 255 * 128
