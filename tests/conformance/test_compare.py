"""How answers are compared: each rule lets through what it says and nothing else; honest ties excuse what follows from them only."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.conformance.case import Case
from refquant.conformance.catalog import find_operation
from refquant.conformance.compare import compare, differences, ulps_apart
from refquant.conformance.operation import Operation, Part
from refquant.conformance.operations.gptq import OPERATION as GPTQ
from refquant.conformance.operations.gptq import spec_of
from refquant.conformance.reanchor import replay
from refquant.conformance.rules import BYTES, Rule, margin, scaled, ulp
from refquant.core import fit_grid
from refquant.errors import InputError, UsageError


def operation(**outputs):
    return Operation(
        name="some.thing",
        level="codes",
        doc="a test",
        inputs=(Part("x", "", "", ""),),
        outputs=tuple(Part(name, "", "", "") for name in outputs),
        reference=lambda inputs, parameters, *, arithmetic=None: dict(outputs),
        cases=lambda: iter(()),
    )


def held(expected, found, rule=BYTES, margins=None):
    case = Case(
        operation="some.thing",
        slug="a",
        parameters={},
        inputs={"x": np.ones(1)},
        expected={"y": expected},
        flags=("ordinary",),
        lane="exact",
        rules={"y": rule},
        margins={} if margins is None else {"y": margins},
    )
    return compare(operation(y=expected), case, {"y": found})


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        (np.zeros(2), np.array([0.0, -0.0]), "differs"),
        (np.array([np.nan]), np.array([1.0]), "differs"),
        (np.array([np.inf]), np.array([-np.inf]), "differs"),
        (np.zeros(2, np.uint8), np.zeros(3, np.uint8), "shape"),
        (np.zeros(2, np.uint8), np.zeros(2), "dtype"),
        (np.zeros(2, np.uint8), np.array([0, 256]), "dtype"),
        (np.zeros(1, np.float32), np.array([1e-60]), "dtype"),
        (np.zeros(1, np.float16), np.array([1e6]), "dtype"),
    ],
)
def test_bytes_tells_what_is_wrong(expected, found, told):
    (record,) = held(expected, found)
    assert told in record.why


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (np.zeros(2, np.uint8), np.zeros(2, np.int64)),
        (np.array([0.5, -0.0, np.nan], np.float32), np.array([0.5, -0.0, -np.nan])),
        (np.array([1.5], np.float64), np.array([1.5], np.float16)),
    ],
)
def test_the_same_values_in_another_dtype_are_right(expected, found):
    assert held(expected, found) == []


def test_a_record_names_the_first_of_all_wrong_elements():
    (record,) = held(np.arange(6).reshape(2, 3), np.array([[0, 1, 2], [3, 5, 4]]))
    assert (record.index, record.expected, record.found, record.count) == ((1, 1), 4, 5, 2)


def test_missing_and_unknown_outputs_are_told():
    case = next(find_operation("rounding.floor").cases())
    told = {record.part: record.why for record in compare(find_operation("rounding.floor"), case, {"z": np.ones(1)})}
    assert told == {"z": "has an output 'z' that the operation does not have", "y": "the output 'y' is missing"}


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-40, 40))
def test_ulps_are_steps_of_nextafter(x, steps):
    y = x
    for _ in range(abs(steps)):
        y = math.nextafter(y, math.inf if steps > 0 else -math.inf)
    if np.isfinite(y):
        assert ulps_apart(np.array([x]), np.array([y]))[0] == abs(steps)


def test_ulps_from_end_to_end():
    top = np.finfo(np.float32).max
    assert ulps_apart(np.array([top]), np.array([-top]))[0] == 2 * (0x7F7FFFFF)


def test_an_ulp_rule_ends_at_its_bound():
    x = np.array([1.0, np.nan, np.inf])
    near, far = x.copy(), x.copy()
    near[0], far[0] = 1 + 2 * 2.0**-52, 1 + 3 * 2.0**-52
    assert not differences(x, near, ulp(2))[0].any()
    assert differences(x, far, ulp(2))[0].tolist() == [True, False, False]
    assert differences(x, np.array([1.0, 0.0, -np.inf]), ulp(2))[0].tolist() == [False, True, True]


def test_a_scaled_rule_measures_by_the_largest():
    x = np.array([1e-9, 1000.0])
    assert not differences(x, x + 0.9e-3, scaled(1e-6))[0].any()
    assert differences(x, x + 1.1e-3, scaled(1e-6))[0].all()


def test_a_margin_rule_excuses_one_code_at_a_tie():
    codes, margins = np.array([3, 3, 3], np.uint8), np.array([0.0, 0.0, 0.2])
    assert held(codes, np.array([4, 3, 3], np.uint8), margin(1e-6), margins) == []
    assert held(codes, np.array([5, 3, 3], np.uint8), margin(1e-6), margins)[0].index == (0,)
    assert held(codes, np.array([3, 3, 2], np.uint8), margin(1e-6), margins)[0].margin == 0.2


@pytest.mark.parametrize("make", [lambda: Rule("near"), lambda: ulp(-1), lambda: margin(float("nan"))])
def test_a_rule_without_sense_is_refused(make):
    with pytest.raises(UsageError):
        make()


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(InputError):
        Rule.from_json({"bound": 1})


@pytest.fixture(scope="module")
def tied():
    """GPTQ on a diagonal plus a little: the first column of row 0 lies on a tie, and its decision moves the others."""
    case = next(case for case in GPTQ.cases() if case.slug == "asym_incl0-b4-row-ordinary")
    weight = np.array(case.inputs["weight"])
    margins = np.array(case.margins["codes"])
    row, column = 1, 0
    margins[row, column] = 0.0  # as if the weight lay on the boundary
    return Case(
        operation=case.operation,
        slug="tied",
        parameters=case.parameters,
        inputs={"weight": weight, "hessian": case.inputs["hessian"]},
        expected=case.expected,
        rules=case.rules | {"codes": margin(0.5)},
        margins={"codes": np.where(margins > 0, 0.6, 0.0)},
        flags=case.flags,
        lane=case.lane,
    ), (row, column)


def other_way(case, place, miss=0):
    """What an implementation gives that decides otherwise at one place, and rightly behind it; `miss` spoils its last code."""
    row, column = place
    outputs = {name: np.array(array) for name, array in case.expected.items()}
    codes = outputs["codes"]
    codes[row, column] += 1
    how = spec_of(case.parameters)
    grid = fit_grid(case.inputs["weight"], how)
    for later in range(column + 1, codes.shape[1]):
        decided = replay(case.inputs["weight"], outputs["factor"], outputs["order"], codes, how, grid).decided
        codes[row, later] = np.clip(np.rint(decided[row, later] / grid.scale[row, 0]) + grid.zero[row, 0], 0, 15)
    codes[row, -1] = np.clip(int(codes[row, -1]) + miss, 0, 15)
    outputs["errors"] = replay(case.inputs["weight"], outputs["factor"], outputs["order"], codes, how, grid).errors
    return outputs


def test_an_honest_tie_excuses_its_row(tied):
    case, place = tied
    outputs = other_way(case, place)
    assert (outputs["codes"] != case.expected["codes"]).sum() > 1  # others followed
    assert compare(GPTQ, case, outputs) == []


def test_it_excuses_no_other_row(tied):
    case, place = tied
    outputs = other_way(case, place)
    outputs["codes"][2, 4] += 1 if outputs["codes"][2, 4] < 15 else -1
    assert {record.part for record in compare(GPTQ, case, outputs)} == {"codes"}


def test_behind_an_honest_tie_codes_must_be_the_nearest(tied):
    case, place = tied
    before = other_way(case, place)["codes"][place[0], -1]
    outputs = other_way(case, place, miss=-2 if before > 7 else 2)
    (record,) = compare(GPTQ, case, outputs)
    assert record.index == (place[0], 9)
    assert "own past" in record.why


def test_behind_an_honest_tie_errors_must_belong_to_the_codes(tied):
    case, place = tied
    outputs = other_way(case, place)
    outputs["errors"][place[0], 5] += 0.01
    (record,) = compare(GPTQ, case, outputs)
    assert (record.part, record.index) == ("errors", (place[0], 5))


def test_a_tie_that_is_none_excuses_nothing(tied):
    case, place = tied
    outputs = other_way(case, (place[0], 1))
    assert next(record.part for record in compare(GPTQ, case, outputs)) == "codes"
