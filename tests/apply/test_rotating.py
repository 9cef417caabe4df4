"""Rotations of whole models: the function is preserved on every family, and refused where the algebra does not allow it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import model
from model import Keep, Transformer
from refquant.apply.rewriting import rewrite_model, untied
from refquant.apply.rotating import network_of
from refquant.core.rewrite import Rewrite, Step
from refquant.errors import UsageError
from refquant.methods.rotate.duquant import duquant
from refquant.methods.rotate.quarot import Rotation, quarot
from refquant.numerics.arrays import Array

DATA = Path(__file__).parents[1] / "data" / "llada"
VARIANTS = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
NOT_ROTATED = {"sequential_gelu_layernorm_f32": "subtracts the mean", "bias_everywhere_f32": "adds a bias"}
ALL: tuple[Rotation, ...] = ("R1", "R2", "R3", "R4")
SUBSETS: list[tuple[Rotation, ...]] = [subset for size in range(1, 5) for subset in combinations(ALL, size)]
BOUND = 1e-10


def loaded(name: str) -> Transformer:
    return untied(model.load(DATA / name, dtype="float64"))


def ids_for(m: Transformer) -> Array:
    """Text with masks in it."""
    ids = np.random.default_rng(0).integers(0, min(m.architecture.rows, m.config.embedding_rows) - 1, (2, 9))
    ids[:, 4:7] = m.config.mask_token_id or 0
    return ids


def change(m: Transformer, rewrite: Rewrite) -> float:
    """Largest change of a logit, relative to the largest logit."""
    ids = ids_for(m)
    before = m.logits(ids)
    return float(np.abs(rewrite_model(m, rewrite).logits(ids) - before).max() / np.abs(before).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_function_is_preserved_on_every_variant(name: str) -> None:
    """[QUAROT-1] to [QUAROT-6] together; without R1 where norms do more than a rotation commutes with."""
    m = loaded(name)
    rotations = ALL[1:] if name in NOT_ROTATED else ALL
    rewrite = quarot(network_of(m.architecture), np.random.default_rng(1), rotations=rotations, odd_sizes="blocks")
    assert change(m, rewrite) < BOUND


@pytest.mark.parametrize("rotations", SUBSETS, ids=" ".join)
@pytest.mark.parametrize("name", ["qkv_bias_only_f32", "dream_gqa_f32"])
def test_every_subset_preserves_it(name: str, rotations: tuple[Rotation, ...]) -> None:
    m = loaded(name)
    assert change(m, quarot(network_of(m.architecture), np.random.default_rng(2), rotations=rotations)) < BOUND


@pytest.mark.parametrize("name", ["base_mha_f32", "dream_gqa_f32", "llada2_moe_f32"])
def test_any_orthogonal_matrix_serves_the_stream(name: str) -> None:
    m = loaded(name)
    assert change(m, quarot(network_of(m.architecture), np.random.default_rng(3), matrix="orthogonal", cross_heads=False)) < BOUND


@pytest.mark.parametrize(("name", "reason"), NOT_ROTATED.items())
def test_norms_that_do_not_commute_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        quarot(network_of(loaded(name).architecture), np.random.default_rng(0), rotations=("R1",), odd_sizes="blocks")


def test_a_tied_model_needs_a_head_of_its_own() -> None:
    tied = model.load(DATA / "tied_gqa_f32", dtype="float64")
    with pytest.raises(UsageError, match="head of its own"):
        network_of(tied.architecture)


def test_the_embedded_model_is_rotated_with_a_base_of_order_twelve() -> None:
    m = model.embedded(dtype="float64")
    rewrite = quarot(network_of(m.architecture), np.random.default_rng(0))
    assert len(rewrite.online["model.transformer.blocks.0.ff_out"][0].parts()["base"]) == 12  # 768 = 12 * 64
    assert change(m, rewrite) < BOUND


def test_subtracting_the_mean_would_not_preserve_it() -> None:
    """What the authors' code does to the embedding besides: the logits of an RMS model change visibly."""
    m = loaded("base_mha_f32")
    name = f"{m.architecture.embedding}.weight"
    embedding = m.parameters[name]
    centred = m.replace(parameters={name: embedding - embedding.mean(axis=1, keepdims=True)})
    ids = ids_for(m)
    assert np.abs(centred.logits(ids) - m.logits(ids)).max() > 0.01 * np.abs(m.logits(ids)).max()


def test_outliers_spread() -> None:
    """A large channel of the stream: the ratio of the largest entry to the root mean square falls at the inputs of the linears."""
    m = loaded("base_mha_f32")
    name = f"{m.architecture.embedding}.weight"
    loud = np.array(m.parameters[name])
    loud[:, 3] *= 60
    m = m.replace(parameters={name: loud})
    rotated = rewrite_model(m, quarot(network_of(m.architecture), np.random.default_rng(0)))
    peaks = []
    for each in (m, rotated):
        keep = Keep()
        each.logits(ids_for(m), observer=keep)
        x = keep.last("blocks.0.input")
        peaks.append(float(np.abs(x).max() / np.sqrt((x * x).mean())))
    assert peaks[1] < peaks[0] / 2


@pytest.mark.parametrize("name", [name for name in VARIANTS if "moe" not in name])
def test_duquant_preserves_the_function(name: str) -> None:
    """[DUQUANT-5] before every linear of a model, found on its own inputs, with the Hadamards of queries and keys."""
    m = loaded(name)
    keep = Keep()
    m.logits(ids_for(m), observer=keep)
    steps: list[Step] = []
    for index in range(m.config.n_layers):
        for group in m.linear_groups(index):
            x = keep.last(f"{group[0]}.input")
            x = x.reshape(-1, x.shape[-1])
            steps += duquant(x, np.random.default_rng(4), block=x.shape[1] & -x.shape[1], steps=3).joints(group)
    heads = quarot(network_of(m.architecture), np.random.default_rng(0), rotations=("R3",), odd_sizes="blocks")
    assert change(m, Rewrite(method="duquant", steps=tuple(steps)).then(heads)) < BOUND
