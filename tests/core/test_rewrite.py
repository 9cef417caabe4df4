"""Transforms and rewrites of single layers: what is put in is taken out, in every dtype, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core.rewrite import Fold, Joint, Rewrite, rewrite_tensors
from refquant.core.transform import BlockRotation, Permutation, Scale, through, transform_kind
from refquant.errors import InputError, NumericalError


@st.composite
def transforms(draw):
    """A transform of one of the kinds, and the dense matrix that it is."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, 12))
    kind = draw(st.sampled_from(["scale", "permutation", "rotation"]))
    if kind == "scale":
        factors = 2.0 ** rng.uniform(-8, 8, width)
        return Scale(factors=factors), np.diag(1 / factors)
    if kind == "permutation":
        order = rng.permutation(width)
        return Permutation(order=order), np.eye(width)[:, order]
    repeats = draw(st.integers(1, 3))
    blocks = np.linalg.qr(rng.standard_normal((2, width, width)))[0]
    matrix = np.zeros((2 * repeats * width,) * 2)
    for run in range(2 * repeats):
        matrix[run * width : (run + 1) * width, run * width : (run + 1) * width] = blocks[run % 2]
    return BlockRotation(blocks=np.concatenate([blocks] * repeats) if draw(st.booleans()) else blocks, repeats=repeats), matrix


@given(transforms(), st.integers(0, 2**32 - 1))
def test_what_is_applied_to_activations_is_undone_by_weights(pair, seed):
    transform, matrix = pair
    if transform.width != len(matrix):  # all blocks were written out and repeated besides
        matrix = np.kron(np.eye(transform.width // len(matrix)), matrix)
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 3, transform.width)), rng.standard_normal((4, transform.width))
    np.testing.assert_allclose(transform.apply(x), x @ matrix, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(transform.apply(x) @ transform.undo(w).T, x @ w.T, rtol=1e-11, atol=1e-11)
    assert transform.apply(x.astype(np.float32)).dtype == np.float32
    again = transform_kind(transform.kind).from_parts(transform.parts(), transform.settings())
    np.testing.assert_array_equal(again.apply(x), transform.apply(x))
    np.testing.assert_array_equal(through((transform, transform), x), transform.apply(transform.apply(x)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_factor_is_divided_and_multiplied_with_one_rounding(dtype):
    rng = np.random.default_rng(0)
    gain, w, bias = (rng.standard_normal(shape).astype(dtype) for shape in (7, (3, 7), 7))
    s = np.abs(rng.standard_normal(7)).astype(dtype)
    joint = Joint(transform=Scale(factors=s), producers=("n",), consumers=("w",))
    found = rewrite_tensors(
        Rewrite(method="t", steps=(joint,)), {"n.weight": gain, "n.bias": bias, "w.weight": w}, {"n": "norm", "w": "linear"}
    )
    for name, expected in (("n.weight", gain / s), ("n.bias", bias / s), ("w.weight", w * s)):
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], expected)


def test_steps_see_what_earlier_ones_left_and_inputs_stay():
    w = np.arange(6.0).reshape(2, 3)
    tensors = {"n.weight": np.array([2.0, 0.0, 4.0]), "w.weight": w}
    steps = (
        Fold(norm="n", consumers=("w",)),
        Joint(transform=Scale(factors=np.array([1.0, 2.0, 4.0])), producers=("n",), consumers=("w",)),
    )
    found = rewrite_tensors(Rewrite(method="t", steps=steps), tensors, {"n": "norm", "w": "linear"})
    np.testing.assert_array_equal(found["w.weight"], w * [2, 0, 16])
    np.testing.assert_array_equal(found["n.weight"], [1, 0.5, 0.25])
    np.testing.assert_array_equal(tensors["w.weight"], np.arange(6.0).reshape(2, 3))


def test_a_gain_that_is_stored_minus_one():
    roles = {"n": "gemma_norm", "w": "linear"}
    tensors = {"n.weight": np.array([1.0, -0.5]), "w.weight": np.ones((1, 2))}
    joint = Joint(transform=Scale(factors=np.array([4.0, 2.0])), producers=("n",), consumers=("w",))
    np.testing.assert_array_equal(rewrite_tensors(Rewrite(method="t", steps=(joint,)), tensors, roles)["n.weight"], [-0.5, -0.75])
    folded = rewrite_tensors(Rewrite(method="t", steps=(Fold(norm="n", consumers=("w",)),)), tensors, roles)
    np.testing.assert_array_equal(folded["n.weight"], [0, 0])
    np.testing.assert_array_equal(folded["w.weight"], [[2, 0.5]])


def test_online_transforms_are_listed_in_order_and_nothing_is_fused_behind_them():
    first, second = Permutation(order=np.array([1, 0])), Scale(factors=np.array([1.0, 2.0]))
    rewrite = Rewrite(method="a", steps=(Joint(transform=first, consumers=("w",)),)).then(
        Rewrite(method="b", steps=(Joint(transform=second, consumers=("w", "v")),))
    )
    assert rewrite.method == "a, b"
    assert rewrite.online == {"w": (first, second), "v": (second,)}
    assert rewrite.names == ("w", "v")
    fused = Joint(transform=second, producers=("n",), consumers=("w",))
    tensors = {"w.weight": np.ones((1, 2)), "v.weight": np.ones((1, 2)), "n.weight": np.ones(2)}
    roles = {"w": "linear", "v": "linear", "n": "norm"}
    with pytest.raises(InputError, match="has to come before that"):
        rewrite_tensors(rewrite.then(Rewrite(method="c", steps=(fused,))), tensors, roles)
    with pytest.raises(InputError, match="has to come before that"):
        rewrite_tensors(Rewrite(method="c", steps=(fused,)), tensors, roles, online={"w": (first,)})


def test_what_is_no_transform_is_refused():
    for wrong, told in (
        (lambda: Scale(factors=np.array([1.0, 0.0])), "positive finite factor"),
        (lambda: Scale(factors=np.array([np.inf])), "inf at 0"),
        (lambda: Scale(factors=np.ones((2, 2))), r"found \(2, 2\)"),
        (lambda: Permutation(order=np.array([0, 0])), "every index once"),
        (lambda: Permutation(order=np.array([0.0, 1.0])), "every index once"),
        (lambda: BlockRotation(blocks=np.ones((1, 2, 2))), "not orthogonal"),
        (lambda: BlockRotation(blocks=np.full((1, 2, 2), np.nan)), "not orthogonal"),
        (lambda: BlockRotation(blocks=np.eye(2)), r"\[count, B, B\]"),
        (lambda: BlockRotation(blocks=np.eye(2)[None], repeats=0), "at least once"),
        (lambda: Scale(factors=np.ones(3)).apply(np.ones((2, 4))), "does not fit"),
        (lambda: transform_kind("shear"), "unknown kind"),
        (lambda: Scale.from_parts({"order": np.ones(2)}, {}), "made of factors"),
        (lambda: Joint(transform=Scale(factors=np.ones(1)), consumers=()), "needs consumers"),
        (lambda: Joint(transform=Scale(factors=np.ones(1)), consumers=("w",), consumed=Scale(factors=np.ones(1))), "one transform"),
    ):
        with pytest.raises(InputError, match=told):
            wrong()


def test_what_does_not_fit_a_layer_is_refused():
    tensors = {"n.weight": np.ones(2), "n.bias": np.ones(2), "w.weight": np.ones((1, 2), np.float16), "v.weight": np.ones((1, 3))}
    roles = {"n": "norm", "w": "linear", "v": "linear", "x": "linear"}

    def told(step, match, kind=InputError):
        with pytest.raises(kind, match=match):
            rewrite_tensors(Rewrite(method="t", steps=(step,)), tensors, roles)

    scale = Scale(factors=np.full(2, 1e6))
    told(Joint(transform=scale, consumers=("u",)), "no part of this model")
    told(Joint(transform=scale, consumers=("x",)), "has no weight")
    told(Joint(transform=scale, consumers=("v",)), "has 3 features")
    told(Joint(transform=scale, producers=("w",), consumers=("w",)), "has 1 features")
    told(Joint(transform=scale, consumers=("w",)), "1e.06 does not fit float16", NumericalError)
    told(Joint(transform=Permutation(order=np.arange(2)), producers=("n",), consumers=("w",)), "one factor a feature")
    told(Fold(norm="n", consumers=("w",)), "has a bias, which does not fold")
    told(Fold(norm="w", consumers=("w",)), "only a norm's gain")
    del tensors["n.bias"]
    told(Fold(norm="n", consumers=("v",)), "reads 3 features; n has 2")
