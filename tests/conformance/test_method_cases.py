"""What the cases of the methods promise about themselves: no decision hangs on a rounding error unless it is an exact tie."""

import numpy as np
import pytest

from refquant.conformance.catalog import find_operation
from refquant.conformance.compare import compare
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.gptq import layer
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


@pytest.mark.parametrize("case", cases("gptq.layer"), ids=lambda case: case.slug)
def test_a_backend_in_float32_conforms(case):
    found = layer(case.inputs, case.parameters, working=np.float32)
    assert found["losses"].dtype == np.float64
    assert compare(find_operation("gptq.layer"), case, found) == []


@pytest.mark.parametrize("push", [-1, 1])
@pytest.mark.parametrize("slug", ["close", "close-dynamic-g4"])
def test_either_side_of_an_honest_tie_conforms_and_a_slip_behind_it_does_not(slug, push):
    (case,) = [case for case in cases("gptq.layer") if case.slug == slug]
    operation, middle = find_operation("gptq.layer"), case.inputs["weight"].shape[1] // 2
    assert case.margins["codes"][:, middle].max() < 1e-5
    weight = case.inputs["weight"].astype(np.float64)
    weight[:, middle] += push * 1e-5 * case.expected["scale"][:, 0]
    found = operation.reference({**case.inputs, "weight": weight}, case.parameters)
    assert compare(operation, case, found) == []
    other = found["codes"][:, middle] != case.expected["codes"][:, middle]
    if other.any():
        row = int(np.argmax(other))
        slipped = found["codes"].copy()
        slipped[row, -1] = 1 if slipped[row, -1] == 0 else slipped[row, -1] - 1
        assert [m.part for m in compare(operation, case, found | {"codes": slipped})][:1] == ["codes"]


def test_both_sides_of_the_ties_are_seen():
    for slug in ("close", "close-dynamic-g4"):
        (case,) = [case for case in cases("gptq.layer") if case.slug == slug]
        middle = case.inputs["weight"].shape[1] // 2
        sides = []
        for push in (-1, 1):
            weight = case.inputs["weight"].astype(np.float64)
            weight[:, middle] += push * 1e-5 * case.expected["scale"][:, 0]
            sides.append(find_operation("gptq.layer").reference({**case.inputs, "weight": weight}, case.parameters)["codes"][:, middle])
        assert (sides[0] != sides[1]).all()


@pytest.mark.parametrize("case", [c for c in cases("gptq.codes") if c.source == "ordered"], ids=lambda case: case.slug)
def test_large_layers_hold_no_near_ties(case):
    assert case.margins["codes"].min() > 1e-8


@pytest.mark.parametrize("case", cases("awq.factors"), ids=lambda case: case.slug)
def test_the_chosen_exponent_is_best_by_far_or_all_are_the_same(case):
    least, following = np.sort(case.expected["losses"])[:2]
    assert following > least * (1 + 1e-6) or np.ptp(case.expected["losses"]) == 0
