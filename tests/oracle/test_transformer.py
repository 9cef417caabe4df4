"""The oracle's transformer and sampler against what the public code of LLaDA gave."""

from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from safetensors.numpy import load_file

import model
from refquant.conformance.exact_values import context, lifted, nearest
from refquant.conformance.tiny_model import BLOCK, OUTSIDE, PLACES
from refquant.errors import NumericalError
from refquant.oracle import BINARY32, sampling
from refquant.oracle.transformer import forward, rounded

FOLDER = Path(__file__).parents[1] / "data" / "llada" / "gqa_f32"
EXPECTED = load_file(FOLDER / "expected.safetensors")
MASK, HEADS, KV_HEADS = 199, 8, 2


@pytest.fixture(scope="module")
def numbers():
    return context()


def test_the_pass_is_that_of_the_public_code(numbers):
    tensors = load_file(FOLDER / "model.safetensors")
    weights = {name: lifted(numbers, tensors[place]) for name, place in OUTSIDE.items()}
    for name, place in PLACES.items():
        stack = [tensors.get(f"{BLOCK}{index}.{place}") for index in range(2)]
        weights[name] = [None if array is None else lifted(numbers, array) for array in stack]  # this checkpoint has no biases
    ids = EXPECTED["forward/T7/input_ids"][0].tolist()
    states, logits = forward(numbers, ids, weights, HEADS, KV_HEADS, numbers.mpf(10000), numbers.mpf("1e-5"))
    for found, name in ((logits, "logits_f32"), (states[1], "hidden_f32")):
        real = EXPECTED[f"forward/T7/{name}"]
        real = real[0] if name == "logits_f32" else real[1, 0]
        assert np.abs(nearest(found, "float64") - real).max() < 2e-6 * np.abs(real).max()


def test_the_sampler_is_that_of_the_public_code(numbers):
    real, prompt = EXPECTED["generate/blocks8_6_steps/x_steps"], EXPECTED["generate/blocks8_6_steps/prompt"]
    m = model.load(FOLDER, dtype="float64")
    logits = [lifted(numbers, m.logits(x)[0]) for x in real[:-1]]
    how = {"mask": MASK, "prompt": prompt.shape[1], "block": 8, "steps": 6, "temperature": numbers.mpf(0), "random": False}
    found = list(sampling.denoise(numbers, real[0, 0].tolist(), logits, None, **how))
    assert [step.after for step in found] == real[1:, 0].tolist()


def test_rounding_is_done_once():
    third = mpmath.mp.mpf(1) / 3
    assert rounded(third, BINARY32) == np.float32(1 / 3)
    # Halfway between two numbers of float32 and a little more, less than float64 can tell: rounded twice it would go down.
    with mpmath.workprec(200):
        value = mpmath.mpf(1) + mpmath.mpf(2) ** -24 + mpmath.mpf(2) ** -90
        opposite = -value
    assert rounded(value, BINARY32) == 1 + 2.0**-23
    assert np.float32(float(value)) == 1
    assert rounded(opposite, BINARY32) == -1 - 2.0**-23
    assert rounded(mpmath.mpf(2) ** -149, BINARY32) == 2.0**-149


def test_no_vector_hangs_on_what_float32_cannot_tell():
    with pytest.raises(NumericalError, match="choose other inputs"):
        sampling.first_largest([mpmath.mpf(1), mpmath.mpf(1) + mpmath.mpf(2) ** -40])
    assert sampling.first_largest([mpmath.mpf(3), mpmath.mpf(3), mpmath.mpf(1)]) == 0


def test_counts_are_those_of_the_public_code():
    """torch.linspace(...).round() of ``get_log_likelihood.py``, by hand for a length of 5: halves go to the even number."""
    assert sampling.stratified_counts(2, 5, 2) == [2, 4]  # 2, 4.5
    assert sampling.stratified_counts(3, 5, 2) == [3, 1]  # 3, 5.5 -> 6, which is 1
    assert sampling.shares(7, 3) == [3, 2, 2]


def test_a_word_that_favours_remainders_is_thrown_away():
    assert sampling.below(iter([2**64 - 1, 2**64 - 2, 2**64 - 3]), 7) == (2**64 - 3) % 7
    assert sampling.masked_positions(iter([1, 0, 0]), 3, 3) == [1, 0, 2]


def test_a_loss_is_divided_by_the_share(numbers):
    even = [[numbers.mpf(0)] * 4] * 2
    loss = sampling.masked_loss(numbers, even, [1, 2], [True, False], Fraction(1, 2))
    assert float(loss) == pytest.approx(2 * np.log(4), rel=1e-15)
