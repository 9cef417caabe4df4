"""CGQ: token weights by hand, and what they may do to GPTQ and what not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant import oracle
from refquant.core import hessian, spec
from refquant.errors import InputError, UsageError
from refquant.methods.compensate.gptq import gptq
from refquant.methods.diffusion.cgq import certainty_weights

MASKED = np.array([True, True, True, False, False])
CONFIDENCE = np.array([0.0, 0.25, 1.0, 0.81, 0.04])
FLAGS = (False, True)


def layer(seed=0, tokens=40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, 16)) @ (np.eye(16) + 0.4 * rng.normal(size=(16, 16)))
    return rng.normal(size=(5, 16)), x, rng.random(tokens) < 0.5, rng.random(tokens)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2.25, 4, 0.49, 0.49]),
        ({"power": 1}, [1, 1.5, 2, 0.7, 0.7]),
        ({"power": 1.5}, [1, 1.8371173070873836, 2.8284271247461903, 0.5856620185738529, 0.5856620185738529]),
        ({"visible_confidence": "model"}, [1, 2.25, 4, 2.56, 0.81]),
        ({"visible_confidence": "model", "power": 1}, [1, 1.5, 2, 1.6, 0.9]),
        ({"visible_confidence": "one"}, [1, 2.25, 4, 2.89, 2.89]),
        ({"visible_weight": 0.0}, [1, 2.25, 4, 0, 0]),
        ({"masked_weight": 0.0, "visible_weight": 0.5}, [0, 0.25, 1, 0.25, 0.25]),
        ({"masked_weight": 3, "visible_weight": 2, "power": 1}, [3, 3.5, 4, 2, 2]),
        ({"padding": np.array([False, True, False, True, False])}, [1, 0, 4, 0, 0.49]),
        ({"padding": np.array([True, False, False, False, True]), "power": 1}, [0, 1.5, 2, 0.7, 0]),
    ],
)  # fmt: skip
def test_weights_by_hand(options, expected):
    """[CGQ-1] [CGQ-2]; 1.5^1.5 = 3 sqrt(6) / 4, 2^1.5 = 2 sqrt(2), 0.7^1.5 = 0.7 sqrt(0.7)."""
    found = certainty_weights(MASKED, CONFIDENCE, **options)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=0)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([1, 2]),
    st.sampled_from(["zero", "model", "one"]),
)
def test_powers_1_and_2_are_the_oracle_bit_for_bit(tokens, power, rule):
    """[CGQ-1] One rounding each of root, sum and square."""
    masked, s, padding = (list(column) for column in zip(*tokens, strict=True))
    found = certainty_weights(np.array(masked), np.array(s), power, visible_confidence=rule, padding=np.array(padding))
    exact = oracle.token_weights(masked, oracle.row(s), padding, visible=oracle.fraction(0.7), power=power, visible_confidence=rule)
    assert oracle.row(found) == exact


def test_defaults_are_the_readings_of_the_card():
    explicit = certainty_weights(MASKED, CONFIDENCE, 2, visible_weight=0.7, masked_weight=1.0, visible_confidence="zero", padding=None)
    assert certainty_weights(MASKED, CONFIDENCE).tobytes() == explicit.tobytes()


def test_any_shape():
    assert certainty_weights(MASKED.reshape(1, 5), CONFIDENCE.reshape(1, 5)).shape == (1, 5)
    assert certainty_weights(np.zeros((2, 0), bool), np.zeros((2, 0))).shape == (2, 0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=20), st.floats(0.1, 4))
def test_more_certainty_never_weighs_less(tokens, power):
    masked, s = np.array([m for m, _ in tokens]), np.array([c for _, c in tokens])
    order = np.argsort(s, kind="stable")
    for rule in ("zero", "model", "one"):
        found = certainty_weights(masked, s, power, visible_confidence=rule)[order]
        for flag in FLAGS:
            assert (np.diff(found[masked[order] == flag]) >= 0).all()


def test_the_hessian_is_a_sum_of_weighted_outer_products():
    """[CGQ-2] by a loop over tokens."""
    _, x, masked, s = layer()
    weights = certainty_weights(masked, s)
    direct = np.zeros((16, 16))
    for t in range(len(x)):
        multiplier = 1 + np.sqrt(s[t]) if masked[t] else 0.7
        direct += np.outer(multiplier * x[t], multiplier * x[t])
    np.testing.assert_allclose(hessian(x, weights), direct, rtol=0, atol=1e-13 * np.abs(direct).max())


def test_weights_of_1_give_the_bytes_of_gptq():
    w, x, masked, _ = layer(1)
    ones = certainty_weights(masked, np.zeros(40), visible_weight=1.0)
    assert hessian(x, ones).tobytes() == hessian(x).tobytes()
    how = spec("int3", group_size=8)
    assert gptq(w, hessian(x, ones), how).digest() == gptq(w, hessian(x), how).digest()


@pytest.mark.parametrize("constant", [0.3, 2.0, 117.0])
def test_any_other_constant_gives_its_codes(constant):
    w, x, masked, _ = layer(2)
    weights = certainty_weights(masked, np.zeros(40), visible_weight=constant, masked_weight=constant)
    np.testing.assert_array_equal(gptq(w, hessian(x, weights), spec("int3")).codes, gptq(w, hessian(x), spec("int3")).codes)


def test_what_padding_holds_changes_no_byte():
    w, x, masked, s = layer(3)
    padding = np.arange(40) % 3 == 0
    clean, dirty = np.where(padding[:, None], 0.0, x), np.where(padding[:, None], np.nan, x)
    dirty_s, dirty_masked = np.where(padding, np.nan, s), masked ^ padding
    weights = certainty_weights(masked, s, padding=padding)
    others = certainty_weights(dirty_masked, dirty_s, padding=padding)
    assert weights.tobytes() == others.tobytes()
    h = hessian(clean, weights)
    assert hessian(dirty, others).tobytes() == h.tobytes()
    assert hessian(x, weights).tobytes() == h.tobytes()
    # Leaving the padding out is the same sum with other neighbours: the same to the last bits, and in every code.
    kept = hessian(x[~padding], certainty_weights(masked[~padding], s[~padding]))
    np.testing.assert_allclose(kept, h, rtol=0, atol=1e-14 * np.abs(h).max())
    np.testing.assert_array_equal(gptq(w, kept, spec("int3")).codes, gptq(w, h, spec("int3")).codes)


def test_weight_0_for_visible_tokens_is_gptq_on_the_masked_ones():
    w, x, masked, s = layer(4)
    weighted = hessian(x, certainty_weights(masked, s, visible_weight=0.0))
    alone = hessian(x[masked], certainty_weights(masked[masked], s[masked]))
    np.testing.assert_allclose(weighted, alone, rtol=0, atol=1e-14 * np.abs(alone).max())
    np.testing.assert_array_equal(gptq(w, weighted, spec("int3")).codes, gptq(w, alone, spec("int3")).codes)


def test_weights_commute_with_a_rotation_of_the_inputs():
    """A token's weight does not know of channels: H of rotated inputs is the rotated H."""
    _, x, masked, s = layer(5)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    weights = certainty_weights(masked, s)
    rotated = rotation.T @ hessian(x, weights) @ rotation
    np.testing.assert_allclose(hessian(x @ rotation, weights), rotated, rtol=0, atol=1e-13 * np.abs(rotated).max())


def test_errors_move_from_masked_to_visible_tokens():
    """Two populations of inputs, 3 bits: what the weights are for. A rate over seeds, not a law."""
    better, worse = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        w, masked = rng.normal(size=(16, 32)), np.arange(400) < 200
        x = np.where(
            masked[:, None], rng.normal(size=(400, 32)) @ rng.normal(size=(32, 32)), rng.normal(size=(400, 32)) @ rng.normal(size=(32, 32))
        )
        weighted = w - gptq(w, hessian(x, certainty_weights(masked, np.full(400, 0.9))), spec("int3")).dequantize()
        plain = w - gptq(w, hessian(x), spec("int3")).dequantize()
        better += ((x[masked] @ weighted.T) ** 2).sum() < ((x[masked] @ plain.T) ** 2).sum()
        worse += ((x[~masked] @ weighted.T) ** 2).sum() > ((x[~masked] @ plain.T) ** 2).sum()
    assert better >= 18
    assert worse >= 18


CASES = [
    ({"masked": MASKED.astype(int)}, InputError, "masked is a boolean array, not int64"),
    ({"padding": np.zeros(5)}, InputError, "padding is a boolean array, not float64"),
    ({"confidence": CONFIDENCE[:4]}, InputError, r"masked has shape \(5,\), confidence \(4,\), padding \(5,\); they must agree"),
    ({"padding": np.zeros(4, bool)}, InputError, r"padding \(4,\); they must agree"),
    ({"confidence": CONFIDENCE - 0.01}, InputError, r"a confidence lies in \[0, 1\]; found -0.01"),
    ({"confidence": CONFIDENCE + 0.5}, InputError, r"found 1.5"),
    ({"confidence": np.full(5, np.nan)}, InputError, r"found nan"),
    ({"visible_weight": -0.7}, UsageError, "visible_weight is a finite number of at least 0, not -0.7"),
    ({"masked_weight": np.inf}, UsageError, "masked_weight is a finite number of at least 0, not inf"),
    ({"power": 0}, UsageError, "power is a positive number, not 0"),
    ({"power": np.nan}, UsageError, "power is a positive number, not nan"),
    ({"visible_confidence": "some"}, UsageError, "visible_confidence is 'zero', 'model' or 'one', not 'some'"),
]


@pytest.mark.parametrize(("change", "error", "message"), CASES)
def test_refused(change, error, message):
    with pytest.raises(error, match=message) as failure:
        certainty_weights(**{"masked": MASKED, "confidence": CONFIDENCE} | change)
    assert "\n" not in str(failure.value)
