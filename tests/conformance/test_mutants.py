"""Every mutant is killed by a case whose flag says why it exists, and wrong in nothing but its fault."""

import functools

import pytest

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.coverage import coverage, culprits, killers
from refquant.conformance.flags import FLAGS
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.catalog import all_mutants, right_programs

MUTANTS = {mutant.name: mutant for mutant in all_mutants()}


@functools.cache
def all_kills():
    return {kills.mutant.name: kills for kills in coverage(CASES)}


CASES = {name: list(read_vectors(golden_directory(), name).cases.values()) for name in OPERATIONS}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_case_with_its_flag_kills_the_mutant(name):
    kills = all_kills()[name]
    assert not kills.survives, (
        f"{name} ({MUTANTS[name].what}) survives all cases flagged {MUTANTS[name].flag!r}; killed by {kills.cases[:3]}"
    )


@pytest.mark.parametrize("operation", right_programs())
def test_without_its_fault_no_case_complains_of_the_program(operation):
    assert [case.id for case in killers(right_programs()[operation], operation, CASES[operation])] == []


def test_every_mutant_comes_from_a_program_that_is_shown_right():
    assert {mutant.operation for mutant in MUTANTS.values()} <= set(right_programs())


def test_there_are_no_more_flags_than_reasons():
    """Every flag has a mutant that a case with that flag kills; what no bug shows on is no reason."""
    killing = {flag for kills in all_kills().values() for flag in kills.by_flag}
    assert set(FLAGS) - killing == set()


@pytest.mark.parametrize("name", ["half_even-floor_plus_half", "uniform-half_away", "uniform-cast_before_clip", "uniform-scale_not_stored"])
def test_a_wrong_answer_is_recognized(name):
    mutant = MUTANTS[name]
    kills = all_kills()[name]
    case = next(case for case in CASES[mutant.operation] if case.id in kills.matching)
    assert name in [found.name for found in culprits(case, mutant.run(case.inputs, case.parameters))]


def test_a_right_answer_is_nobodys():
    for operation, cases in CASES.items():
        for case in cases[:3]:
            outputs = find_operation(operation).reference(case.inputs, case.parameters)
            assert culprits(case, outputs) == []
