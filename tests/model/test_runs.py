"""Chains that run over rows at a time give what they give over all rows at once, however long the runs are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import model
from model import AttentionContext, Config, DenseAttentionProduct, attention, ops, runs
from model.attention import mix_values
from model.runs import in_runs
from refquant.errors import UsageError
from refquant.numerics import FAST, ORDERED


@given(st.integers(0, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 40))
def test_any_length_of_runs_gives_the_whole(rows: int, stack: int, width: int, run: int) -> None:
    x = np.arange(rows * stack * width, dtype=np.float64).reshape(rows, stack, width)
    other = -np.arange(rows * stack, dtype=np.float64).reshape(rows, stack, 1)
    seen = []

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        seen.append(len(a))
        return np.concatenate([a + b, 2 * b], axis=-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "RUN", run)
        found = in_runs(function, x, other)
    assert np.array_equal(found, np.concatenate([x + other, 2 * other], axis=-1))
    assert sum(seen) == rows * stack
    assert max(seen) <= max(1, run // width)


@pytest.mark.parametrize("in_place", [True, False])
def test_results_go_where_they_are_asked_to(in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUN", 4)
    x = np.arange(12.0).reshape(2, 3, 2)
    out = x if in_place else np.empty_like(x)
    found = in_runs(lambda rows: rows + 1, x, out=out)
    assert np.shares_memory(found, out)
    assert np.array_equal(out, np.arange(1.0, 13.0).reshape(2, 3, 2))


def test_a_result_whose_rows_do_not_lie_side_by_side_is_refused() -> None:
    out = np.zeros((2, 4))
    with pytest.raises(UsageError, match="allowed: a C-contiguous one"):
        in_runs(lambda rows: rows + 1, np.zeros((2, 2)), out=out[:, ::2])


SHAPES = [
    {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "n_kv_heads": 2},
    {"block_type": "sequential", "activation_type": "swiglu", "layer_norm_type": "default", "attention_layer_norm": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["llama", "sequential"])
@pytest.mark.parametrize("lane", [FAST, ORDERED], ids=repr)
def test_logits_do_not_depend_on_the_length_of_runs(shape: dict, lane: object, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(rope=True, d_model=32, n_heads=4, n_layers=2, vocab_size=50, mask_token_id=3, eos_token_id=1, pad_token_id=1, **shape)
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(size) / 4 for name, size in config.architecture().tensor_shapes().items()}
    m = model.build(config, tensors, dtype="float64", arithmetic=lane)  # type: ignore[arg-type]
    ids, mask = rng.integers(0, 50, (3, 9)), np.ones((3, 9), dtype=int)
    mask[0, :4] = 0
    found = []
    for run in (1, 50, 1 << 30):
        monkeypatch.setattr(runs, "RUN", run)
        found.append(m.logits(ids, mask))
    for logits in found[:2]:
        np.testing.assert_allclose(logits, found[2], rtol=0, atol=1e-12)
        assert lane is FAST or np.array_equal(logits, found[2])


@pytest.mark.parametrize("lane", [FAST, ORDERED], ids=repr)
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_heads_in_runs_give_what_all_at_once_give(heads: int, lane: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # 6 query heads on 3 of keys; a row that sees nothing; and what an observer is shown is all heads, whatever the runs.
    rng = np.random.default_rng(heads)
    q, k, v = (rng.standard_normal((2, count, 5, 4)) for count in (6, 3, 3))
    bias, sighted = np.where(np.tri(5) > 0, 0.0, -1e9)[None, None], np.array([0.0, 1, 1, 1, 1]).reshape(1, 1, 5, 1)
    context = AttentionContext(q, q, bias, sighted)
    shown: dict[str, np.ndarray] = {}
    whole = mix_values(q, k, v, context, DenseAttentionProduct(lane), lane, shown.__setitem__)
    assert shown["probabilities"].shape == (2, 6, 5, 5)
    monkeypatch.setattr(attention, "SCORES", heads * 2 * 2 * 25)
    seen, of_all = [], ops.attention_probabilities

    def counted(q: np.ndarray, *rest: object) -> np.ndarray:
        seen.append(q.shape[1])
        return of_all(q, *rest)

    monkeypatch.setattr(ops, "attention_probabilities", counted)
    assert np.array_equal(mix_values(q, k, v, context, DenseAttentionProduct(lane), lane), whole)
    assert max(seen) == 2 * heads
    assert not whole[:, 0].any()
    expected = np.einsum("bhqk,bhkd->bqhd", shown["probabilities"], np.repeat(v, 2, axis=1)).reshape(2, 5, 24)
    np.testing.assert_allclose(whole, expected, atol=1e-12)
