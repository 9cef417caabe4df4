"""What GPTQ refuses, and how it says so."""

import re

import numpy as np
import pytest

from refquant.core import Grid, Tiling, hessian, spec
from refquant.errors import InputError, NotPositiveDefiniteError, NumericalError, UsageError
from refquant.methods.compensate.gptq import gptq

W, H, INT4 = np.arange(6.0).reshape(2, 3) - 2, np.eye(3) + 1, spec("int4")


def spoilt(array, value, index=(1, 2)):
    array = array.copy()
    array[index] = value
    return array


CASES = [
    ({"weight": W[0]}, InputError, r"a matrix \[out, in\]; the weight has shape \(3,\)"),
    ({"weight": W.astype(int)}, InputError, r"the weight has dtype int64; allowed are float16, bfloat16, float32, float64"),
    ({"weight": spoilt(W, np.nan)}, InputError, r"the weight holds nan at index \(1, 2\)"),
    ({"weight": spoilt(W, -np.inf)}, InputError, r"the weight holds -inf at index \(1, 2\)"),
    ({"hessian": np.eye(4)}, InputError, r"shape \(2, 3\) needs a Hessian of shape \(3, 3\), not \(4, 4\)"),
    ({"hessian": np.ones(3)}, InputError, r"not \(3,\)"),
    ({"hessian": spoilt(H, np.nan)}, InputError, r"the Hessian holds nan at index \(1, 2\)"),
    ({"hessian": spoilt(H, 5.0)}, InputError, r"the Hessian is not symmetric"),
    ({"spec": spec("int4", tiling=Tiling((1, 1, None)))}, InputError, r"a tiling of two axes, not \(1, 1, None\)"),
    ({"damping": -0.1}, UsageError, r"damping is a finite number of at least 0, not -0.1"),
    ({"damping": np.nan}, UsageError, r"damping is a finite number of at least 0, not nan"),
    ({"damping": "much"}, UsageError, r"damping is a finite number of at least 0, not 'much'"),
    ({"block_size": 0}, UsageError, r"block_size is a positive integer, not 0"),
    ({"block_size": 2.0}, UsageError, r"block_size is a positive integer, not 2.0"),
    ({"block_size": True}, UsageError, r"block_size is a positive integer, not True"),
    ({"compat": "autogptq"}, UsageError, r"unknown compat 'autogptq'; known are istdaslab, lazy, llmcompressor, lazy_groups"),
    ({"compat": ("lazy", "eager")}, UsageError, r"unknown compat 'eager'"),
    ({"act_order": np.array([0, 1])}, InputError, r"act_order is True, False or an ordering of 3 columns"),
    ({"act_order": np.array([0, 1, 1])}, InputError, r"an ordering of 3 columns"),
    ({"act_order": np.array([0.0, 1.0, 2.0])}, InputError, r"an ordering of 3 columns"),
    ({"act_order": np.array([1, 2, 3])}, InputError, r"an ordering of 3 columns"),
    ({"grid": Grid(scale=np.ones((2, 2)), zero=np.zeros((2, 2)))}, InputError, r"the grid has shape \(2, 2\); \(2, 1\) is needed"),
    ({"grid": Grid(scale=np.ones((2, 1)), zero=None)}, InputError, r"asym_incl0 has a zero point"),
    ({"hessian": 1e308 * np.eye(3)}, NumericalError, r"up to 1e\+308, has no finite mean; divide the Hessian by a constant"),
    ({"weight": np.array([[1e308, -1e308, 0]])}, NumericalError, r"wider than float64 can hold"),
    ({"hessian": -np.eye(3)}, NotPositiveDefiniteError, r"no damping up to 100 times the mean diagonal works"),
    ({"hessian": np.diag([1e9, -2e9, 1e9])}, NotPositiveDefiniteError, r"no damping up to 100 times the mean diagonal works"),
]


@pytest.mark.parametrize(("change", "error", "message"), CASES, ids=[f"{next(iter(c))}-{i}" for i, (c, _, _) in enumerate(CASES)])
def test_refused(change, error, message):
    arguments = {"weight": W, "hessian": H, "spec": INT4} | change
    with pytest.raises(error, match=message) as failure:
        gptq(**arguments)
    assert "\n" not in str(failure.value)


def test_the_unchanged_case_is_accepted():
    assert gptq(W, H, INT4).codes.shape == (2, 3)


@pytest.mark.parametrize("tokens", [1, 2, 4])
@pytest.mark.parametrize("damping", [0.0, 1e-20])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_damping_that_is_named_works(tokens, damping, act_order):
    """Tokens with disjoint features and powers of two for entries: the elimination is exact, and meets a pivot of exactly 0."""
    rng, owner = np.random.default_rng(tokens), np.arange(8) % tokens
    x = np.where(owner == np.arange(tokens)[:, None], rng.choice([-4.0, -1.0, 1.0, 2.0], size=8), 0)
    w = rng.normal(size=(2, 8))
    with pytest.raises(NotPositiveDefiniteError, match=f"with damping {damping:g} is not positive definite") as failure:
        gptq(w, hessian(x), INT4, damping=damping, act_order=act_order)
    named = re.search(r"damping=(\S+) would work", str(failure.value))
    assert named
    gptq(w, hessian(x), INT4, damping=float(named[1]), act_order=act_order)
    assert float(named[1]) == pytest.approx(1e-8)
    assert 0 <= failure.value.pivot < 8


def test_the_named_damping_grows_until_it_works():
    """Smallest eigenvalue -0.3 at a mean diagonal of 1: dampings up to 0.3 fail, the ladder says 1."""
    h = np.eye(4)
    h[0, 1] = h[1, 0] = 1.3
    with pytest.raises(NotPositiveDefiniteError, match=r"with damping 0.01 is not positive definite .* damping=1 would work"):
        gptq(np.ones((1, 4)), h, INT4)
    gptq(np.ones((1, 4)), h, INT4, damping=1.0)
    with pytest.raises(NotPositiveDefiniteError):
        gptq(np.ones((1, 4)), h, INT4, damping=0.1)


def test_the_pivot_is_a_column_of_the_quantization_order():
    """Elimination starts at the last column; columns 1 and 2 are equal, so the pivot of 1 is 0."""
    h = np.array([[2.0, 1, 1], [1, 1, 1], [1, 1, 1]])
    with pytest.raises(NotPositiveDefiniteError, match=r"pivot of column 1\)") as failure:
        gptq(W, h, INT4, damping=0.0)
    assert failure.value.pivot == 1
