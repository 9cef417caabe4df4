"""Laws of weight methods: functions ``f(weight, hessian)`` that quantize ``[out, in]`` for inputs with that second moment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refquant.conformance.laws import coding_checks, symmetry_checks
from refquant.conformance.laws.answer import Answer, read_answer
from refquant.conformance.laws.calls import answer_for
from refquant.conformance.laws.law import Example, Law, Subject, always, broken, first_index, number, require_same
from refquant.conformance.laws.needs import needs_separate_rows, promised
from refquant.conformance.laws.policies import REFUSALS, policy_laws
from refquant.conformance.laws.purity import purity_laws
from refquant.core import fake_quantize, fit_grid

Check = Callable[[Subject, Example], None]
Need = Callable[[Subject], str | None]


def _ask(subject: Subject, weight: object, hessian: object) -> Answer:
    return read_answer(subject.call(weight, hessian), subject.traits.tiling)


def _identity_hessian(subject: Subject, example: Example) -> None:
    """With independent inputs of equal power there is nothing to compensate: the result is rounding to nearest by the spec."""
    weight, spec = example["weight"], subject.spec
    if spec is None:
        return
    wide = weight.astype(np.float64)
    expected = fake_quantize(wide, fit_grid(wide, spec), spec)
    found = _ask(subject, weight, np.ldexp(np.eye(weight.shape[1]), 2 * example["power"]))
    require_same(found.values, expected, "f(w, 4^k I) against rounding to nearest in float64")


def _hessian_scaling(subject: Subject, example: Example) -> None:
    """A power of 4 times the Hessian changes nothing (its root is exact, so not even last bits move)."""
    weight, hessian = example["weight"], example["hessian"]
    scaled = _ask(subject, weight, np.ldexp(hessian, 2 * example["power"]))
    require_same(scaled.values, _ask(subject, weight, hessian).values, f"f(w, 4^{example['power']} H) against f(w, H)")


def _dead_inputs(subject: Subject, example: Example) -> None:
    """Columns whose inputs were always 0 do not touch the others, and become 0."""
    weight, hessian = example["weight"], example["hessian"].copy()
    column = int(example["place"]) % weight.shape[1]
    hessian[column] = hessian[:, column] = 0
    other = weight.copy()
    other[:, column] = other[:, column] * 3 + 1
    first, second = _ask(subject, weight, hessian).values, _ask(subject, other, hessian).values
    require_same(second, first, f"f after column {column}, whose input is always 0, was changed against f before")
    moved = first[:, column] != 0
    if moved.any():
        at = first_index(moved)
        broken(f"the weight at {(*at, column)}, whose input is always 0, became {number(first[(*at, column)])}")


def _zero_rows(subject: Subject, example: Example) -> None:
    """A row of zeros stays one: there is no error to pass on."""
    weight = example["weight"].copy()
    weight[0] = 0
    found = answer_for(subject, example, weight).values[0]
    if (found != 0).any():
        broken(f"a row of zeros became {found.tolist()}")


def _hessian_checked(subject: Subject, example: Example) -> None:
    """A Hessian with NaN, of another size or not symmetric is refused."""
    weight, hessian = example["weight"], example["hessian"]
    poisoned = hessian.copy()
    poisoned[0, 0] = np.nan
    lopsided = np.pad(np.eye(weight.shape[1]), ((0, 0), (0, 1)))
    for what, wrong in (("with NaN", poisoned), ("that is not square", lopsided), ("of another size", np.eye(weight.shape[1] + 1))):
        try:
            found = subject.call(weight, wrong)
        except REFUSALS:
            found = None
        if found is not None:
            broken(f"a Hessian {what} was not refused with ValueError or ArithmeticError")


def _needs_spec(subject: Subject) -> str | None:
    if subject.spec is None:
        return "nobody said what rounding to nearest is; give spec="
    return None if subject.spec.clip_search is None else promised("order_free")(subject)


def _law(name: str, statement: str, check: Check, needs: Need, *draws: str) -> Law:
    return Law(name=name, kind="weight_method", statement=statement, draws=draws, needs=needs, check=check)


BOTH = ("weight", "hessian")
WEIGHT_METHOD_LAWS: tuple[Law, ...] = (
    _law("finite", "finite numbers give finite numbers in the same places", coding_checks.total, always, *BOTH),
    _law("codes_in_range", "codes are members of the format, scales positive", coding_checks.codes_in_range, promised(ends=True), *BOTH),
    _law("decoding", "numbers are scale * (code - zero)", coding_checks.decoding, always, *BOTH),
    _law("identity_hessian", "f(w, 4^k I) is rounding to nearest", _identity_hessian, _needs_spec, "weight", "power"),
    _law(
        "hessian_scaling",
        "f(w, 4^k H) = f(w, H) where no input is dead",
        _hessian_scaling,
        promised("hessian_scalable"),
        "weight",
        "alive_hessian",
        "power",
    ),
    _law("dead_inputs", "columns whose inputs are 0 become 0 and touch no other", _dead_inputs, promised("dead_inputs"), *BOTH, "place"),
    _law("sign_symmetry", "f(-w, H) = -f(w, H)", symmetry_checks.sign_symmetry, promised("symmetric"), *BOTH),
    _law("scaling", "f(2^k w, H) = 2^k f(w, H), with the same codes", symmetry_checks.scaling, promised("scalable"), *BOTH, "power"),
    _law("zero_kept", "a row of zeros stays one", _zero_rows, promised("keeps_zero"), *BOTH),
    _law("row_permutation", "rows can be exchanged", symmetry_checks.row_permutation, needs_separate_rows, *BOTH, "row_order"),
    _law(
        "batch_independence",
        "rows alone give what they give among others",
        symmetry_checks.batch_independence,
        needs_separate_rows,
        *BOTH,
        "row_cut",
    ),
    _law("hessian_checked", "Hessians with NaN or of another shape are refused", _hessian_checked, always, *BOTH),
    *purity_laws("weight_method", BOTH),
    *policy_laws("weight_method", BOTH),
)
