"""Orders: against Python's own stable sort, on values chosen to tie."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.numerics.ordering import argsort_ascending, argsort_descending, top_k_indices

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.uint8, np.int64, np.bool_)


@given(values=st.lists(st.sampled_from([0, 1, 2, 3, 100, 127]), max_size=40), dtype=st.sampled_from(DTYPES))
def test_orders_are_those_of_pythons_stable_sort(values: list[int], dtype: type) -> None:
    array = np.array(values).astype(dtype)
    plain = [float(v) for v in array]
    ascending = sorted(range(len(plain)), key=lambda i: plain[i])
    descending = sorted(range(len(plain)), key=lambda i: -plain[i])
    assert argsort_ascending(array).tolist() == ascending
    assert argsort_descending(array).tolist() == descending
    for k in (0, 1, len(plain) // 2, len(plain)):
        if k <= len(plain):
            assert top_k_indices(array, k).tolist() == descending[:k]


def test_long_runs_of_equal_values_keep_their_order() -> None:
    # More than 16 elements: NumPy's default sort is only stable by accident below that.
    values = np.tile(np.array([1.0, 2.0], dtype=np.float32), 5000)
    assert argsort_descending(values).tolist() == [*range(1, 10_000, 2), *range(0, 10_000, 2)]
    assert argsort_ascending(values).tolist() == [*range(0, 10_000, 2), *range(1, 10_000, 2)]


def test_extremes_of_integers_do_not_wrap() -> None:
    assert argsort_descending(np.array([0, -128, 127], dtype=np.int8)).tolist() == [2, 0, 1]
    assert argsort_descending(np.array([0, 255, 1], dtype=np.uint8)).tolist() == [1, 2, 0]


def test_infinities_have_a_place_and_signed_zeros_tie() -> None:
    assert top_k_indices(np.array([-np.inf, 0.0, np.inf]), 3).tolist() == [2, 1, 0]
    assert argsort_descending(np.array([-0.0, 0.0, -0.0])).tolist() == [0, 1, 2]


def test_last_axis_of_many() -> None:
    values = np.array([[[3.0, 1.0, 3.0]], [[0.0, 5.0, 0.0]]])
    assert top_k_indices(values, 2).tolist() == [[[0, 2]], [[1, 0]]]
    assert top_k_indices(values[..., ::-1], 1).tolist() == [[[0]], [[1]]]
    assert argsort_descending(np.zeros((2, 0))).shape == (2, 0)


def test_what_is_not_allowed_is_said() -> None:
    with pytest.raises(InputError, match=r"NaN, found at index \(1, 0\)"):
        argsort_descending(np.array([[1.0], [np.nan]]))
    with pytest.raises(InputError, match="single number"):
        argsort_ascending(np.array(1.0))
    with pytest.raises(InputError, match="complex128"):
        argsort_ascending(np.array([1j]))
    for k in (-1, 3, 1.0, True):
        with pytest.raises(UsageError, match="0 to 2"):
            top_k_indices(np.array([1.0, 2.0]), k)  # type: ignore[arg-type]
