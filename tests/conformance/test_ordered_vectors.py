"""Vectors whose values come from the ordered arithmetic: it gives their bytes, and the fast one stays within their rules."""

import numpy as np
import pytest

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.replayed_words import Uniforms, generator_of
from refquant.errors import InputError
from refquant.numerics import ORDERED
from refquant.numerics.draws import integers_below, words

CASES = [case for name in OPERATIONS for case in read_vectors(golden_directory(), name).cases.values() if case.source == "ordered"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_ordered_arithmetic_gives_the_bytes(case):
    found = find_operation(case.operation).reference(case.inputs, case.parameters, arithmetic=ORDERED)
    for part, expected in case.expected.items():
        assert found[part].dtype == expected.dtype, part
        assert np.ascontiguousarray(found[part]).tobytes() == expected.tobytes(), part


def test_there_are_such_vectors():
    assert {case.operation for case in CASES} >= {"transformer.forward", "checkpoint.quantize"}


def test_given_words_stand_for_a_generators_own():
    own = np.random.Generator(np.random.PCG64(7))
    given = generator_of(np.random.PCG64(7).random_raw(20))
    assert integers_below(given, 1000, 10).tolist() == integers_below(own, 1000, 10).tolist()
    assert words(given, 3).tolist() == words(own, 3).tolist()
    with pytest.raises(InputError, match="holds 20 raw words; 21"):
        words(given, 8)


def test_uniform_numbers_are_the_upper_bits():
    drawn = Uniforms(np.array([2**64 - 1, 2**40 + 2**39, 0], np.uint64))
    assert drawn.random((1, 1), np.float64)[0, 0] == 1 - 2.0**-53
    pair = drawn.random((2,), np.float32)
    assert pair.dtype == np.float32
    assert pair.tolist() == [2.0**-24, 0.0]
