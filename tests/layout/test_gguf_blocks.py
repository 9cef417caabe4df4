"""GGUF's block types against what gguf's NumPy and ggml's C wrote, byte for byte."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from refquant.layout.gguf.mxfp4 import floor_log2
from refquant.layout.gguf.planes import put_planes, take_planes
from tests.layout.tensors import peer

RECORDED = peer("gguf")
BY_GGUF = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4")
BY_GGML = ("BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4")
DECODED = [name for name in RECORDED if name.endswith("deq")]


def tensor(kind, packed):
    kind = BLOCK_TYPES[kind]
    return GgufTensor(kind=kind, blocks=packed.reshape(-1, kind.nbytes), shape=(len(packed), packed.shape[1] // kind.nbytes * kind.size))


@pytest.mark.parametrize("name", DECODED)
def test_numbers_are_the_peers_to_the_byte(name):
    kind = name.split(".")[1]
    found = tensor(kind, RECORDED[name.removesuffix("deq") + "q"]).dequantize()
    assert found.dtype == np.float32
    assert found.tobytes() == RECORDED[name].tobytes()


def test_every_type_was_decoded_by_somebody_else():
    assert {name.split(".")[1] for name in DECODED} == set(BLOCK_TYPES) - {"F32", "F16", "BF16"}


@pytest.mark.parametrize("name", [name for name in RECORDED if name.endswith("q") and not name.endswith("deq")])
def test_packing_the_fields_gives_the_bytes_back(name):
    found = tensor(name.split(".")[1], RECORDED[name])
    assert found.kind.pack(found.fields()).tobytes() == found.blocks.tobytes()


@pytest.mark.parametrize("kind", BY_GGUF)
def test_gguf_quantizes_to_the_same_bytes(kind):
    assert quantize(RECORDED["input"], kind).blocks.tobytes() == RECORDED[f"gguf.{kind}.q"].tobytes()


@pytest.mark.parametrize("kind", BY_GGML)
def test_ggml_quantizes_to_the_same_bytes(kind):
    found, wanted = quantize(RECORDED["input"], kind).blocks, RECORDED[f"ggml.{kind}.q"]
    found = found.reshape(wanted.shape)
    # Row 6 is signed zeros: where they are the minimum, C and NumPy store zeros of different sign, and ours is NumPy's.
    different = [int(row) for row in np.flatnonzero((found != wanted).any(axis=1))]
    assert different == ([6] if kind in ("Q4_1", "Q5_1") else [])


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_subnormal_rows_of_the_k_types(kind):
    assert quantize(RECORDED["input_subnormal"], kind).blocks.tobytes() == RECORDED[f"ggml.{kind}.sub_q"].tobytes()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1", "Q5_1", "TQ1_0", "TQ2_0"])
def test_subnormal_rows_where_a_reference_defines_them(kind):
    assert quantize(RECORDED["input_subnormal"], kind).blocks.tobytes() == RECORDED[f"gguf.{kind}.sub_q"].tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "MXFP4"])
def test_rows_whose_reciprocal_overflows_are_zeros(kind):
    # gguf casts NaN or infinity to an integer there, or lets an exponent wrap round; the stored scale is 0 or nearly so.
    found, wanted = quantize(RECORDED["input_subnormal"], kind), RECORDED[f"gguf.{kind}.sub_q"]
    assert np.abs(found.dequantize()[:4]).max() < 2.0**-120
    different = (found.blocks != wanted.reshape(found.blocks.shape)).any(axis=1)
    largest = np.abs(RECORDED["input_subnormal"].astype(float)).reshape(-1, 32).max(axis=1)
    # 1 / d overflows for |d| up to 2^-128, d being the largest over 8 or 16; MXFP4's exponent is the logarithm's plus 125.
    limit = {"Q4_0": 2.0**-125, "Q5_0": 2.0**-124, "MXFP4": 2.0**-125}[kind]
    assert different.any()
    assert largest[different].max() < limit
    assert not different[largest >= limit].any()
    assert not found.fields().d[different].any()  # a scale of 0, or MXFP4's lowest
    assert (largest >= limit).sum() >= 24


@given(st.sampled_from([name for name in BLOCK_TYPES if name not in ("TQ1_0",)]), st.integers(0, 2**32 - 1))
def test_any_bytes_come_back(kind, seed):
    kind = BLOCK_TYPES[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (3, kind.nbytes), dtype=np.uint8)
    assert kind.pack(kind.unpack(blocks)).tobytes() == blocks.tobytes()


def test_every_trit_byte_that_a_writer_makes_comes_back():
    bytes_of = [-(-value * 256 // 243) for value in range(243)]
    kind = BLOCK_TYPES["TQ1_0"]
    blocks = np.zeros((6, 54), np.uint8)
    blocks[:, :48].flat[:243] = bytes_of
    found = kind.unpack(blocks)
    assert kind.pack(found).tobytes() == blocks.tobytes()
    # The most significant digit of 242 = 22222 in base 3, by hand, and of 1 = 00001.
    trits = [[value // 3 ** (4 - k) % 3 for k in range(5)] for value in range(243)]
    first = np.array([[found.codes[0, place + 32 * k] + 1 for k in range(5)] for place in range(32)])
    assert first.tolist() == trits[:32]


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 4, 8, 16]), st.sampled_from([4, 8, 12]), st.integers(0, 2**32 - 1))
def test_planes_lie_where_the_formula_says(bits, run, runs, seed):
    packed = np.random.default_rng(seed).integers(0, 256, (2, run * runs), dtype=np.uint8)
    codes = take_planes(packed, bits, run)
    for c in range(runs):
        for k in range(8 // bits):
            for place in range(run):
                expected = [int(row[c * run + place]) >> (k * bits) & ((1 << bits) - 1) for row in packed]
                assert codes[:, c * run * (8 // bits) + k * run + place].tolist() == expected
    assert np.array_equal(put_planes(codes, bits, run), packed)


@pytest.mark.parametrize("power", [-126, -100, -65, -64, -17, -8, -2, -1, 0, 1, 2, 3, 7, 8, 31, 64, 127])
def test_logarithms_round_as_float32_ones_do(power):
    import mpmath

    steps = np.arange(0, 80)
    x = (np.float32(2.0**power).view(np.int32) - steps).astype(np.int32).view(np.float32)
    with mpmath.workdps(60):
        # float(mpf) rounds to float64, in which the logarithm is far enough from any tie of float32.
        exact = [np.float32(float(mpmath.log(mpmath.mpf(float(number)), 2))) for number in x]
    assert floor_log2(x).tolist() == [int(np.floor(number)) for number in exact]


def test_bits_are_those_of_a_block():
    assert BLOCK_TYPES["Q4_K"].nbytes == 144
    assert quantize(np.ones((2, 256), np.float32), "q4_k").bits_per_weight == Fraction(9, 2)


def test_q4_0_of_a_block_by_hand():
    x = np.zeros(32, np.float32)
    x[3], x[20] = -4.0, 2.0
    fields = quantize(x[None], "q4_0").fields()
    # The largest magnitude is -4 and gets code 0, which is -8 steps: the scale is 1/2.
    assert float(fields.d[0]) == 0.5
    assert fields.codes[0, 3] == -8
    assert fields.codes[0, 20] == 4


@pytest.mark.parametrize("kind", [name for name, kind in BLOCK_TYPES.items() if kind.quantize is not None])
def test_what_is_not_finite_is_refused(kind):
    x = np.ones((2, 256), np.float32)
    x[1, 7] = np.inf
    with pytest.raises(InputError, match=r"inf at \(1, 7\)"):
        quantize(x, kind)


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "TQ1_0", "TQ2_0"])
def test_what_float16_cannot_hold_is_refused(kind):
    x = np.zeros((1, 256), np.float32)
    x[0, 0] = 3e38
    with pytest.raises(NumericalError, match="rescale the tensor"):
        quantize(x, kind)


def test_shapes_that_do_not_divide_into_blocks_are_refused():
    with pytest.raises(InputError, match="blocks of 32 along the last axis; shape"):
        quantize(np.ones((32, 31)), "q4_0")
    with pytest.raises(InputError, match="blocks of 256"):
        quantize(np.ones(()), "q4_k")
    with pytest.raises(UsageError, match="no GGUF type 'q9_0'"):
        quantize(np.ones(32), "q9_0")
    with pytest.raises(InputError, match="uint8 of shape"):
        GgufTensor(kind=BLOCK_TYPES["Q8_0"], blocks=np.zeros((1, 33), np.uint8), shape=(1, 32))


def test_an_empty_tensor_and_other_axes():
    assert quantize(np.ones((0, 32), np.float32), "q8_0").dequantize().shape == (0, 32)
    assert quantize(np.ones((2, 3, 32), np.float32), "q8_0").dequantize().shape == (2, 3, 32)


def test_chunks_do_not_show():
    x = np.random.default_rng(0).standard_normal((700, 256)).astype(np.float32)
    whole = quantize(x, "q4_k")
    assert np.concatenate([quantize(row[None], "q4_k").blocks for row in x[::99]]).tobytes() == whole.blocks[::99].tobytes()
    assert whole.dequantize()[::99].tobytes() == np.concatenate([quantize(row[None], "q4_k").dequantize() for row in x[::99]]).tobytes()
