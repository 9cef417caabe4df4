"""What DLLMQuant adds: token weights, quotas, and the loss of attention values."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.oracle import (
    BINARY32,
    BINARY64,
    attention_loss,
    fraction,
    largest_remainder,
    matrix,
    quotas,
    search_value_scale,
    token_weights,
    weighted_hessian,
)

F = Fraction
SMALL = st.fractions(-4, 4, max_denominator=8)


def tables(rows, columns):
    return st.lists(st.lists(SMALL, min_size=columns, max_size=columns), min_size=rows, max_size=rows)


@given(inputs=tables(4, 3), counts=st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_an_integer_weight_is_a_repeated_token(inputs, counts):
    repeated = [token for token, count in zip(inputs, counts, strict=True) for _ in range(count)]
    expected = weighted_hessian(repeated) if repeated else [[0] * 3] * 3
    assert weighted_hessian(inputs, [F(count) for count in counts]) == expected


def test_hessian_against_numpy():
    x = np.random.default_rng(1).integers(-9, 10, (7, 4))
    weights = [1, 0, 4, 9, 1, 16, 25]
    expected = (x.T * np.array(weights)) @ x
    assert weighted_hessian(matrix(x), [F(w) for w in weights]) == matrix(expected)
    assert weighted_hessian(matrix(x)) == matrix(x.T @ x)


@pytest.mark.parametrize(("weights", "tokens"), [([1, -1], 2), ([1], 2), ([], 0)])
def test_hessian_misuse(weights, tokens):
    with pytest.raises(InputError):
        weighted_hessian([[F(1)]] * tokens, [F(w) for w in weights])


def test_token_weights_by_hand():
    masked = [True, True, False, False, True]
    confidence = [F(1, 4), F(1), F(1, 4), F(9, 16), F(1, 4)]
    padding = [False, False, False, False, True]
    half = {"visible": F(1, 2)}  # 0.7 is no binary number; 1/2 is
    assert token_weights(masked, confidence, padding, **half) == [F(9, 4), 4, F(1, 4), F(1, 4), 0]
    assert token_weights(masked, confidence, padding, power=1, **half) == [F(3, 2), 2, F(1, 2), F(1, 2), 0]
    assert token_weights(masked, confidence, padding, visible_confidence="model", **half) == [F(9, 4), 4, 1, F(25, 16), 0]
    assert token_weights(masked, confidence, padding, visible_confidence="one", **half) == [F(9, 4), 4, F(9, 4), F(9, 4), 0]


@pytest.mark.parametrize(("rounded", "kind"), [(BINARY32, np.float32), (BINARY64, np.float64)])
@given(confidence=st.floats(0, 1, width=32), is_mask=st.booleans())
def test_token_weights_are_what_numpy_computes(rounded, kind, confidence, is_mask):
    multiplier = kind(1 if is_mask else 0.7) + np.sqrt(kind(confidence if is_mask else 0))
    found = token_weights([is_mask], [fraction(confidence)], rounded=rounded)
    assert found == [fraction(multiplier * multiplier)]
    assert token_weights([is_mask], [fraction(confidence)], rounded=rounded, power=1) == [fraction(multiplier)]


def test_token_weights_misuse():
    for keywords in ({"power": 3}, {"visible_confidence": "two"}):
        with pytest.raises(UsageError, match="allowed are"):
            token_weights([True], [F(0)], **keywords)
    with pytest.raises(InputError, match="token 0 has confidence 2"):
        token_weights([True], [F(2)])
    with pytest.raises(InputError, match="as many are needed"):
        token_weights([True], [])


@pytest.mark.parametrize(
    ("shares", "total", "expected"),
    [
        ("3 2 2 3", 128, [38, 26, 26, 38]),  # 38.4 25.6 25.6 38.4
        ("3 2 2 3", 10, [3, 2, 2, 3]),
        ("1 1 1", 2, [1, 1, 0]),  # ties: the lower index
        ("1 1 1 1", 1, [1, 0, 0, 0]),
        ("0 1", 3, [0, 3]),
        ("1 5 1", 0, [0, 0, 0]),
        ("41 42 9 8", 7, [3, 3, 1, 0]),  # 2.87 2.94 0.63 0.56
    ],
)
def test_largest_remainder(shares, total, expected):
    assert largest_remainder([F(share) for share in shares.split()], total) == expected


@given(st.lists(st.fractions(0, 9), min_size=1, max_size=6).filter(any), st.integers(0, 300))
def test_largest_remainder_is_within_one_and_sums_up(shares, total):
    found = largest_remainder(shares, total)
    assert sum(found) == total
    assert all(abs(n - share * total / sum(shares)) < 1 for n, share in zip(found, shares, strict=True))


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ([999, 999, 999, 999], [38, 26, 26, 38]),
        # 16 missing from bin 1: 16 * (3, 2, 3)/8 = 6, 4, 6
        ([999, 10, 999, 999], [44, 10, 30, 44]),
        # 26 missing: 9.75, 6.5, 9.75 -> 10, 6, 10; bin 2 has only 28: 4 more over 3:3
        ([999, 0, 28, 999], [50, 0, 28, 50]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([0, 0, 0, 999], [0, 0, 0, 128]),
    ],
)
def test_shortfall(available, expected):
    assert quotas([F(n, 10) for n in (3, 2, 2, 3)], 128, available) == expected


@given(
    bins=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=6).filter(lambda b: any(s for s, _ in b)),
    total=st.integers(0, 150),
)
def test_quotas_place_what_can_be_placed(bins, total):
    shares, available = [F(share) for share, _ in bins], [count for _, count in bins]
    found = quotas(shares, total, available)
    assert all(0 <= n <= count for n, count in zip(found, available, strict=True))
    assert sum(found) == min(total, sum(count for share, count in bins if share))
    plain = largest_remainder(shares, total)
    assert all(n >= min(wanted, count) for n, wanted, count in zip(found, plain, available, strict=True))


def test_quota_misuse():
    for shares, total in [([F(0)], 1), ([F(-1), F(2)], 1), ([F(1)], -1), ([], 1)]:
        with pytest.raises(InputError, match="shares and total"):
            largest_remainder(shares, total)
    with pytest.raises(InputError, match="1 bins for 2 shares"):
        quotas([F(1), F(1)], 1, [1])


@given(attention=tables(3, 4), values=tables(4, 2), quantized=tables(4, 2))
def test_attention_loss_is_the_gram_form(attention, values, quantized):
    """tr(dV^T (A^T A) dV), features apart."""
    gram = weighted_hessian(attention)
    total = F(0)
    for feature in range(2):
        difference = [quantized[t][feature] - values[t][feature] for t in range(4)]
        total += sum(difference[i] * gram[i][j] * difference[j] for i in range(4) for j in range(4))
    assert attention_loss(attention, values, quantized) == total


def test_attention_loss_against_numpy():
    generator = np.random.default_rng(2)
    attention, values, quantized = (generator.integers(-5, 6, shape) for shape in [(3, 4), (4, 2), (4, 2)])
    expected = np.sum((attention @ (quantized - values)) ** 2)
    assert attention_loss(matrix(attention), matrix(values), matrix(quantized)) == int(expected)
    with pytest.raises(InputError, match="attention over 4 tokens"):
        attention_loss(matrix(attention.T), matrix(values), matrix(quantized))


def numpy_search(samples, bits):
    """The search in float64 with the loss as a matrix product."""
    everything = np.concatenate([values.ravel() for _, values in samples])
    start = (everything.max() - everything.min()) / (2**bits - 1)
    zero = np.rint(-everything.min() / start)
    losses = []
    for factor in [n / 100 for n in range(80, 101)]:
        scale = start * factor
        loss = 0.0
        for attention, values in samples:
            coded = np.clip(np.rint(values / scale) + zero, 0, 2**bits - 1)
            loss += np.linalg.norm(attention @ (scale * (coded - zero) - values)) ** 2
        losses.append(loss)
    return losses


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_search_against_numpy(bits, seed):
    generator = np.random.default_rng([seed, bits])
    samples = [(generator.dirichlet(np.ones(5), size=4).round(6), generator.normal(size=(5, 3)).round(5)) for _ in range(2)]
    losses = numpy_search(samples, bits)
    found = search_value_scale([(matrix(a), matrix(v)) for a, v in samples], bits, [F(n / 100) for n in range(80, 101)], BINARY64)
    np.testing.assert_allclose([float(loss) for loss in found.losses], losses, rtol=1e-9)
    assert found.index == int(np.argmin(losses))
    assert found.losses[found.index] <= found.losses[-1]


def test_equal_losses_take_the_larger_factor():
    """No attention at all: every loss is 0."""
    found = search_value_scale([([[F(0), F(0)]], [[F(0)], [F(3)]])], 2)
    assert found.losses == [0] * 21
    assert found.index == 20
    assert (found.grid.scale, found.grid.zero) == (1, 0)


def test_the_zero_stays_and_the_range_is_not_widened():
    found = search_value_scale([([[F(1), F(1)]], [[F(10)], [F(13)]])], 2)
    assert found.grid.zero == -10
    assert found.index == 20
    assert found.losses[20] == 0


def test_no_range():
    for samples in ([], [([[F(1)]], [[F(2)]])]):
        with pytest.raises(InputError, match="have no range"):
            search_value_scale(samples, 4)
