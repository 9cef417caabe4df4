"""Laws hold for what is right and are broken by what is wrong, and their records say what happened."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.conformance.laws import (
    LAWS,
    BrokenLawError,
    Traits,
    check_packing,
    check_quantizer,
    check_rewrite,
    check_statistics,
    check_weight_method,
    find_law,
    replay,
)
from refquant.core import Tiling, spec
from refquant.errors import NumericalError, UsageError
from tests.conformance.wrong_companions import (
    RIGHT_STATISTICS,
    WRONG_PACKINGS,
    WRONG_REWRITES,
    WRONG_STATISTICS,
    pack_nibbles,
    rotation,
    smooth,
    unpack_nibbles,
)
from tests.conformance.wrong_functions import (
    GROUPS,
    HOW,
    ROWS,
    WEIGHTS,
    WRONG_METHODS,
    WRONG_QUANTIZERS,
    right,
    right_encode,
    right_in_groups,
    right_method,
    truncates,
    values,
)

KINDS = {
    "quantizer": WRONG_QUANTIZERS,
    "weight_method": WRONG_METHODS,
    "statistics": WRONG_STATISTICS,
    "packing": WRONG_PACKINGS,
    "rewrite": WRONG_REWRITES,
}


def run(kind, entry, **more):
    """Check a wrong function of `kind`; its partner is returned beside the report."""
    if kind == "quantizer":
        f, traits, encode = entry
        return f, encode, check_quantizer(f, traits=traits, encode=encode, **more)
    if kind == "weight_method":
        return entry, None, check_weight_method(entry, spec=HOW, traits=WEIGHTS, **more)
    if kind == "statistics":
        return *entry, check_statistics(*entry, **more)
    if kind == "packing":
        return *entry, check_packing(*entry, format="int4", **more)
    return entry, None, check_rewrite(entry, **more)


def test_every_law_has_a_function_that_breaks_it():
    for kind, laws in LAWS.items():
        assert {law.name for law in laws} == set(KINDS[kind]), kind


@pytest.mark.parametrize(("kind", "law"), [(kind, law) for kind, wrong in KINDS.items() for law in wrong])
def test_what_is_wrong_breaks_its_law_and_the_snippet_shows_it_again(kind, law):
    f, also, report = run(kind, KINDS[kind][law], laws=[law])
    record = report[law]
    assert record.verdict == "broken", str(report)
    assert record.found
    assert record.counterexample is not None
    assert not report.ok
    with pytest.raises(BrokenLawError, match=law):
        report.raise_if_broken()
    if law == "determinism":  # its functions have a state: what they say the next time is another thing
        return
    with np.errstate(all="ignore"), pytest.raises(Exception) as raised:  # noqa: PT011  (whatever the search met)
        exec(record.reproduction, {"f": f, "also": also})
    said = str(raised.value)
    assert said == record.found or record.found == f"{type(raised.value).__name__}: {said}"


@pytest.mark.parametrize(
    ("f", "traits"), [(right, ROWS), (right_in_groups, GROUPS), (lambda x: values(right(x)), ROWS)], ids=["rows", "groups", "values"]
)
def test_what_is_right_holds(f, traits):
    report = check_quantizer(f, traits=traits, encode=right_encode, refusals=(OverflowError,), examples=20)
    assert report.ok, str(report)
    skipped = {"chunk_independence"} if traits is ROWS else set()
    if report["half_step"].verdict == "not applicable":
        assert "returns numbers alone" in report["half_step"].reason
        skipped |= {"codes_in_range", "decoding", "half_step", "same_grid_idempotence"}
    assert set(report.laws("held")) == set(WRONG_QUANTIZERS) - skipped
    assert all(record.calls >= 10 for record in report if record.verdict == "held")


def test_what_is_right_of_the_other_kinds_holds():
    method = check_weight_method(right_method, spec=HOW, traits=WEIGHTS, examples=20)
    assert set(method.laws("held")) == set(WRONG_METHODS), str(method)
    assert set(check_statistics(*RIGHT_STATISTICS, examples=25).laws("held")) == set(WRONG_STATISTICS)
    assert set(check_packing(pack_nibbles, unpack_nibbles, format="int4", examples=50).laws("held")) == set(WRONG_PACKINGS)
    assert set(check_rewrite(smooth, examples=50).laws("held")) == set(WRONG_REWRITES)
    turned = check_rewrite(lambda w, x: (w @ rotation(len(w.T)), x @ rotation(len(w.T))), laws=["function_preserved"], examples=50)
    assert turned.ok, str(turned)


def test_counterexamples_are_small():
    record = check_quantizer(truncates, traits=ROWS, laws=["half_step"])["half_step"]
    x = record.counterexample["x"]
    assert x.size <= 2
    assert np.abs(x).max() <= 8
    assert (x * 2 == np.rint(x * 2)).all(), "integers or halves"
    lines = str(check_quantizer(truncates, traits=ROWS, laws=["half_step"]))
    assert lines.startswith("broken           half_step: between the end codes the error is at most half a step\n")
    assert f"x = {x.dtype.name} {x.tolist()}" in lines


def test_the_same_seed_finds_the_same():
    first, second = (check_quantizer(truncates, traits=ROWS, laws=["half_step"], seed=5)["half_step"] for _ in range(2))
    assert first.found == second.found
    assert first.calls == second.calls
    assert first.reproduction == second.reproduction
    counts = {check_quantizer(truncates, traits=ROWS, laws=["half_step"], seed=seed)["half_step"].calls for seed in range(3)}
    assert len(counts) > 1, "the seed has no effect"


def test_announced_failures():
    announced = {
        "half_step": "truncation, on purpose",
        "sign_symmetry": "was broken once",
        "chunk_independence": "groups come later",
        "rotation": "a typing error",
    }
    report = check_quantizer(truncates, traits=ROWS, laws=["half_step", "sign_symmetry", "chunk_independence"], expected_failures=announced)
    verdicts = {record.law: record.verdict for record in report}
    assert verdicts == {
        "half_step": "expected failure",
        "sign_symmetry": "expected failure but passed",
        "chunk_independence": "expected failure but passed",
        "rotation": "no such law",
    }
    assert "truncation, on purpose" in str(report)
    assert "does not apply" in report["chunk_independence"].reason
    assert not report.ok
    with pytest.raises(BrokenLawError, match="rotation"):
        check_quantizer(right, traits=ROWS, laws=["zero_kept"], expected_failures={"rotation": "?"}, raise_on_failure=True)
    fine = check_quantizer(truncates, traits=ROWS, laws=["half_step"], expected_failures={"half_step": "truncation"}, raise_on_failure=True)
    assert fine.ok


def test_what_nobody_promised_is_not_asked_for():
    report = check_quantizer(lambda x: values(right(x)), refusals=(OverflowError,), examples=10)
    assert set(report.laws("held")) == {"finite", "signed_zero", "determinism", "inputs_untouched", "layout_independence"}
    assert all("nobody said" in r.reason or "numbers alone" in r.reason or "encode=" in r.reason for r in report if r.verdict != "held")


@pytest.mark.parametrize(
    ("how", "field", "word"),
    [
        (spec("int4", scheme="sym_gptq"), "symmetric", "off centre"),
        (spec("int4", scheme="asym_incl0"), "symmetric", "zero point"),
        (spec("int8", scheme="sym_full", scale_format="bfloat16"), "symmetric", "one more code"),
        (spec("int4", scheme="asym_minmax"), "scalable", "floor"),
        (spec("int4", scheme="asym_omni"), "keeps_zero", "outside"),
        (spec("int4", rounding="floor"), "nearest", "floor"),
        (spec("int4", overflow="wrap"), "monotone", "saturate"),
        (spec("int4", mse=True), "order_free", "order"),
    ],
)
def test_promises_of_a_spec_come_with_reasons(how, field, word):
    assert word in getattr(Traits.of(how), field)


def test_refusals_do_not_count_and_errors_do():
    def picky(x):
        if np.abs(x).max(initial=0) > 100:
            raise NumericalError("too large")
        return right(x)

    assert check_quantizer(picky, traits=ROWS, laws=["finite"], refusals=(NumericalError, OverflowError)).ok
    record = check_quantizer(picky, traits=ROWS, laws=["finite"])["finite"]
    assert record.verdict == "broken"
    assert record.found == "NumericalError: too large"

    def never(x):
        raise NumericalError("no")

    assert "refused every example" in check_quantizer(never, laws=["finite"], refusals=(NumericalError,), examples=10)["finite"].reason


def test_a_function_that_fails_now_and_then_is_broken():
    calls = iter(range(10**6))

    def moody(x):
        if next(calls) == 37:
            raise ValueError("not today")
        return right(x)

    record = check_quantizer(moody, traits=ROWS, laws=["finite"])["finite"]
    assert record.verdict == "broken"
    assert "held when it was tried again" in record.found


@pytest.mark.parametrize("nan", ["propagate", "zero"])
def test_other_policies_on_nan(nan):
    def fills(x):
        return right(np.where(np.isnan(x), 0, x))

    def spreads(x):
        codes, scale = right(np.where(np.isfinite(x), x, 0))
        return np.where(np.isfinite(x), codes * scale, np.nan)

    f, other = (fills, spreads) if nan == "zero" else (spreads, fills)
    infinity = "propagate" if nan == "propagate" else "raise"
    promised = Traits(tiling=Tiling.channel(), nan=nan, infinity=infinity)
    assert check_quantizer(f, traits=promised, laws=["nan_policy", "infinity_policy"]).laws("held") == ("nan_policy", "infinity_policy")
    assert check_quantizer(other, traits=promised, laws=["nan_policy"]).laws("broken") == ("nan_policy",)


@pytest.mark.parametrize(
    "call",
    [
        lambda: check_quantizer(lambda x: "text", laws=["finite"]),
        lambda: check_quantizer(lambda x: (x, x), laws=["finite"]),
        lambda: check_quantizer(right, laws=["finit"]),
        lambda: check_quantizer(right, examples=0),
        lambda: check_rewrite(lambda w, x: w),
        lambda: find_law("quantiser", "finite"),
        lambda: replay("quantizer", "none", right, {}),
        lambda: check_quantizer(right, laws=["finite"], examples=1)["half_step"],
    ],
)
def test_misunderstandings_are_usage_errors(call):
    with pytest.raises(UsageError):
        call()


def test_scales_that_do_not_fit_are_a_finding():
    record = check_quantizer(lambda x: (np.zeros(x.shape, int), np.ones((7, 7))), laws=["finite"])["finite"]
    assert record.verdict == "broken"
    assert "fit neither" in record.found
