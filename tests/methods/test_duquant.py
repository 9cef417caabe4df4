"""DuQuant against the authors' recorded rotations and permutations, a second opinion in plain loops, and its laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core.transform import BlockRotation, Permutation, through
from refquant.errors import InputError, UsageError
from refquant.methods.rotate.duquant import base_rotation, duquant, greedy_rotation, zigzag_order
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.orthogonal import random_orthogonal

PEER = load_file(Path(__file__).parents[1] / "data" / "quant" / "duquant_rotation.safetensors")
CASES = sorted(key.removesuffix(".R") for key in PEER if key.endswith(".R"))


def exchange(size: int, index: int) -> Float64Array:
    """The matrix that exchanges coordinates 0 and `index`."""
    matrix = np.eye(size)
    matrix[[0, index]] = matrix[[index, 0]]
    return matrix


@pytest.mark.parametrize("block", [16, 32, 128])
def test_base_rotation_is_the_authors(block: int) -> None:
    """[DUQUANT-1]; theirs is float32."""
    np.testing.assert_allclose(base_rotation(block), PEER[f"rot.{block}"], atol=4e-8)


@pytest.mark.parametrize("block", [1, 2, 3, 8, 100, 128])
def test_base_rotation_spreads_its_first_coordinate(block: int) -> None:
    """[DUQUANT-1] orthogonal, a uniform first row; by products of Givens matrices one by one."""
    ours = base_rotation(block)
    matrix = np.eye(block)
    for i in range(block - 1):
        turn = np.eye(block)
        c, s = math.sqrt(1 / (i + 2)), math.sqrt(1 - 1 / (i + 2))
        turn[i : i + 2, i : i + 2] = [[c, -s], [s, c]]
        matrix = turn @ matrix
    swap = exchange(block, block - 1)
    np.testing.assert_allclose(ours, swap @ matrix @ swap, atol=1e-14)
    np.testing.assert_allclose(ours @ ours.T, np.eye(block), atol=1e-14)
    np.testing.assert_allclose(np.abs(ours[0]), 1 / math.sqrt(block), atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_recorded_transforms_give_the_recorded_inputs(case: str) -> None:
    """[DUQUANT-5] rotation, permutation, ..., rotation of x, with their matrices."""
    x, rotations, orders = PEER[case[0]], PEER[f"{case}.R"], PEER.get(f"{case}.perm", np.empty((0, 0), dtype=np.int64))
    repeats = x.shape[1] // rotations.shape[1]
    chain: list[BlockRotation | Permutation] = []
    for i, matrix in enumerate(rotations):
        chain.append(BlockRotation(blocks=matrix[None], repeats=repeats))
        chain += [Permutation(order=orders[i])] if i < len(orders) else []
    for name in ("rotated", "reapplied"):
        np.testing.assert_allclose(through(tuple(chain), x), PEER[f"{case}.{name}"], rtol=0, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}.perm" in PEER])
def test_permutations_are_the_authors(case: str) -> None:
    """[DUQUANT-4] on inputs that went through their rotations."""
    work, rotations = PEER[case[0]], PEER[f"{case}.R"]
    block = rotations.shape[1]
    for i, order in enumerate(PEER[f"{case}.perm"]):
        work = (work.reshape(-1, block) @ rotations[i]).reshape(work.shape)
        assert np.array_equal(zigzag_order(np.abs(work).max(axis=0), block), order)
        work = work[:, order]


@pytest.mark.parametrize(("case", "block"), [("x.b32", 32), ("x.b128", 128), ("w.b32", 32), ("w.b128", 32)])
def test_permutations_of_the_raw_tensors(case: str, block: int) -> None:
    # w.b128.zigzag was recorded with blocks of 32: it equals w.b32.zigzag.
    assert np.array_equal(zigzag_order(np.abs(PEER[case[0]]).max(axis=0), block), PEER[f"{case}.zigzag"])


def test_the_snake_by_hand() -> None:
    """[DUQUANT-4] n = 8, B = 2: ranks 0 1 2 3 go to blocks 0 1 2 3, ranks 4 5 6 7 to blocks 3 2 1 0."""
    magnitudes = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])
    assert zigzag_order(magnitudes, 2).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert zigzag_order(magnitudes, 4).tolist() == [0, 3, 4, 7, 1, 2, 5, 6]
    assert zigzag_order(np.ones(4), 2).tolist() == [0, 3, 1, 2]  # stable


def test_a_recorded_search_is_found_again() -> None:
    """[DUQUANT-2] and [DUQUANT-3], the code's reading: this search kept one step, so its matrix gives their base away.

    Their target is the row of the largest entry, 9; and with their base, in the few steps it was given, our search keeps one step too.
    """
    x, theirs = PEER["x"], PEER["x.b128.p1.R"][0].astype(np.float64)
    base = exchange(128, 9) @ theirs @ exchange(128, 9)
    np.testing.assert_allclose(base[:, 0], base_rotation(128)[:, 0], atol=1e-6)  # R~ diag(1, O) has the first column of R~
    found = greedy_rotation(x.reshape(-1, 128), base, 16, "row")
    assert (found.targets[0], found.kept) == (9, 1)
    np.testing.assert_allclose(found.matrix, theirs, atol=1e-12)
    mixer = (base_rotation(128).T @ base)[1:, 1:]
    both = duquant(x, np.random.default_rng(0), steps=16, target="row", mixers=(mixer, np.eye(127)))
    np.testing.assert_allclose(both.transforms[0].parts()["blocks"][0], theirs, atol=1e-6)
    assert np.array_equal(both.transforms[1].parts()["order"], PEER["x.b128.p1.perm"][0])


def plain_search(x: Array, base: Float64Array, steps: int, row: bool) -> tuple[Float64Array, list[int], list[float]]:
    """[DUQUANT-2] and [DUQUANT-3] entry by entry, with explicit exchange matrices."""
    work, size, targets, peaks, products = x.astype(np.float64), len(base), [], [], [np.eye(len(base))]
    for step in range(steps + 1):
        entries = [(work[i, j], i, j) for i in range(len(work)) for j in range(size)]
        high = max(entries, key=lambda e: e[0])
        low = min(entries, key=lambda e: e[0])
        peaks.append(high[0] - low[0])
        if step == steps:
            break
        _, i, j = high if abs(high[0]) > abs(low[0]) else low
        targets.append(i % size if row else j)
        turn = exchange(size, targets[-1]) @ base @ exchange(size, targets[-1])
        work = work @ turn
        products.append(products[-1] @ turn)
    return products[peaks.index(min(peaks))], targets, peaks


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 5]), st.integers(0, 6), st.booleans())
@settings(max_examples=40)
def test_the_search_by_plain_loops(seed: int, block: int, steps: int, row: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7, block)) * np.where(rng.random((7, block)) < 0.1, 30, 1)
    base = base_rotation(block) @ np.block(
        [[np.eye(1), np.zeros((1, block - 1))], [np.zeros((block - 1, 1)), random_orthogonal(rng, block - 1)]]
    )
    found = greedy_rotation(x, base, steps, "row" if row else "channel")
    matrix, targets, peaks = plain_search(x, base, steps, row)
    assert list(found.targets) == targets
    np.testing.assert_allclose(found.peaks, peaks, rtol=1e-9)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-9)


def outliers(tokens: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, width))
    x[:, width // 3] *= 40  # a normal outlier: one channel, all tokens
    x[tokens // 2, width // 5] = 300  # a massive one: one token
    return x


@pytest.mark.parametrize("target", ["channel", "row"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("permutations", [0, 1, 2])
def test_the_whole_chain_is_orthogonal_and_lowers_peaks(target: str, shared: bool, permutations: int) -> None:
    x = outliers(24, 64)
    found = duquant(x, np.random.default_rng(1), block=16, steps=8, permutations=permutations, target=target, shared=shared)  # type: ignore[arg-type]
    dense = through(found.transforms, np.eye(64))
    np.testing.assert_allclose(dense @ dense.T, np.eye(64), atol=1e-12)
    assert [t.kind for t in found.transforms] == ["block_rotation", *["permutation", "block_rotation"] * permutations]
    assert len(found.searches) == (permutations + 1) * (1 if shared else 4)
    weight = np.random.default_rng(2).standard_normal((5, 64))
    undone = weight
    for transform in found.transforms:
        undone = transform.undo(undone)
    np.testing.assert_allclose(through(found.transforms, x) @ undone.T, x @ weight.T, rtol=1e-10, atol=1e-10)
    assert all(search.peaks[search.kept] == min(search.peaks) for search in found.searches)
    if shared:  # then a search looks at everything, and the best prefix is never worse than none
        assert np.ptp(through(found.transforms, x)) <= np.ptp(x)
    assert np.abs(through(found.transforms, x)).max() < 0.8 * np.abs(x).max()


def test_the_permutation_balances_the_blocks() -> None:
    """[DUQUANT-4] is there so that blocks are alike: the means of their features' largest magnitudes lie closer together."""
    magnitudes = np.abs(np.random.default_rng(5).standard_normal(128)) ** 3
    before = magnitudes.reshape(8, 16).mean(axis=1)
    after = magnitudes[zigzag_order(magnitudes, 16)].reshape(8, 16).mean(axis=1)
    assert after.var() < before.var() / 4


def test_no_steps_no_rotation() -> None:
    found = duquant(outliers(8, 8), np.random.default_rng(0), block=4, steps=0, permutations=0)
    assert np.array_equal(found.transforms[0].parts()["blocks"][0], np.eye(4))


def test_joints_stand_online_before_their_linears() -> None:
    found = duquant(outliers(8, 8), np.random.default_rng(0), block=4, steps=2)
    joints = found.joints(("a", "b"))
    assert [joint.transform for joint in joints] == list(found.transforms)
    assert all(joint.online and joint.consumers == ("a", "b") for joint in joints)


def test_the_same_generator_gives_the_same_transforms() -> None:
    x = outliers(16, 32).astype(np.float32)
    one, two = (duquant(x, np.random.default_rng(3), block=8, steps=5) for _ in range(2))
    assert all(np.array_equal(a.matrix, b.matrix) for a, b in zip(one.searches, two.searches, strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"block": 5}, UsageError, "blocks of 5 do not divide 8 features"),
        ({"block": 0}, UsageError, "block is an integer of at least 1"),
        ({"steps": -1}, UsageError, "steps is an integer"),
        ({"permutations": True}, UsageError, "permutations is an integer"),
        ({"target": "token"}, UsageError, "target is 'channel' or 'row'"),
        ({"mixers": ()}, UsageError, "no matrix is left"),
        ({"mixers": (np.eye(4),)}, UsageError, r"one has shape \(4, 4\)"),
        ({"x": np.ones(8)}, InputError, "matrix"),
        ({"x": np.ones((0, 8))}, InputError, "at least one token"),
        ({"x": np.full((2, 8), np.nan)}, InputError, "NaN"),
        ({"x": np.ones((2, 8), dtype=int)}, InputError, "dtype int64"),
    ],
)
def test_refusals(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        duquant(**{"x": np.ones((2, 8)), "rng": np.random.default_rng(0), "block": 4, **arguments})  # type: ignore[arg-type]
