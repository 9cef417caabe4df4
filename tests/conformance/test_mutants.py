"""Every mutant is killed by a case whose flag says why it exists, and wrong in nothing but its fault."""

import pytest

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.compare import compare
from refquant.conformance.coverage import coverage, culprits, killers
from refquant.conformance.flags import FLAGS
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.catalog import all_mutants, right_programs

MUTANTS = {mutant.name: mutant for mutant in all_mutants()}
CASES = {name: list(read_vectors(golden_directory(), name).cases.values()) for name in OPERATIONS}


def killing(mutant, flag):
    """The cases with a flag that kill a mutant, one after the other: the first is often enough."""
    for case in CASES[mutant.operation]:
        if flag in case.flags and compare(find_operation(mutant.operation), case, mutant.run(case.inputs, case.parameters)):
            yield case


@pytest.mark.parametrize("name", MUTANTS)
def test_a_case_with_its_flag_kills_the_mutant(name):
    mutant = MUTANTS[name]
    assert any(killing(mutant, mutant.flag)), f"{name} ({mutant.what}) survives all cases flagged {mutant.flag!r}"


def test_coverage_counts_what_kills():
    mutants = [mutant for mutant in MUTANTS.values() if mutant.operation == "rounding.half_even"]
    for kills in coverage(CASES, mutants):
        assert kills.matching == tuple(case.id for case in killing(kills.mutant, kills.mutant.flag))
        assert set(kills.matching) <= set(kills.cases)
        assert kills.by_flag[kills.mutant.flag] == len(kills.matching)
        assert not kills.survives
    (nothing,) = coverage({}, mutants[:1])
    assert nothing.survives


@pytest.mark.parametrize("operation", right_programs())
def test_without_its_fault_no_case_complains_of_the_program(operation):
    assert [case.id for case in killers(right_programs()[operation], operation, CASES[operation])] == []


def test_every_mutant_comes_from_a_program_that_is_shown_right():
    assert {mutant.operation for mutant in MUTANTS.values()} <= set(right_programs())


@pytest.mark.parametrize("flag", FLAGS)
def test_some_bug_shows_on_every_flag(flag):
    """What no bug shows on is no reason for a case."""
    assert any(any(killing(mutant, flag)) for mutant in MUTANTS.values())


@pytest.mark.parametrize("name", ["half_even-floor_plus_half", "uniform-half_away", "uniform-cast_before_clip", "uniform-scale_not_stored"])
def test_a_wrong_answer_is_recognized(name):
    mutant = MUTANTS[name]
    case = next(killing(mutant, mutant.flag))
    assert name in [found.name for found in culprits(case, mutant.run(case.inputs, case.parameters))]


def test_a_right_answer_is_nobodys():
    for operation, cases in CASES.items():
        for case in cases[:3]:
            outputs = find_operation(operation).reference(case.inputs, case.parameters)
            assert culprits(case, outputs) == []
