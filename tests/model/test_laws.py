"""Laws of the forward pass, its taps and its replaceable parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.taps import fan_out
from refquant.errors import UsageError
from tests.model.golden import RICH, loaded

IDS = np.random.default_rng(1).integers(0, 150, (3, 9))
SHAPES = ["gqa_f32", "sequential_swiglu_mqa_f32", "gemma_norm_scaled_grouped_f32", "qk_norm_f32", RICH]


def close(a, b, bound=1e-12):
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < bound * max(1, np.abs(np.asarray(b)).max())


@pytest.mark.parametrize("variant", SHAPES)
def test_rows_of_a_batch_do_not_see_each_other(variant):
    m = loaded(variant, "float64")
    together = m.logits(IDS)
    for row, ids in enumerate(IDS):
        close(m.logits(ids[None])[0], together[row])


@pytest.mark.parametrize("variant", SHAPES)
def test_permuting_a_batch_permutes_the_logits(variant):
    m, order = loaded(variant, "float64"), np.array([2, 0, 1])
    close(m.logits(IDS[order]), m.logits(IDS)[order])


@pytest.mark.parametrize("variant", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mask_of_ones_changes_no_byte(variant, dtype):
    m = loaded(variant, dtype)
    for mask in (np.ones(IDS.shape, bool), np.ones(IDS.shape, int), np.ones(IDS.shape), np.ones(IDS.shape).tolist()):
        np.testing.assert_array_equal(m.logits(IDS, mask), m.logits(IDS))


@pytest.mark.parametrize("variant", SHAPES)
def test_hidden_tokens_do_not_matter_to_the_others(variant):
    m, mask = loaded(variant, "float64"), np.ones(IDS.shape, int)
    mask[:, -2:] = 0
    other = IDS.copy()
    other[:, -2:] = (other[:, -2:] + 1) % 150
    close(m.logits(other, mask)[:, :-2], m.logits(IDS, mask)[:, :-2])
    assert np.abs(m.logits(other)[:, :-2] - m.logits(IDS)[:, :-2]).max() > 1e-3


def test_right_padding_is_as_if_it_were_not_there_and_left_padding_is_not():
    m, short = loaded(RICH, "float64"), IDS[:, :6]
    padded_right = np.concatenate([short, np.zeros((3, 3), int)], axis=1)
    close(m.logits(padded_right, [[1] * 6 + [0] * 3] * 3)[:, :6], m.logits(short))
    # Positions are counted from the left end, padding included, but only their differences matter to rotary embedding.
    padded_left = np.concatenate([np.zeros((3, 3), int), short], axis=1)
    close(m.logits(padded_left, [[0] * 3 + [1] * 6] * 3)[:, 3:], m.logits(short), 1e-10)


@pytest.mark.parametrize("variant", SHAPES)
def test_logits_are_the_blocks_one_after_the_other(variant):
    m = loaded(variant, "float32")
    x, context = m.embed(IDS), m.context(*IDS.shape)
    states = []
    for index in range(m.config.n_layers):
        states.append(x)
        x = m.block(index, x, context)
    np.testing.assert_array_equal(m.head(x), m.logits(IDS))
    for found, wanted in zip(m.hidden_states(IDS)[:-1], states[:: m.config.block_group_size], strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("variant", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_written_into_what_others_hold(variant, dtype):
    m = loaded(variant, dtype)
    kept, copies = [], []

    def observer(name, array):
        assert not array.flags.writeable
        kept.append(array)
        copies.append(array.copy())

    x, context = m.embed(IDS), m.context(*IDS.shape, attention_mask=np.tri(9, dtype=int)[[8, 7, 6]])
    for index in range(m.config.n_layers):
        before = x.copy()
        after = m.block(index, x, context, observer)
        np.testing.assert_array_equal(x, before)
        x = after
    m.head(x, observer)
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.dtype == np.dtype(dtype)


class Recorder:
    """A linear that notes what it is given."""

    def __init__(self, name, inner, seen):
        self.name, self.inner, self.seen = name, inner, seen

    def __call__(self, x):
        self.seen.append((self.name, x))
        return self.inner(x)


@pytest.mark.parametrize("variant", SHAPES)
def test_observers_see_what_linears_get(variant):
    m, seen, keep = loaded(variant, "float32"), [], model.Keep(lambda name: name.startswith("model."))
    spied = m.replace({name: Recorder(name, linear, seen) for name, linear in m.linears.items()})
    np.testing.assert_array_equal(spied.logits(IDS, observer=keep), m.logits(IDS))
    assert [name for name, _ in seen] == list(m.linears) == [name.removesuffix(".input") for name in keep.kept]
    for name, x in seen:
        assert np.shares_memory(keep.last(name + ".input"), x)


@pytest.mark.parametrize("variant", SHAPES)
def test_linears_are_named_in_causal_order(variant):
    m = loaded(variant, "float32")
    groups = [group for index in range(m.config.n_layers) for group in m.linear_groups(index)]
    assert [name for group in groups for name in group] == list(m.linears)
    stored = {name.removesuffix(".weight") for name, array in m.parameters.items() if array.ndim == 2}
    assert stored - set(m.linears) <= {"model.transformer.wte", "model.transformer.ff_out"}
    if m.config.block_type == "llama":
        assert [[name.rsplit(".", 1)[1] for name in group] for group in m.linear_groups(0)] == [
            ["q_proj", "k_proj", "v_proj"],
            ["attn_out"],
            ["ff_proj", "up_proj"],
            ["ff_out"],
        ]


def test_linears_of_a_group_get_the_same_array():
    keep = model.Keep()
    m = loaded(RICH, "float32")
    m.logits(IDS, observer=keep)
    q, k, v = (keep.last(name + ".input") for name in m.linear_groups(1)[0])
    gate, up = (keep.last(name + ".input") for name in m.linear_groups(1)[2])
    assert np.shares_memory(q, k)
    assert np.shares_memory(q, v)
    assert np.shares_memory(gate, up)
    assert not np.shares_memory(q, gate)


@pytest.mark.parametrize("variant", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_replacing_with_the_same_changes_no_byte(variant, dtype):
    m = loaded(variant, dtype)
    copies = {name: model.DenseLinear(np.array(linear.weight), linear.bias) for name, linear in m.linears.items()}
    products = {index: model.DenseAttentionProduct() for index in range(m.config.n_layers)}
    np.testing.assert_array_equal(m.replace(copies, products).logits(IDS), m.logits(IDS))
    np.testing.assert_array_equal(m.replace().logits(IDS), m.logits(IDS))


def test_replacing_leaves_the_old_model_alone_and_reaches_only_what_is_named():
    m, keep, before = loaded(RICH, "float32"), model.Keep(), model.Keep()
    wanted = m.logits(IDS, observer=before)
    name = m.linear_groups(1)[1][0]
    other = m.replace({name: np.zeros_like})
    assert np.abs(other.logits(IDS, observer=keep) - wanted).max() > 0.1
    np.testing.assert_array_equal(m.logits(IDS), wanted)
    np.testing.assert_array_equal(keep.last(name + ".input"), before.last(name + ".input"))
    after_attention = m.linear_groups(1)[2][0] + ".input"
    assert np.abs(keep.last(after_attention) - before.last(after_attention)).max() > 1e-3
    assert other.linears[name] is not m.linears[name]
    assert other.parameters[name + ".weight"] is m.parameters[name + ".weight"]


def test_score_operands_stand_before_the_product_of_queries_and_keys():
    """Halving queries and doubling keys changes no bit; doubling both changes the probabilities; what comes in is what the taps show."""
    m = loaded("gqa_f32", "float32")
    seen = {}

    def move(q, k):
        seen["q"], seen["k"] = q, k
        return q / 2, k * 2

    keep = model.Keep(["blocks.1.q", "blocks.1.k"])
    moved = m.replace(score_operands={1: move}).logits(IDS, observer=keep)
    assert np.array_equal(moved, m.logits(IDS))
    assert np.array_equal(seen["q"], keep.last("blocks.1.q"))
    assert np.array_equal(seen["k"], keep.last("blocks.1.k"))
    assert not np.array_equal(m.replace(score_operands={1: lambda q, k: (q * 2, k * 2)}).logits(IDS), moved)
    with pytest.raises(UsageError, match="there is no block 7"):
        m.replace(score_operands={7: move})


def test_attention_products_get_probabilities_and_values():
    m, keep, seen = loaded("gqa_f32", "float32"), model.Keep(), []

    def product(probabilities, values):
        seen.append((probabilities, values))
        times = probabilities.shape[1] // values.shape[1]
        return np.einsum("bhts,bhsd->bhtd", probabilities, np.repeat(values, times, axis=1))

    close(m.replace(attention_products={1: product}).logits(IDS, observer=keep), m.logits(IDS), 1e-5)
    ((probabilities, values),) = seen
    assert np.shares_memory(keep.last("blocks.1.probabilities"), probabilities)
    assert np.shares_memory(keep.last("blocks.1.v"), values)
    assert probabilities.shape == (3, 8, 9, 9)
    assert values.shape == (3, 2, 9, 8)
    close(probabilities.sum(axis=-1), np.ones((3, 8, 9)), 1e-6)


def test_replacing_what_does_not_exist():
    m = loaded(RICH, "float32")
    with pytest.raises(UsageError, match=r"there is no linear 'model.transformer.ff_out' to replace"):
        m.replace({"model.transformer.ff_out": lambda x: x})
    with pytest.raises(UsageError, match=r"there is no block 3 .* allowed: 0 to 2"):
        m.replace(attention_products={3: model.DenseAttentionProduct()})


def test_parameters_are_read_only():
    m = loaded(RICH, "float32")
    for name, array in m.parameters.items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        assert array.dtype == np.float32, name
    with pytest.raises(TypeError):
        m.parameters["x"] = 1
    with pytest.raises(TypeError):
        m.linears["x"] = 1


def test_linears_hold_the_stored_weights_without_a_copy():
    m = loaded("bias_everywhere_f32", "float32")
    for name, linear in m.linears.items():
        assert np.shares_memory(linear.weight, m.parameters[name + ".weight"])
        np.testing.assert_array_equal(linear.bias, m.parameters[name + ".bias"])


def test_building_from_arrays_and_from_other_linears():
    m = loaded(RICH, "float64")
    np.testing.assert_array_equal(model.build(m.config, m.parameters, "float64").logits(IDS), m.logits(IDS))
    name = "model.transformer.blocks.0.v_proj"
    without = {key: array for key, array in m.parameters.items() if key != name + ".weight"}
    built = model.build(m.config, without, "float64", linears={name: m.linears[name]})
    np.testing.assert_array_equal(built.logits(IDS), m.logits(IDS))
    assert name + ".weight" not in built.parameters
    with pytest.raises(UsageError, match="there is no linear 'nonsense'"):
        model.build(m.config, m.parameters, linears={"nonsense": m.linears[name]})


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([(), (4,), (2, 3)]))
def test_a_linear_is_a_weighted_sum(seed, biased, lead):
    rng = np.random.default_rng(seed)
    weight, x = rng.integers(-9, 9, (3, 5)).astype(float), rng.integers(-9, 9, (*lead, 5)).astype(float)
    bias = rng.integers(-9, 9, 3).astype(float) if biased else None
    wanted = (x[..., None, :] * weight).sum(-1) + (0 if bias is None else bias)  # small integers: exact
    np.testing.assert_array_equal(model.DenseLinear(weight, bias)(x), wanted)


def test_linears_refuse_what_is_no_linear():
    with pytest.raises(UsageError, match="shape \\(3,\\)"):
        model.DenseLinear(np.zeros(3))
    with pytest.raises(UsageError, match="bias has shape \\(2,\\); allowed beside this weight: \\(3,\\)"):
        model.DenseLinear(np.zeros((3, 2)), np.zeros(2))


def test_keep_and_fan_out():
    by_name, all_of_it = model.Keep(["blocks.0.v"]), model.Keep()
    loaded(RICH, "float32").logits(IDS, observer=fan_out(by_name, None, all_of_it))
    assert list(by_name.kept) == ["blocks.0.v"]
    per_block = {"input", "q", "k", "v", "probabilities"}
    assert {name.split(".")[2] for name in all_of_it.kept if name.startswith("blocks.1.")} == per_block
    assert len(all_of_it.kept) == 3 * (5 + 7) + 1
    assert all_of_it.last("head.input").shape == (3, 9, 64)
    with pytest.raises(KeyError):
        by_name.last("blocks.1.v")


def test_extreme_activations_stay_quiet_and_right():
    from model import ops
    from refquant.numerics import FAST

    x = np.array([-200.0, -0.0, 0.0, 200.0], dtype=np.float32)
    np.testing.assert_array_equal(ops.silu(x, FAST), np.array([-0.0, -0.0, 0.0, 200.0], dtype=np.float32))
    np.testing.assert_array_equal(ops.gelu(x, FAST), np.array([-0.0, -0.0, 0.0, 200.0], dtype=np.float32))
    np.testing.assert_array_equal(ops.relu(x, FAST), np.array([0, 0, 0, 200], dtype=np.float32))
