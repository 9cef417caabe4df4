"""What is said of a wrong answer is true: held against the vectors' exact values, and against the mutants whose mistakes are known."""

import functools
from fractions import Fraction

import numpy as np
import pytest

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.compare import compare
from refquant.conformance.diagnosis import diagnose, same_elements
from refquant.conformance.explain import distance, explain
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.lookup import surroundings
from refquant.conformance.mutants.catalog import all_mutants
from refquant.conformance.stages import first_stage

MUTANTS = {mutant.name: mutant for mutant in all_mutants()}


@functools.cache
def cases(operation):
    return read_vectors(golden_directory(), operation).cases


def wrong_cases(mutant, most):
    """Cases with the mutant's flag that it fails, with its outputs and the mismatches."""
    operation = find_operation(mutant.operation)
    found = []
    for case in cases(mutant.operation).values():
        if mutant.flag in case.flags and len(found) < most:
            outputs = mutant.run(case.inputs, case.parameters)
            if mismatches := compare(operation, case, outputs):
                found.append((case, outputs, mismatches))
    return found


@pytest.mark.parametrize("name", MUTANTS)
def test_every_known_mistake_is_recognized_and_explained(name):
    mutant = MUTANTS[name]
    operation = find_operation(mutant.operation)
    found = wrong_cases(mutant, 3)
    diagnoses, by_case = diagnose(operation, [(case, outputs) for case, outputs, _ in found], [])
    assert name in {d.mutant for d in diagnoses if d.explains == d.wrong == len(found)}
    for case, outputs, mismatches in found:
        for explanation in explain(operation, case, mismatches, outputs, by_case[case.id], "--pipe ./it"):
            assert any(line.startswith(f"{name}: ") for line in explanation.mutants)
            assert explanation.reproduce == f"refquant conform --pipe ./it --case {case.id}"


def test_the_right_answer_is_no_mistake():
    for operation in OPERATIONS:
        wrong = [(case, dict(case.expected)) for case in list(cases(operation).values())[:5]]
        assert diagnose(find_operation(operation), wrong, [])[0] == ()


def test_a_mistake_that_is_wrong_elsewhere_too_does_not_pass_for_the_same():
    """Truncation explains the negative numbers of the one that floors ties; on the rest it is another."""
    even = find_operation("rounding.half_even")
    chosen = {slug: cases(even.name)[f"{even.name}/{slug}"] for slug in ("f32-ties", "f32-ordinary")}
    up = np.floor(chosen["f32-ties"].inputs["x"] + np.float32(0.5))
    (first, *_), _ = diagnose(even, [(chosen["f32-ties"], {"y": up})], [chosen["f32-ordinary"]])
    assert (first.mutant, first.elsewhere_right) == ("half_even-floor_plus_half", True)
    cut = np.trunc(chosen["f32-ties"].inputs["x"])
    (first, *_), _ = diagnose(even, [(chosen["f32-ties"], {"y": cut})], [chosen["f32-ordinary"]])
    assert (first.mutant, first.elsewhere_right) == ("half_even-truncates", False)


def test_the_numbers_of_a_tie_by_hand():
    """-10379/4 and -10377/4 are the neighbours of -20757/8 = -2594.625 on the grid of quarters, code 0 at 21845 quarters."""
    case = cases("uniform.quantize")["uniform.quantize/asym_incl0-b16-g16-f16-ties"]
    mutant = MUTANTS["uniform-half_away"]
    operation = find_operation("uniform.quantize")
    outputs = mutant.run(case.inputs, case.parameters)
    (e,) = explain(operation, case, compare(operation, case, outputs), outputs, [mutant], "--backend a:b")
    assert (e.part, e.index, e.margin, e.apart) == ("codes", (0, 1), 0.0, "1 too small")
    x, scale, zero = e.around.inputs
    assert (x.label, x.decimal, x.hexadecimal, x.exact) == ("x[0, 1]", "-2594.625", "-0x1.4454000000000p+11", "-20757/8")
    assert (scale.exact, zero.exact) == ("1/4", "21845")
    assert [(n.label, n.exact) for n in e.around.neighbours] == [
        ("code 11466", str(Fraction(11466 - 21845, 4))),
        ("code 11467", str(Fraction(11467 - 21845, 4))),
    ]


def test_the_expected_code_is_one_of_the_two_neighbours_and_the_margin_is_the_oracles():
    """All codes of every case: what lies around an element is computed from its grid, the codes and margins came from the oracle."""
    seen = 0
    for operation in ("uniform.quantize", "gptq.codes"):
        for number, case in enumerate(cases(operation).values()):
            if operation == "uniform.quantize" and (number % 4 or case.parameters["rounding"] != "half_even"):
                continue
            codes = case.expected["codes"]
            for index in list(np.ndindex(codes.shape))[:: 7 if operation == "uniform.quantize" else 5]:
                around = surroundings(case, "codes", index)
                labels = [n.label for n in around.neighbours]
                if labels:
                    seen += 1
                    assert f"code {codes[index]}" in labels, (case.id, index)
                    inside = "beyond" not in around.place
                    if inside and case.margins["codes"][index] < 0.5:
                        # The oracle's is 0 where the quotient, rounded in float32, crossed a tie.
                        rounding = 2.0 ** (case.parameters["bits"] - 23)
                        assert around.margin == pytest.approx(case.margins["codes"][index], abs=rounding), (case.id, index)
    assert seen > 1500


@pytest.mark.parametrize("operation", ["activation.per_token", "uniform.dequantize", *[f"rounding.{m}" for m in ("floor", "half_away")]])
def test_the_expected_value_is_one_of_the_neighbours(operation):
    for case in cases(operation).values():
        (part,) = case.expected
        values = case.expected[part]
        for index in list(np.ndindex(values.shape))[::3]:
            around = surroundings(case, part, index)
            if around.neighbours:
                near = {np.float64(n.decimal).astype(values.dtype) for n in around.neighbours}
                assert values[index] in near, (case.id, index)


def test_neighbours_lie_on_both_sides():
    case = cases("uniform.quantize")["uniform.quantize/asym_incl0-b4-g16-own-ramp"]
    for index in np.ndindex(case.inputs["x"].shape):
        around = surroundings(case, "codes", index)
        if len(around.neighbours) == 2 and "beyond" not in around.place:
            low, high = (Fraction(n.exact) for n in around.neighbours)
            assert low <= Fraction(float(case.inputs["x"][index])) <= high


def test_a_value_beyond_the_codes_is_said_to_be():
    seen = {True: 0, False: 0}
    for case in cases("uniform.quantize").values():
        if "saturation" in case.flags and case.parameters["granularity"] == "tensor":
            scale, zero = (Fraction(float(case.expected[name][0, 0])) for name in ("scale", "zero"))
            bits, signed = case.parameters["bits"], case.expected["codes"].dtype.kind == "i"
            lo = -(2 ** (bits - 1)) + (case.parameters["scheme"] == "sym_narrow") if signed else 0
            hi = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
            for index, x in np.ndenumerate(case.inputs["x"]):
                beyond = not lo <= Fraction(float(x)) / scale + zero <= hi
                assert ("beyond" in surroundings(case, "codes", index).place) == beyond, (case.id, index)
                seen[beyond] += 1
    assert min(seen.values()) > 20


def test_the_tile_of_a_scale_is_the_one_that_its_extremes_come_from():
    case = cases("uniform.quantize")["uniform.quantize/asym_incl0-b4-g16-own-blocks"]
    x = case.inputs["x"]
    for row, tile in np.ndindex(case.expected["scale"].shape):
        inside = x[row, 16 * tile : 16 * tile + 16]
        least, largest, _, scale, _ = surroundings(case, "scale", (row, tile)).inputs
        assert (np.float32(least.decimal), np.float32(largest.decimal)) == (inside.min(), inside.max())
        assert np.float32(scale.decimal) == case.expected["scale"][row, tile]


@pytest.mark.parametrize(
    ("mutant", "stage"),
    [
        ("gptq-ascending", "order"),
        ("gptq-largest_damping", "damped"),
        ("gptq-damped_before_dead", "damped"),
        ("gptq-factor_of_hessian", "factor"),
        ("gptq-lower_factor", "factor"),
        ("gptq-opposite_sign", "at step 1 (column "),
        ("gptq-stale_groups", "scale"),
        ("gptq-order_not_undone", "codes"),
        ("uniform-zero_off_by_one", "zero"),
        ("uniform-levels_off_by_one", "scale"),
        ("uniform-half_away", "codes"),
    ],
)
def test_the_first_step_that_departs_is_named(mutant, stage):
    mutant = MUTANTS[mutant]
    operation = find_operation(mutant.operation)
    for case, outputs, mismatches in wrong_cases(mutant, 4):
        told = first_stage(operation, case, mismatches, outputs)
        assert stage in told.partition(", of ")[0].partition(" are right; ")[2 if " are right; " in told else 0], (case.id, told)


def test_several_mistakes_at_once_are_still_hinted_at():
    case = cases("uniform.quantize")["uniform.quantize/sym_full-b4-g16-own-ties"]
    wrong = MUTANTS["uniform-half_away"].run(case.inputs, case.parameters)
    both = {"codes": wrong["codes"], "scale": wrong["scale"] * np.float32(2), "zero": wrong["zero"]}
    operation = find_operation("uniform.quantize")
    scale, codes = explain(operation, case, compare(operation, case, both), both, [], "--pipe ./it")
    assert (scale.part, codes.part) == ("scale", "codes")
    assert any(hint.startswith("uniform-half_away: ") for hint in codes.hints)
    assert "uniform-half_away" in [m.name for m in same_elements(case, "codes", both)]


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        (np.float32(1), np.float32(1) - np.float32(2**-23), "2 ulp too small"),
        (np.float64(-1), np.float64(1), "2 too large"),
        (np.float32(1), np.float32("inf"), "one is no finite number"),
        (np.float64("nan"), np.float64(0), "one is no finite number"),
        (np.uint8(0), np.int64(-3), "3 too small"),
    ],
)
def test_distances(expected, found, told):
    assert distance(expected, found) == told
