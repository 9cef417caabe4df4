"""Outliers counted by hand, and put into models without a change of the function."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import model
from model import Transformer
from refquant.apply.outliers import (
    CHANNEL_THRESHOLDS,
    ENTRY_THRESHOLDS,
    Injection,
    count_outliers,
    inject,
    kurtosis,
    linear_inputs,
    middle,
    outlier_counts,
    trajectory_states,
)
from refquant.apply.rewriting import untied
from refquant.errors import InputError, UsageError
from tests.apply.tiny import SEQUENTIAL, tiny

DATA = Path(__file__).parents[1] / "data" / "llada"
VARIANTS = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())


def loaded(name: str) -> Transformer:
    return untied(model.load(DATA / name, dtype="float64"))


def ids_for(m: Transformer) -> np.ndarray:
    ids = np.random.default_rng(0).integers(0, m.architecture.rows - 1, (2, 9))
    ids[:, 4:7] = m.config.mask_token_id or 0
    return ids


@pytest.mark.parametrize("name", VARIANTS)
def test_injection_keeps_the_function(name: str) -> None:
    """On every family: below 1e-10 for any scale, or a refusal that says which block has no such MLP."""
    m = loaded(name)
    ids = ids_for(m)
    injection = Injection(channels=3, features=2, channel_scale=37.0, feature_scale=91.0, seed=5)
    gated = all(hasattr(b.mlp, "gate_up") and len(b.mlp.gate_up) == 2 for b in m.architecture.blocks)
    if not gated:
        with pytest.raises(InputError, match="gate and an up projection"):
            inject(m, injection, ids)
        return
    loud, chosen = inject(m, injection, ids)
    before = m.logits(ids)
    assert np.abs(loud.logits(ids) - before).max() < 1e-10 * np.abs(before).max()
    assert len(chosen) == 3 * m.config.n_layers


def test_powers_of_two_change_no_bit() -> None:
    m = tiny("float32")
    ids = ids_for(m)
    loud, _ = inject(m, Injection(channel_scale=64.0, feature_scale=256.0), ids)
    assert loud.logits(ids).tobytes() == m.logits(ids).tobytes()


def test_what_was_put_in_is_there() -> None:
    """Exactly the chosen inputs are larger, by exactly the scale, in every block; attention's output is left alone."""
    m = tiny()
    ids = ids_for(m)
    loud, chosen = inject(m, Injection(channels=2, features=1, channel_scale=32.0, feature_scale=128.0), ids)
    before, after = linear_inputs(m, ids), linear_inputs(loud, ids)
    for block in m.architecture.blocks:
        for name, made, scale in (
            (block.qkv[0].name, chosen[block.attn_norm.name], 32.0),
            (block.mlp.gate_up[0].name, chosen[block.ff_norm.name], 32.0),  # type: ignore[union-attr]
            (block.mlp.down.name, chosen[block.mlp.gate_up[1].name], 128.0),  # type: ignore[union-attr]
            (block.attn_out.name, [], 1.0),
        ):
            factors = np.ones(before[name].shape[1])
            factors[made] = scale
            np.testing.assert_array_equal(after[name], before[name] * factors)


def test_features_with_few_large_tokens_are_chosen() -> None:
    """The feature whose fourth moment over tokens, in units of its variance squared, is largest."""
    m = tiny()
    ids = ids_for(m)
    _, chosen = inject(m, Injection(channels=0, features=1), ids)
    x = linear_inputs(m, ids)[m.architecture.blocks[0].mlp.down.name]  # type: ignore[union-attr]
    moments = [float(np.mean((c - c.mean()) ** 4) / np.mean((c - c.mean()) ** 2) ** 2) for c in x.T]
    assert chosen[m.architecture.blocks[0].mlp.gate_up[1].name] == [int(np.argmax(moments))]  # type: ignore[union-attr]


def test_nothing_to_put_in_is_the_model_itself() -> None:
    m = tiny()
    loud, chosen = inject(m, Injection(channels=0, features=0), ids_for(m))
    assert loud is m
    assert chosen == {}


def test_counts_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((11, 8))
    x[:, 2] *= 30
    x[4, 5] = 700.0
    x[7, 5] = -80.0
    found = count_outliers("x", x)
    entries = sorted(abs(v) for v in x.ravel())
    median = (entries[43] + entries[44]) / 2
    of_channels = [sorted(abs(v) for v in column)[5] for column in x.T]
    usual = (sorted(of_channels)[3] + sorted(of_channels)[4]) / 2
    assert found.max_over_median == 700.0 / median
    assert found.normal_channels == tuple(sum(v > k * usual for v in of_channels) for k in CHANNEL_THRESHOLDS)
    cells = list(itertools.product(range(11), range(8)))
    for place, threshold in enumerate(ENTRY_THRESHOLDS):
        massive = [(t, j) for t, j in cells if abs(x[t, j]) > threshold * median]
        counts = (found.massive_entries[place], found.massive_tokens[place], found.massive_channels[place])
        assert counts == (len(massive), len({t for t, _ in massive}), len({j for _, j in massive}))
    assert found.normal_channels[3] >= 1
    assert found.massive_entries[3] >= 1


def test_medians_and_kurtosis() -> None:
    x = np.random.default_rng(0).standard_normal((6, 5))
    np.testing.assert_array_equal(middle(x, axis=0), np.median(x, axis=0))
    np.testing.assert_array_equal(middle(x, axis=1), np.median(x, axis=1))
    assert float(middle(x)) == float(np.median(x))
    assert 2.9 < float(kurtosis(np.random.default_rng(1).standard_normal((1, 200_000)))[0]) < 3.1


def test_stages_of_a_trajectory() -> None:
    """Nothing denoised at first, then a quarter of the response more each time; prompts stay."""
    m = tiny()
    prompts = np.array([[1, 2, 3], [4, 5, 6]])
    states = trajectory_states(m, prompts, 8, 4)
    mask = m.config.mask_token_id
    assert [int((state == mask).sum()) for state in states] == [16, 12, 8, 4]
    assert all((state[:, :3] == prompts).all() for state in states)
    assert len(outlier_counts(m, states[0])) == 4 * m.config.n_layers


def test_refusals() -> None:
    m = tiny()
    with pytest.raises(InputError, match="gate and an up projection"):
        inject(tiny(**SEQUENTIAL), Injection(), ids_for(m))
    with pytest.raises(UsageError, match="channels is 99; allowed: at most 16"):
        inject(m, Injection(channels=99), ids_for(m))
    with pytest.raises(UsageError, match="features is 99"):
        inject(m, Injection(features=99), ids_for(m))
    with pytest.raises(UsageError, match="positive"):
        Injection(channel_scale=0.0)
    with pytest.raises(UsageError, match="not negative"):
        Injection(features=-1)
    with pytest.raises(InputError, match="median magnitude is 0"):
        count_outliers("x", np.eye(4))
    with pytest.raises(InputError, match="not empty"):
        count_outliers("x", np.zeros((0, 4)))
    with pytest.raises(UsageError, match="divisor of gen_length"):
        trajectory_states(m, np.array([[1]]), 8, 3)
