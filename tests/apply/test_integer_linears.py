"""Models whose linears multiply codes: beside the fake-quantized ones within the proved bound, and refused where codes are missing."""

from __future__ import annotations

import numpy as np
import pytest

import refquant as rq
from refquant.apply.checkpoint import load
from refquant.apply.evaluation import EvaluationSet, Sizes
from refquant.apply.evaluation.data import Text
from refquant.apply.integer_check import compare_arithmetics, first_batch
from refquant.apply.layers import IntegerLinear, PerTokenQuantizer, QuantizedLinear, StaticQuantizer
from refquant.apply.parts import Activations
from refquant.apply.quantize import QuantizedModel, quantize_model
from refquant.apply.quantized import dense_linear
from refquant.core import fit_grid
from refquant.errors import InputError, NumericalError, UsageError
from tests.apply.tiny import LLADA, SEQUENTIAL, recipe, states_of, tiny

PLANS = {
    "rtn, per token": recipe({"method": "rtn"}, activations={"method": "per_token"}),
    "asymmetric both": recipe({"method": "rtn"}, activations={"method": "per_token", "bits": 4, "scheme": "asym_incl0", "group_size": 7}),
    "act order": recipe({"act_order": True}, activations={"method": "per_token"}),
    "static": recipe({"method": "rtn", "scheme": "sym_gptq"}, activations={"method": "static", "scheme": "asym_omni"}),
    "values too": recipe({"method": "rtn", "bits": 8}, activations={"method": "per_token"}, values={"method": "minmax"}),
}


class Watch:
    """Hand a layer's inputs to both kinds of linear, and keep the larger share of the bound that any output used."""

    def __init__(self, integer, fake):
        self.integer, self.fake, self.used, self.calls = integer, fake, 0.0, 0
        self.weight, self.bias = fake.weight, integer.bias

    def __call__(self, x):
        y = self.fake(x)
        found, bound = self.integer(x), self.integer.difference_bound(x)
        assert (found.shape, found.dtype) == (y.shape, y.dtype)
        self.used = max(self.used, float((np.abs(found.astype(np.float64) - y) / bound).max()))
        self.calls += 1
        return y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("plan", PLANS)
def test_every_linear_of_a_model_is_within_its_bound(plan, dtype):
    """[INT-6] On the inputs that it meets in the model."""
    m, states = tiny(dtype), states_of()
    found = quantize_model(m, PLANS[plan], states)
    fake, integer = found.attach(m), found.attach(m, arithmetic="integer")
    assert set(integer.linears) == set(m.linears)
    assert all(isinstance(linear, IntegerLinear) for linear in integer.linears.values())
    assert all(isinstance(linear, QuantizedLinear) for linear in fake.linears.values())
    watched = {name: Watch(integer.linears[name], fake.linears[name]) for name in m.linears}
    fake.replace(watched).logits(states[0].ids[None])
    assert all(watch.calls == 1 for watch in watched.values())
    assert 1e-3 < max(watch.used for watch in watched.values()) <= 1


def test_the_logits_are_close_and_not_the_same():
    m, states = tiny(), states_of()
    found = quantize_model(m, PLANS["rtn, per token"], states)
    ids = states[0].ids[None]
    fake, integer = found.attach(m), found.attach(m, arithmetic="integer")
    check = compare_arithmetics(fake, integer, ids)
    expected = fake.logits(ids)
    assert check.logit_difference == np.abs(integer.logits(ids) - expected).max() > 0
    assert check.logit_difference < 1e-9 * np.abs(expected).max()
    assert check.largest_logit == np.abs(expected).max()
    assert (check.sequences, check.tokens, check.linears) == (1, 9, 14)
    assert 1e-3 < check.bound_share <= 1
    assert check.accumulator_limit == 2**31 - 1
    assert check.accumulator_bound == 10 * 128 * 15  # int8 by uint4 in groups of 10


def test_a_linear_that_breaks_its_bound_is_an_error():
    """The bias of one integer linear is off by a thousandth."""
    m, states = tiny(), states_of()
    found = quantize_model(m, PLANS["rtn, per token"], states)
    fake, integer = found.attach(m), found.attach(m, arithmetic="integer")
    wrong = integer.linears["model.transformer.blocks.1.up_proj"]
    wrong.bias = wrong.bias * 1.001
    with pytest.raises(NumericalError, match=r"^model.transformer.blocks.1.up_proj: .* differ by \S+ times the proved bound"):
        compare_arithmetics(fake, integer, states[0].ids[None])


def test_the_longest_group_of_any_linear_decides():
    m = tiny()
    plan = recipe({"method": "rtn", "group_size": -1}, activations={"method": "per_token"}, skip=("q_proj",))
    found = quantize_model(m, plan, states_of())
    integer = found.attach(m, arithmetic="integer")
    assert {x.accumulator_bound for x in integer.linears.values() if isinstance(x, IntegerLinear)} == {16 * 128 * 15, 24 * 128 * 15}
    check = compare_arithmetics(found.attach(m), integer, states_of()[0].ids[None])
    assert (check.accumulator_bound, check.linears) == (24 * 128 * 15, 12)
    skipped = [name for name, linear in integer.linears.items() if not isinstance(linear, IntegerLinear)]
    assert {name.rpartition(".")[2] for name in skipped} == {"q_proj"}
    assert all(integer.linears[name] is m.linears[name] for name in skipped)


def test_layers_without_biases_and_other_blocks():
    m = tiny(**SEQUENTIAL, include_bias=False)
    found = quantize_model(m, PLANS["asymmetric both"], states_of())
    ids = states_of()[0].ids[None]
    apart = found.attach(m, arithmetic="integer").logits(ids) - found.attach(m).logits(ids)
    assert np.abs(apart).max() < 1e-9


@pytest.mark.parametrize("static", [False, True])
def test_leading_axes_are_tokens(static):
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((2, 3, 8)).astype(np.float32), rq.rtn(rng.standard_normal((5, 8)), rq.spec("int4", group_size=4))
    spec = Activations(method="static" if static else "per_token").spec()
    quantizer = StaticQuantizer(fit_grid(x.reshape(6, 8), spec), spec) if static else PerTokenQuantizer(spec)
    layer = IntegerLinear(q, np.ones(5, np.float32), quantizer, np.dtype(np.float32))
    assert layer(x).shape == layer.difference_bound(x).shape == (2, 3, 5)
    assert layer(x).tobytes() == layer(x.reshape(6, 8)).tobytes()
    assert layer(x).tobytes() == layer(x).tobytes()
    with pytest.raises(InputError, match="the input has dtype float64; this layer works in float32"):
        layer(x.astype(np.float64))


def test_what_has_no_codes_is_refused():
    m, states = tiny(), states_of()
    weights_only = quantize_model(m, recipe({"method": "rtn"}), states)
    with pytest.raises(UsageError, match=r"recipe tiny leaves activations in floating point \(activations.method is 'none'\); .* w8a8"):
        weights_only.attach(m, arithmetic="integer")
    inputs_only = quantize_model(m, recipe({"method": "none"}, activations={"method": "per_token"}), states)
    with pytest.raises(UsageError, match="recipe tiny leaves weights in floating point"):
        inputs_only.attach(m, arithmetic="integer")
    with pytest.raises(UsageError, match="arithmetic is 'int8'; allowed: 'fake', 'integer'"):
        weights_only.attach(m, arithmetic="int8")
    wide = quantize_model(
        m, recipe({"method": "rtn", "bits": 16, "scale_format": ""}, activations={"method": "per_token", "bits": 16}), states
    )
    with pytest.raises(UsageError, match=r"^model.transformer.blocks.0.q_proj: 10 products of codes of magnitude up to 32768 and 65535"):
        wide.attach(m, arithmetic="integer")
    whole = quantize_model(m, PLANS["static"], states)
    with pytest.raises(InputError, match="activation scales are missing"):
        QuantizedModel(recipe=PLANS["static"], weights=whole.weights).attach(m, arithmetic="integer")
    with pytest.raises(InputError, match="already quantized"):
        dense_linear(whole.attach(m, arithmetic="integer"), "model.transformer.blocks.0.q_proj")


def test_a_full_precision_folder_has_no_integers():
    with pytest.raises(UsageError, match="is a full-precision checkpoint; integer arithmetic needs a quantized folder"):
        load(LLADA / "gqa_f32", linears="integer")


def test_the_first_batch_is_the_first_that_is_scored(monkeypatch):
    """The ids of the evaluation's first forward pass, caught where it is made."""
    from refquant.apply.evaluation import likelihood

    m = tiny()
    texts = tuple(
        Text(ids=tuple(np.random.default_rng(i).integers(0, 37, n).tolist()), domain="noise", where=f"line {i}")
        for i, n in enumerate((6, 9, 6, 6))
    )
    data, sizes = EvaluationSet(texts=texts, items=()), Sizes(texts=4, masks=3)
    seen = []

    def catch(name, model, ids):
        seen.append(ids)
        return model.logits(ids)

    monkeypatch.setattr(likelihood, "finite_logits", catch)
    masks = [likelihood.text_masks(7, i, len(t.ids), 3) for i, t in enumerate(texts)]
    likelihood.score_texts({"one": m}, [np.asarray(t.ids) for t in texts], masks)
    found = first_batch(m, None, data, sizes, 7)
    assert found.shape == (9, 6)
    np.testing.assert_array_equal(found, seen[0])
    with pytest.raises(UsageError, match="nothing to compare"):
        first_batch(m, None, EvaluationSet(texts=(), items=()), sizes, 7)
