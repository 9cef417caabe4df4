"""Experts as linears: routing taps, coverage, experts that no token goes to; and laws that hold in every family."""

import numpy as np
import pytest

import model
from model.likelihood import masked_losses
from refquant.errors import UsageError
from tests.model.golden import expected, loaded

MIXTURES = {"llada_moe_f32": (0, 1), "llada_moe_mixed_f32": (1,), "llada2_moe_f32": (1,)}
FAMILIES = ["dream_gqa_f32", *MIXTURES]
IDS = np.random.default_rng(1).integers(0, 150, (3, 9))


def close(a, b, bound=1e-11):
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < bound * max(1, np.abs(np.asarray(b)).max())


class Recorder:
    def __init__(self, name, inner, seen):
        self.name, self.inner, self.seen = name, inner, seen

    def __call__(self, x):
        self.seen.append((self.name, x))
        return self.inner(x)


@pytest.mark.parametrize("variant", FAMILIES)
def test_observers_see_what_linears_get_and_in_which_order(variant):
    m, seen, keep = loaded(variant, "float32"), [], model.Keep(lambda name: name.startswith("model."))
    spied = m.replace({name: Recorder(name, linear, seen) for name, linear in m.linears.items()})
    np.testing.assert_array_equal(spied.logits(IDS, observer=keep), m.logits(IDS))
    shown = [name.removesuffix(".input") for name in keep.kept]
    assert shown == list(m.linears) == [name for i in range(m.config.n_layers) for group in m.linear_groups(i) for name in group]
    for name, x in seen:
        assert np.shares_memory(keep.last(name + ".input"), x)
    idle = set(m.linears) - {name for name, _ in seen}
    assert all(keep.last(name + ".input").shape[0] == 0 for name in idle)


@pytest.mark.parametrize("variant", MIXTURES)
def test_experts_see_the_tokens_routed_to_them(variant):
    m, keep = loaded(variant, "float32"), model.Keep()
    m.logits(IDS, observer=keep)
    for index in MIXTURES[variant]:
        chosen, weights = keep.last(f"blocks.{index}.routing"), keep.last(f"blocks.{index}.routing_weights")
        assert chosen.shape == weights.shape == (*IDS.shape, m.config.num_experts_per_tok)
        assert all(len(set(row)) == chosen.shape[-1] for row in chosen.reshape(-1, chosen.shape[-1]).tolist())
        plan = m.architecture.blocks[index].mlp
        for expert, mlp in enumerate(plan.experts):
            name = mlp.gate_up[0].name
            assert f".experts.{expert}." in name
            inputs = keep.last(name + ".input")
            assert inputs.shape == (np.count_nonzero(chosen == expert), m.config.d_model)
            assert np.shares_memory(keep.last(mlp.gate_up[1].name + ".input"), inputs)
            everyone = keep.last(plan.shared.gate_up[0].name + ".input") if plan.shared else None
            if everyone is not None:
                rows = np.flatnonzero((chosen == expert).any(axis=-1).ravel())
                np.testing.assert_array_equal(everyone.reshape(-1, m.config.d_model)[rows], inputs)


@pytest.mark.parametrize("variant", MIXTURES)
def test_an_expert_without_tokens_is_not_touched(variant):
    m, index = loaded(variant, "float64"), MIXTURES[variant][-1]
    keep = model.Keep([f"blocks.{index}.routing"])
    wanted = m.logits([[3]], observer=keep)  # one token reaches two or three of eight experts
    used = set(keep.last(f"blocks.{index}.routing").ravel().tolist())
    plan = m.architecture.blocks[index].mlp

    def refuse(x):
        raise AssertionError("touched")

    idle = {linear.name: refuse for expert, mlp in enumerate(plan.experts) if expert not in used for linear in mlp.linears}
    assert len(idle) == 3 * (8 - m.config.num_experts_per_tok)
    np.testing.assert_array_equal(m.replace(idle).logits([[3]]), wanted)
    for name in idle:
        assert m.linears[name](np.zeros((0, m.linears[name].weight.shape[1]))).shape == (0, m.linears[name].weight.shape[0])


def test_groups_of_a_mixture():
    m = loaded("llada2_moe_f32", "float32")
    tails = [[name.removeprefix("model.layers.1.") for name in group] for group in m.linear_groups(1)]
    assert tails[:2] == [["attention.query_key_value"], ["attention.dense"]]
    assert tails[2:4] == [["mlp.experts.0.gate_proj", "mlp.experts.0.up_proj"], ["mlp.experts.0.down_proj"]]
    assert tails[-2:] == [["mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"], ["mlp.shared_experts.down_proj"]]
    assert len(tails) == 2 + 2 * 9
    assert not any("mlp.gate" in name.removesuffix("_proj") and "experts" not in name for name in m.linears if ".1." in name)
    with pytest.raises(UsageError, match=r"there is no linear 'model.layers.1.mlp.gate'"):
        m.replace({"model.layers.1.mlp.gate": lambda x: x})


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_one_after_the_other(variant, dtype):
    m = loaded(variant, dtype)
    x, context = m.embed(IDS), m.context(*IDS.shape)
    for index in range(m.config.n_layers):
        before = x.copy()
        after = m.block(index, x, context)
        np.testing.assert_array_equal(x, before)
        x = after
    np.testing.assert_array_equal(m.head(x), m.logits(IDS))
    assert m.logits(IDS).dtype == np.dtype(dtype)


@pytest.mark.parametrize("variant", FAMILIES)
def test_rows_of_a_batch_do_not_see_each_other(variant):
    m = loaded(variant, "float64")
    together = m.logits(IDS)
    for row, ids in enumerate(IDS):
        close(m.logits(ids[None])[0], together[row])


@pytest.mark.parametrize("variant", ["dream_gqa_f32", "llada_moe_f32"])
def test_hidden_tokens_do_not_matter_to_the_others(variant):
    m, mask = loaded(variant, "float64"), np.ones(IDS.shape, int)
    mask[:, :2] = 0
    other = IDS.copy()
    other[:, :2] = (other[:, :2] + 1) % 150
    close(m.logits(other, mask)[:, 2:], m.logits(IDS, mask)[:, 2:])
    if variant.startswith("dream"):
        close(m.logits(IDS, mask)[:, 2:], m.logits(IDS[:, 2:]))  # left padding shifts nothing, to the last bits
    np.testing.assert_array_equal(m.logits(IDS, np.ones(IDS.shape)), m.logits(IDS))


def test_only_dream_is_shifted():
    m = loaded("dream_gqa_f32", "float32")
    logits = m.logits(IDS)
    moved = model.aligned(m, logits)
    np.testing.assert_array_equal(moved[:, 1:], logits[:, :-1])
    np.testing.assert_array_equal(moved[:, 0], logits[:, 0])
    for variant in MIXTURES:
        assert model.aligned(loaded(variant, "float32"), logits) is logits


def test_likelihood_of_dream_reads_the_shifted_logits():
    m = loaded("dream_gqa_f32", "float64")
    ids = [5, 9, m.config.mask_token_id, 30]
    row = m.logits([ids])[0, 1]  # the network at position 1 predicts position 2
    wanted = np.log(np.exp(row - row.max()).sum()) + row.max() - row[77]
    found = masked_losses(m, [ids], np.full((1, 4), 0.5), [5, 9, 77, 30], 2)
    assert found[0] == pytest.approx(wanted / 0.5, rel=1e-12)
    assert model.nll_bound(m, [5, 9], [77], mc_num=1, batch_size=1, rng=np.random.default_rng(0)) == pytest.approx(
        np.log(np.exp(m.logits([ids[:3]])[0, 1] - 50).sum()) + 50 - m.logits([ids[:3]])[0, 1, 77], rel=1e-9
    )


def test_padded_queries_of_dream_see_nothing():
    data = expected("dream_gqa_f32")
    keep = model.Keep(["blocks.0.probabilities"])
    mask = data["attention_mask/attention_mask"]
    loaded("dream_gqa_f32", "float32").logits(data["attention_mask/input_ids"], mask, observer=keep)
    rows = keep.last("blocks.0.probabilities").sum(axis=-1)  # [B, H, T]
    np.testing.assert_allclose(rows, np.broadcast_to(mask[:, None, :], rows.shape), atol=1e-6)
