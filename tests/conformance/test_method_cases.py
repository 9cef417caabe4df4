"""What the cases of the methods promise about themselves: no decision hangs on a rounding error unless it is an exact tie."""

import numpy as np
import pytest

from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.numbers import counted


def cases(operation):
    return read_vectors(golden_directory(), operation).cases.values()


@pytest.mark.parametrize("case", cases("ia_aq.search"), ids=lambda case: case.slug)
def test_the_least_loss_is_least_by_far_or_all_are_zero(case):
    losses = case.expected["losses"].reshape(len(case.parameters["alphas"]), -1)
    for column in losses.T:
        least, following = np.sort(column)[:2]
        assert following > least * (1 + 1e-6) or not column.any()


@pytest.mark.parametrize("case", cases("ia_aq.search"), ids=lambda case: case.slug)
def test_no_value_lies_near_a_tie_of_any_candidate(case):
    """Ties are left to other cases: here a code that rounding decides would change the loss."""
    alphas, chosen = np.array(case.parameters["alphas"]), case.expected["chosen"]
    widest = case.expected["scale"] / alphas[chosen]  # [kv heads, features or 1]
    for alpha in alphas:
        steps = case.inputs["values"] / (alpha * widest[None, :, None, :])
        away = np.abs(np.abs(steps - np.floor(steps)) - 0.5)
        inside = np.abs(steps) < 2 ** case.parameters["bits"]
        assert away[inside].min() > 1e-12


def test_counted_numbers_stay_within_their_bits():
    found = counted(7, (50, 20), 5, 2.0**-3)
    assert sorted(set((found * 8).ravel().tolist())) == [float(n) for n in range(-16, 16)]
