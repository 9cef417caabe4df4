"""FAIR-style token weights against a loop over tokens in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.methods.diffusion.fair_weights import fair_weights


def by_hand(masked, s, frontier, lead, boost, weight, floor, normalize):
    """[FAIRW-1] [FAIRW-2] [FAIRW-3]  one sequence."""
    places = [i for i, m in enumerate(masked) if m]
    hits = sorted(places, key=lambda i: (-s[i], i))[:frontier]
    exact = [Fraction(float(value)) for value in s]
    norms = {
        "none": Fraction(1),
        "mean": sum((exact[i] for i in places), Fraction(0)) / max(len(places), 1),
        "max": max((exact[i] for i in places), default=Fraction(0)),
    }
    norm = norms[normalize] or Fraction(1)
    share = Fraction(len(places), len(masked))
    found = []
    for i, m in enumerate(masked):
        w = Fraction(floor)
        if i in hits:
            w += Fraction(lead) * (1 + Fraction(boost) * share)
        if m:
            w += Fraction(weight) * exact[i] / norm
        found.append(float(w))
    return found


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from(["mean", "max", "none"]), st.floats(0, 1))
def test_weights_are_those_of_the_definition(seed, frontier, normalize, ratio):
    rng = np.random.default_rng(seed)
    masked, s = rng.random((3, 9)) < ratio, rng.integers(0, 5, (3, 9)) / 4  # ties on purpose
    numbers = (1.5, 0.5, 0.75, 0.25)
    found = fair_weights(
        masked,
        s,
        frontier=frontier,
        frontier_weight=numbers[0],
        early_boost=numbers[1],
        masked_weight=numbers[2],
        floor=numbers[3],
        normalize=normalize,
    )
    for row in range(3):
        np.testing.assert_allclose(found[row], by_hand(masked[row], s[row], frontier, *numbers, normalize), rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fair_weights(np.ones((1, 2)), np.ones((1, 2))), InputError, "boolean"),
        (lambda: fair_weights(np.ones(2, dtype=bool), np.ones(2)), InputError, r"\[sequences, tokens\]"),
        (lambda: fair_weights(np.ones((1, 2), dtype=bool), np.full((1, 2), 1.5)), InputError, r"\[0, 1\]; found 1.5"),
        (lambda: fair_weights(np.ones((1, 2), dtype=bool), np.ones((1, 2)), floor=-1), UsageError, "floor"),
        (lambda: fair_weights(np.ones((1, 2), dtype=bool), np.ones((1, 2)), frontier=-1), UsageError, "frontier"),
        (lambda: fair_weights(np.ones((1, 2), dtype=bool), np.ones((1, 2)), normalize="other"), UsageError, "normalize"),
    ],
)
def test_what_is_out_of_range_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
