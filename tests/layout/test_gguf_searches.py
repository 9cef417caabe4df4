"""What ggml's C searches for: IQ types, NVFP4, and every type with an importance, byte for byte; and the pieces by brute force."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from refquant.layout.gguf.codebooks import codebook
from refquant.layout.gguf.group_fits import fit_from_zero
from refquant.layout.gguf.iq4_nl import TABLE
from refquant.layout.gguf.nvfp4 import SCALES
from refquant.layout.gguf.search_grid import search_grid
from refquant.layout.gguf.table_fits import nearest_members
from refquant.layout.gguf.types import WEIGHTED
from tests.layout.tensors import peer

RECORDED, SEARCHES = peer("gguf"), peer("ggml_searches")
SEARCHED = ("IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "NVFP4")
NEEDING = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
BOOKS = [("IQ1_S", 3), ("IQ2_XXS", 2), ("IQ2_XS", 2), ("IQ2_S", 1), ("IQ3_XXS", 2), ("IQ3_S", 3)]


def recorded(ending):
    """Types of which there are blocks by ggml in the file that others share."""
    return [name.split(".")[1] for name in RECORDED if name.startswith("ggml.") and name.endswith(f".{ending}")]


@pytest.mark.parametrize("kind", [kind for kind in recorded("q") if kind in SEARCHED])
def test_ggml_searches_to_the_same_bytes(kind):
    assert quantize(RECORDED["input"], kind).blocks.tobytes() == RECORDED[f"ggml.{kind}.q"].tobytes()


@pytest.mark.parametrize("kind", [kind for kind in recorded("sub_q") if kind in SEARCHED])
def test_subnormal_rows_of_the_searches(kind):
    assert quantize(RECORDED["input_subnormal"], kind).blocks.tobytes() == RECORDED[f"ggml.{kind}.sub_q"].tobytes()


@pytest.mark.parametrize("kind", recorded("imat_q"))
def test_ggml_weighs_to_the_same_bytes(kind):
    found = quantize(RECORDED["input"][14:], kind, importance=SEARCHES["imatrix"])
    assert found.blocks.tobytes() == RECORDED[f"ggml.{kind}.imat_q"].tobytes()


@pytest.mark.parametrize("name", [name for name in SEARCHES if name.endswith((".q", "importance_q", "sparse_q"))])
def test_rows_of_two_blocks_and_of_every_kind(name):
    kind, how = name.split(".")
    importance = {"q": None, "importance_q": SEARCHES["importance"], "sparse_q": SEARCHES["sparse"]}[how]
    found = quantize(SEARCHES["input"], kind, importance=importance).blocks.reshape(SEARCHES[name].shape)
    assert np.flatnonzero((found != SEARCHES[name]).any(axis=1)).tolist() == []


@pytest.mark.parametrize("kind", ["IQ2_XXS", "IQ2_XS", "IQ3_XXS"])
def test_scales_that_come_out_negative(kind):
    # Of eight numbers, one of them minus, the smallest costs least to turn round, though its weight is by far the largest.
    found = quantize(SEARCHES["opposite"], kind, importance=SEARCHES["opposite_importance"])
    assert found.blocks.tobytes() == SEARCHES[f"{kind}.opposite_q"].tobytes()
    minus = (found.dequantize() < 0).reshape(2, 8, 32)
    assert (np.count_nonzero(minus, axis=2) >= 14).all()  # nearly all signs of a group of 16 or 32, where nearly all numbers are positive


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1"])
def test_a_minimum_of_zero_has_the_first_zeros_sign(kind):
    x = np.zeros((3, 32), np.float32)
    x[0, 1:], x[1, 0], x[2] = -0.0, -0.0, -0.0
    assert np.signbit(quantize(x, kind, importance=np.ones(32)).fields().m).tolist() == [False, True, True]  # so ggml's bytes


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M"])
def test_blocks_whose_scale_underflows(kind):
    found = quantize(SEARCHES[f"{kind}.tiny"], kind, importance=SEARCHES[f"{kind}.tiny_importance"])
    assert found.blocks.tobytes() == SEARCHES[f"{kind}.tiny_q"].tobytes()


def test_every_type_that_is_weighed_is_recorded():
    assert {name.split(".")[0] for name in SEARCHES if name.endswith("importance_q")} == set(WEIGHTED)
    assert set(SEARCHED) == {name for name, kind in BLOCK_TYPES.items() if name.startswith(("IQ", "NV")) and kind.quantize is not None}
    assert {name for name, kind in BLOCK_TYPES.items() if kind.quantize is None} == set(NEEDING)


def test_iq3_s_writes_groups_behind_zeros_too_early():
    """A finding: ggml does not move on over a group of zeros, so lower bits of places and signs of the next ones lie in its bytes."""
    x = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    whole, with_zeros = x.copy(), x.copy()
    with_zeros[0, 64:96] = 0
    sound, found = quantize(whole, "IQ3_S"), quantize(with_zeros, "IQ3_S")
    off = np.abs(found.dequantize() - with_zeros).reshape(8, 32).max(axis=1)
    assert off[:2].max() < 0.5
    assert off[3:].min() > 1
    # Group 2 holds what group 3 should, as far as it is of the lower eight bits.
    places = codebook("IQ3_S").find(np.abs(found.fields().codes)).reshape(8, 8)
    held = codebook("IQ3_S").find(np.abs(sound.fields().codes)).reshape(8, 8)
    assert (places[2:7] & 255 == held[3:] & 255).mean() > 0.9
    assert not (places[7] & 255).any()


@pytest.mark.parametrize(("book", "distances"), BOOKS)
def test_neighbours_are_the_nearest_of_the_book(book, distances):
    grid, points = search_grid(book, distances), codebook(book).points.astype(int)
    members = sorted(set(points.flat))
    rows = [[members.index(number) for number in point] for point in points.tolist()]
    base, rng = len(members), np.random.default_rng(0)
    assert grid.holds.sum() == len(points)
    for place in rng.choice(np.flatnonzero(~grid.holds), 40, replace=False):
        at = [int(place) // base**i % base for i in range(len(rows[0]))]
        far = sorted((sum((a - b) ** 2 for a, b in zip(at, row, strict=True)), entry) for entry, row in enumerate(rows))
        allowed = sorted({distance for distance, _ in far})[:distances]
        wanted = [entry for distance, entry in far if distance in allowed]
        start = grid.starts[place]
        assert grid.neighbours[start : start + grid.counts[place]].tolist() == wanted
    for entry in rng.choice(len(points), 40, replace=False):
        assert grid.holds[sum(level * base**i for i, level in enumerate(rows[entry]))]


@pytest.mark.parametrize(("book", "distances"), BOOKS)
def test_settling_takes_the_nearest_neighbour(book, distances):
    grid, rng = search_grid(book, distances), np.random.default_rng(1)
    shape = (2 * grid.width, 40)
    levels = rng.integers(0, len(grid.members), shape)
    x, w = (rng.integers(0, 16, shape).astype(np.float32) for _ in range(2))
    scale = rng.integers(1, 4, 40).astype(np.float32)
    settled, held = grid.settle(levels, x, w, scale)
    assert held.any() != held.all() or held.mean() < 0.1
    for group in range(40):
        for point in range(2):
            rows = slice(point * grid.width, (point + 1) * grid.width)
            place = sum(int(level) * len(grid.members) ** i for i, level in enumerate(levels[rows, group]))
            if held[point, group]:
                assert np.array_equal(settled[rows, group], levels[rows, group])
                continue
            near = grid.neighbours[grid.starts[place] : grid.starts[place] + grid.counts[place]]
            # Integers small enough for float32 to be exact.
            costs = [
                int((w[rows, group] * (scale[group] * grid.coordinates[grid.points[:, entry]] - x[rows, group]) ** 2).sum())
                for entry in near
            ]
            assert np.array_equal(settled[rows, group], grid.points[:, near[int(np.argmin(costs))]])


def test_the_nearest_members_by_fractions():
    table = TABLE.astype(np.float32)
    x = np.random.default_rng(0).uniform(-140, 130, 3000).astype(np.float32)
    x[:100] = np.arange(-127, 110, 2.37)[:100].astype(np.float32)
    found = nearest_members(x, table)
    exact = [min(TABLE.tolist()[::-1], key=lambda member, at=number: abs(Fraction(float(at)) - member)) for number in x]
    assert np.array_equal(found, exact)
    halves = (table[1:] + table[:-1]) / 2
    assert np.array_equal(nearest_members(halves, table), table[1:])
    assert nearest_members(np.array([np.nan, np.inf, -np.inf], np.float32), table).tolist() == [113, 113, -127]


def test_codes_of_negative_numbers_wrap_round_in_a_byte():
    # By hand: 4 / 4 = 1, so the scale is 1 and codes are the numbers; -1 is 255 in a byte, costs 65536, and no other scale undoes that.
    x = np.array([4, 3, 2, -1], np.float32)[:, None]
    codes, scale = fit_from_zero(x, np.array([1, 1, 1, 0], np.float32)[:, None], 4)
    assert codes[:, 0].tolist() == [4, 3, 2, 255]
    assert scale.tolist() == [1]


def test_scales_of_nvfp4():
    """e4m3, but for what the module says: 448 from 256 on, 7 for 7.5 to 8 of the smallest steps, and ties up."""
    steps = [Fraction(float(number)) * 2 for number in SCALES[:0x7F]]
    rng = np.random.default_rng(0)
    numbers = np.concatenate([np.exp2(rng.uniform(-11, 9.5, 800)), rng.integers(0, 1024, 500) / 1024, [0, 448, 256, 255.9, 1e9, 248, 247]])
    x = np.zeros((len(numbers), 64), np.float32)
    x[:, 0] = numbers * 6
    found = quantize(x, "NVFP4").fields().scales[:, 0]
    for number, code in zip((x[:, 0] / np.float32(6)).tolist(), found.tolist(), strict=True):
        exact = Fraction(number)
        if exact >= 248:
            wanted = 0x7E
        elif Fraction(15, 1024) <= exact < Fraction(16, 1024):
            wanted = 7
        else:
            wanted = max(range(0x7F), key=lambda c, at=exact: (-abs(steps[c] - at), c))
        assert code == wanted, number


@settings(max_examples=20)
@given(st.sampled_from(sorted(WEIGHTED)), st.integers(-12, 12), st.integers(0, 2**32 - 1))
def test_only_ratios_of_an_importance_count(kind, power, seed):
    rng = np.random.default_rng(seed)
    x, importance = rng.standard_normal((2, 512)).astype(np.float32), rng.uniform(0.1, 4, 512).astype(np.float32)
    scaled = importance * np.float32(4.0**power)  # exact, and so are square roots
    assert quantize(x, kind, importance=importance).digest() == quantize(x, kind, importance=scaled).digest()


@pytest.mark.parametrize("kind", WEIGHTED)
def test_an_importance_lowers_the_error_that_it_weighs(kind):
    rng = np.random.default_rng(2)
    x, importance = rng.standard_normal((64, 256)).astype(np.float32), np.exp2(rng.uniform(-6, 0, 256)).astype(np.float32)
    errors = []
    for used in (importance, np.ones_like(importance)):
        errors.append(float((importance * (quantize(x, kind, importance=used).dequantize() - x) ** 2).sum()))
    assert errors[0] < 0.97 * errors[1]


@pytest.mark.parametrize("kind", WEIGHTED)
def test_chunks_and_leading_axes_do_not_show(kind):
    rng = np.random.default_rng(3)
    x, importance = rng.standard_normal((2, 3, 512)).astype(np.float32), rng.uniform(0.1, 4, 512)
    whole = quantize(x, kind, importance=importance)
    assert whole.shape == (2, 3, 512)
    rows = [quantize(row, kind, importance=importance).blocks for row in x.reshape(6, 512)]
    assert whole.blocks.tobytes() == np.concatenate(rows).tobytes()
    assert quantize(np.zeros((0, 512), np.float32), kind, importance=importance).shape == (0, 512)


def test_many_chunks_of_whole_rows(monkeypatch):
    x = np.random.default_rng(4).standard_normal((9, 320)).astype(np.float32)
    whole = quantize(x, "Q4_0", importance=np.arange(320))
    monkeypatch.setattr("refquant.layout.gguf.tensor.CHUNK", 700)
    assert quantize(x, "Q4_0", importance=np.arange(320)).digest() == whole.digest()


@pytest.mark.parametrize("kind", NEEDING)
def test_types_that_need_an_importance(kind):
    with pytest.raises(UsageError, match=f"{kind} needs an importance, one number for each of the 256 columns"):
        quantize(np.ones((2, 256)), kind)


@pytest.mark.parametrize("kind", sorted(set(BLOCK_TYPES) - set(WEIGHTED)))
def test_types_that_make_no_use_of_an_importance(kind):
    with pytest.raises(UsageError, match=f"{kind} makes no use of an importance; those that do are Q4_0"):
        quantize(np.ones((2, 256)), kind, importance=np.ones(256))


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(255), r"float64 of shape \(255,\); wanted is one number for each of 256 columns"),
        (np.ones((1, 256)), r"float64 of shape \(1, 256\)"),
        (np.full(256, "1"), r"<U1 of shape \(256,\)"),
        (np.where(np.arange(256) == 9, -1.0, 1.0), "importance of column 9 is -1.0"),
        (np.where(np.arange(256) == 9, np.nan, 1.0), "importance of column 9 is nan"),
        (np.where(np.arange(256) == 9, 1e39, 1.0), r"importance of column 9 is 1e\+39"),
    ],
)
def test_what_is_no_importance(importance, message):
    with pytest.raises(InputError, match=message):
        quantize(np.ones((2, 256)), "q4_k", importance=importance)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weighted_squares_that_exceed_float32(kind):
    # ggml aborts the process there, or writes zeros.
    x = np.random.default_rng(0).standard_normal((2, 256))
    x[1, 3] *= 1e5
    if kind == "Q6_K":  # whose weights are the importance itself
        x *= 1e5
    with pytest.raises(NumericalError, match=r"weighted squares of block \d+ exceed float32; rescale the tensor or its importance"):
        quantize(x, kind, importance=np.full(256, 1e25))


@pytest.mark.parametrize("kind", [kind for kind in SEARCHED if kind != "NVFP4"])
def test_numbers_that_are_too_large(kind):
    for size in (1e37, 1e15, 1e8):
        x = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32) * np.float32(size)
        with pytest.raises(NumericalError, match="rescale the tensor"):
            quantize(x, kind)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_no_importance_at_all(kind):
    x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    found = quantize(x, kind, importance=np.zeros(256))
    assert np.isfinite(found.dequantize()).all()
    assert isinstance(found, GgufTensor)
