"""The strategies reach what they are there to reach, and shrink to what a person can read."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from refquant.conformance.strategies import activations, confidences, hessians, masks, numbers, schemes, specs, tilings, weights
from refquant.core import SCHEMES
from refquant.errors import UsageError
from refquant.numerics.casting import FLOAT_DTYPES
from refquant.numerics.rounding import Rounding

EXAMPLES = settings(max_examples=250, database=None, derandomize=True, deadline=None, phases=[Phase.generate])


def subnormal(w):
    return bool(w.size) and bool(((w != 0) & (np.abs(w) < np.finfo(w.dtype).smallest_normal)).any())


def spread(w):
    """Largest over smallest magnitude of a row."""
    rows = [np.abs(row[row != 0]).astype(float) for row in w]
    return max((row.max() / row.min() for row in rows if row.size), default=1)


def has_tie(w):
    """A row in which the step of some usual grid is 1, with a half in it."""
    return any(row.size and np.abs(row).max() in (1, 3, 7, 15, 127, 255) and (np.mod(row, 1) == 0.5).any() for row in w)


NASTY_WEIGHTS = {
    "no rows": lambda w: w.shape[0] == 0,
    "no columns": lambda w: w.shape[1] == 0 < w.shape[0],
    "ragged groups of 4": lambda w: w.shape[1] > 4 and w.shape[1] % 4 != 0,
    "negative zero": lambda w: bool((np.signbit(w) & (w == 0)).any()),
    "subnormal": subnormal,
    "near overflow": lambda w: bool(w.size) and bool((np.abs(w) >= np.finfo(w.dtype).max / 4).any()),
    "outlier": lambda w: w.shape[1] > 2 and spread(w) > 1e4,
    "constant row": lambda w: any(row.size > 2 and row[0] != 0 and (row == row[0]).all() for row in w),
    "equal rows": lambda w: len(w) > 1 and w.shape[1] > 2 and len(np.unique(w, axis=0)) < len(w) and bool((w != 0).all(axis=1).any()),
    "row of zeros": lambda w: any(row.size and not row.any() for row in w),
    "one-signed row": lambda w: any(row.size > 2 and (row > 0).all() and len(np.unique(row)) > 1 for row in w),
    "ties": has_tie,
    "float16": lambda w: w.dtype == np.float16,
    "float64": lambda w: w.dtype == np.float64,
}


def test_weights_reach_everything_nasty_often():
    seen = Counter()

    @EXAMPLES
    @given(weights())
    def look(w):
        assert np.isfinite(w).all()
        seen.update(name for name, there in NASTY_WEIGHTS.items() if there(w))

    with np.errstate(all="ignore"):
        look()
    rare = {name: seen[name] for name in NASTY_WEIGHTS if seen[name] < 3}
    assert not rare, f"of 250 examples: {rare}"


@pytest.mark.parametrize(
    ("name", "shrunk"),
    [
        ("no rows", np.empty((0, 1), np.float32)),
        ("negative zero", np.array([[-0.0]], np.float32)),
        ("row of zeros", np.array([[0.0]], np.float32)),
        ("float64", np.array([[0.0]])),
        ("one-signed row", np.array([[1.0, 1.0, 2.0]], np.float32)),
        ("constant row", np.array([[1.0, 1.0, 1.0]], np.float32)),
    ],
)
def test_weights_shrink_to_few_small_numbers(name, shrunk):
    found = find(weights(), NASTY_WEIGHTS[name], settings=settings(derandomize=True, database=None, max_examples=3000))
    assert found.dtype == shrunk.dtype
    assert found.size <= shrunk.size + 2, found
    assert sorted(np.abs(found[found != 0]).tolist()) == sorted(np.abs(shrunk[shrunk != 0]).tolist())


def test_ties_shrink_to_one_beside_its_maximum():
    found = find(weights(), has_tie, settings=settings(derandomize=True, database=None, max_examples=3000))
    assert found.size <= 4
    assert np.count_nonzero(found) == 2
    assert np.abs(found).max() <= 7


def check_numbers(name, dtype):
    @EXAMPLES
    @given(numbers(name), numbers(name, nasty=False))
    def look(value, ordinary):
        assert float(np.float64(value).astype(dtype)) == value
        assert ordinary == 0 or 1 / 8 <= abs(ordinary) <= 256

    look()


def test_numbers_are_the_dtypes_own():
    for name, dtype in FLOAT_DTYPES.items():
        check_numbers(name, dtype)
    assert find(numbers(), lambda v: v > 2.2) == 3.0
    assert find(numbers(), lambda v: v % 1 != 0) in (0.5, -0.5, 1.5)


def test_activations_have_outlier_channels_and_tokens():
    seen = Counter()

    @EXAMPLES
    @given(activations())
    def look(x):
        a = np.abs(x).astype(float)
        seen["channel"] += min(x.shape) > 1 and bool((a.min(axis=0) > 8 * np.median(a)).any())
        seen["token"] += min(x.shape) > 1 and bool((a.min(axis=1) > 8 * np.median(a)).any())
        seen["zero token"] += not a.any(axis=1).all()
        seen["equal tokens"] += len(np.unique(x, axis=0)) < len(x)

    look()
    assert min(seen[name] for name in ("channel", "token", "zero token", "equal tokens")) >= 3, seen


def exact_pivots(h):
    """Pivots of LDL^T in fractions, with the largest diagonal first; all non-negative means positive semidefinite."""
    a = [[Fraction(v) for v in row] for row in h.tolist()]
    left, pivots = list(range(len(a))), []
    while left:
        p = max(left, key=lambda i: a[i][i])
        pivots.append(a[p][p])
        left.remove(p)
        for i in left:
            if a[p][p]:
                factor = a[i][p] / a[p][p]
                for j in range(len(a)):
                    a[i][j] -= factor * a[p][j]
            else:
                assert a[i][p] == 0, "a zero on the diagonal beside something else: indefinite"
    return pivots


def test_hessians_are_positive_semidefinite_in_fractions_and_of_any_rank():
    seen = Counter()

    @EXAMPLES
    @given(hessians(max_size=5))
    def look(h):
        assert np.array_equal(h, h.T)
        pivots = exact_pivots(h)
        assert min(pivots) >= 0
        rank = sum(p > 0 for p in pivots)
        seen["full"] += rank == len(h)
        seen["deficient"] += 0 < rank < len(h)
        seen["nothing"] += rank == 0
        seen["dead"] += bool((np.diag(h) == 0).any() and h.any())
        seen["near singular"] += rank == len(h) and max(pivots) > 10**9 * min(pivots)
        seen["diagonal"] += len(h) > 1 and np.count_nonzero(h - np.diag(np.diag(h))) == 0
        seen["correlated"] += bool(np.count_nonzero(h - np.diag(np.diag(h))))

    look()
    for name in ("full", "deficient", "nothing", "dead", "near singular", "diagonal", "correlated"):
        assert seen[name] >= 3, (name, seen)
    assert find(hessians(2), lambda h: True).tolist() == np.eye(2).tolist()

    @EXAMPLES
    @given(hessians(max_size=4, dead=False, singular=False))
    def definite(h):
        assert min(exact_pivots(h)) > 0

    definite()


def test_specs_are_of_every_kind():
    seen = set()

    @settings(EXAMPLES, max_examples=450)
    @given(specs())
    def look(s):
        seen.update([("scheme", s.scheme.name), ("bits", s.format.bits), ("rounding", s.rounding), ("scale", s.scale_format)])
        seen.update([("overflow", s.overflow), ("nan", s.nan), ("search", s.clip_search is not None), ("reciprocal", s.scheme.reciprocal)])
        seen.update([("extents", tuple(e if e is None else min(e, 2) for e in s.tiling.extents)), ("ratio", s.range_ratio < 1)])

    look()
    wanted = (
        {("scheme", name) for name in SCHEMES} | {("rounding", r) for r in Rounding} | {("bits", b) for b in (1, 2, 3, 4, 5, 6, 7, 8, 16)}
    )
    wanted |= {("scale", s) for s in (None, "float16", "bfloat16", "float32", "float64")} | {("nan", n) for n in ("raise", "zero")}
    wanted |= {("overflow", o) for o in ("saturate", "wrap", "raise")} | {
        (n, b) for n in ("search", "reciprocal", "ratio") for b in (True, False)
    }
    wanted |= {("extents", (rows, columns)) for rows in (None, 1, 2) for columns in (None, 1, 2)}
    assert wanted <= seen, wanted - seen
    first = find(specs(), lambda s: True)
    assert (first.format.name, first.tiling.extents, first.clip_search) == ("int4_narrow", (1, None), None)


@given(specs(overflow="wrap", nan="zero"), tilings(3), schemes(["sym_gptq"], reciprocal=False))
def test_what_is_fixed_stays_fixed(s, tiling, scheme):
    assert (s.overflow, s.nan, len(tiling.extents), scheme) == ("wrap", "zero", 3, SCHEMES["sym_gptq"])


def test_masks_and_confidences_reach_every_state_of_a_sampler():
    seen = Counter()

    @EXAMPLES
    @given(st.data())
    def look(data):
        m = data.draw(masks())
        s = data.draw(confidences(m))
        assert m.dtype == bool
        assert s.shape == m.shape
        assert ((s >= 0) & (s <= 1)).all()
        seen["all"] += bool(m.all())
        seen["none"] += not m.any()
        seen["prompt, then mixed"] += bool(not m[0] and m.any() and not m[int(np.argmax(m)) :].all())
        seen["blocks"] += bool(len(m) > 3 and not m[:2].any() and m[-2:].all())
        seen["visible behind masked"] += bool(m[0] and not m[-1])
        seen["ties"] += bool((s[m] > 0).any() and len(np.unique(s[m])) < m.sum())
        seen["zero"] += bool((s == 0).any())
        seen["one"] += bool((s == 1).any())
        seen["almost one"] += bool(((s < 1) & (s > 1 - 1e-9)).any())
        seen["visible certain"] += bool((~m).any() and (s[~m] > 0.99).all())

    look()
    rare = {name: count for name, count in seen.items() if count < 3}
    assert not rare, seen
    assert len(seen) == 10, seen
    assert find(masks(), lambda m: m.any()).tolist() == [True]
    assert find(confidences(1), lambda s: s[0] > 0.3).tolist() == [1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: find(weights(patterns=("plain", "odd")), lambda w: True),
        lambda: find(weights(dtypes=("int8",)), lambda w: True),
        lambda: numbers("float8"),
        lambda: schemes(["sym"]),
        lambda: find(masks(patterns=("most",)), lambda m: True),
    ],
)
def test_unknown_names_are_usage_errors(make):
    with pytest.raises(UsageError):
        make()


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)


def test_hypothesis_is_imported_by_nobody_who_does_not_ask_for_it():
    done = run(
        "import sys, refquant.conformance, refquant.conformance.laws; "
        "assert not {'hypothesis', 'pytest', '_pytest'} & set(sys.modules), 'imported'"
    )
    assert done.returncode == 0, done.stderr


def test_without_hypothesis_the_extra_is_named():
    hidden = "import sys; sys.modules['hypothesis'] = None; "
    done = run(hidden + "import refquant.conformance.strategies")
    assert "UsageError" in done.stderr
    assert "refquant[testing]" in done.stderr
    done = run(hidden + "from refquant.conformance.laws import check_quantizer; check_quantizer(abs)")
    assert "UsageError" in done.stderr
    assert "refquant[testing]" in done.stderr
