"""What gguf writes of NaN, infinities and numbers whose scale overflows float16: read as it reads it, and refused by our quantizers.

Rows 0 to 4 have NaN or an infinity in their first block of 32, row 5 numbers up to 3e30, row 6 two numbers of magnitude 3e38.
"""

from __future__ import annotations

import numpy as np
import pytest

from refquant.errors import InputError, NumericalError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from tests.layout.tensors import peer

RECORDED = peer("gguf_nonfinite")
INPUT = RECORDED["input"]
KINDS = [name.removesuffix(".q") for name in RECORDED if name.endswith(".q")]
WIDE = ("F32", "BF16", "MXFP4")  # whose exponents reach as far as float32's, or nearly
HALF_SCALE = tuple(kind for kind in KINDS if kind not in (*WIDE, "F16"))


def written(kind):
    block = BLOCK_TYPES[kind]
    return GgufTensor(kind=block, blocks=RECORDED[f"{kind}.q"].reshape(-1, block.nbytes), shape=INPUT.shape)


def blocks_of(kind):
    """Numbers ``[blocks, size]`` and the bytes that gguf made of them."""
    return INPUT.reshape(-1, BLOCK_TYPES[kind].size), written(kind).blocks


def test_every_type_that_gguf_quantizes_is_recorded():
    assert set(KINDS) == {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4"}
    assert np.flatnonzero(~np.isfinite(INPUT[:, :32]).all(axis=1)).tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(INPUT[:, 32:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_gguf_wrote_is_read_as_by_gguf(kind):
    found, wanted = written(kind).dequantize(), RECORDED[f"{kind}.deq"]
    number = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(found), ~number)  # which NaN infinity times zero is, processors choose
    assert found[number].tobytes() == wanted[number].tobytes()
    assert written(kind).kind.pack(written(kind).fields()).tobytes() == written(kind).blocks.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_numbers_that_fit_have_ggufs_bytes(kind):
    x, wanted = blocks_of(kind)
    fit = np.isfinite(x).all(axis=1)
    if kind not in WIDE:
        fit &= np.abs(x).max(axis=1) < 65504
    assert quantize(x[fit], kind).blocks.tobytes() == wanted[fit].tobytes()
    # Five blocks are not finite, one place each but for the fourth row's two; the two last rows are too large where a scale is float16.
    left_out = 6 if BLOCK_TYPES[kind].size == 1 else 5
    left_out += 0 if kind in WIDE else 512 // BLOCK_TYPES[kind].size
    assert (~fit).sum() == left_out


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_do_not_fit_are_refused(kind):
    for row, place, value in ((0, 3, "nan"), (1, 5, "inf"), (2, 7, "-inf"), (3, 2, "nan"), (4, 4, "nan")):
        with pytest.raises(InputError, match=rf"holds {value} at \({place},\)"):
            quantize(INPUT[row], kind)
    for row in (5, 6):
        if kind in WIDE:
            assert quantize(INPUT[row], kind).blocks.size
            continue
        with pytest.raises(NumericalError, match="rescale the tensor"):
            quantize(INPUT[row], kind)


@pytest.mark.parametrize("kind", HALF_SCALE)
def test_gguf_spoils_the_whole_block(kind):
    """A finding: one NaN, or one infinity, and no number of the block is left, whatever the others were."""
    size = BLOCK_TYPES[kind].size
    read = written(kind).dequantize()[:5, :size]
    assert not np.isfinite(read).any()
    # The one infinity that comes back is the number of largest magnitude in the types that give it a code of its own.
    kept = 1 if kind in ("Q4_0", "Q5_0") else 0
    assert np.isinf(read).sum(axis=1).tolist() == [0, kept, kept, 0, 0]


@pytest.mark.parametrize("kind", HALF_SCALE)
def test_gguf_writes_infinite_scales(kind):
    """A finding: where the scale overflows, gguf stores infinity, and every number of the two rows reads as infinity or NaN."""
    held = written(kind)
    assert np.isinf(held.fields().d.reshape(7, -1)[5:]).all()
    assert not np.isfinite(held.dequantize()[5:]).any()


def test_ggufs_sixteen_bit_floats_keep_infinities_and_f16_makes_some():
    for kind in ("F16", "BF16"):
        read = written(kind).dequantize()
        special = ~np.isfinite(INPUT)
        assert np.array_equal(read[special], INPUT[special], equal_nan=True)
        assert np.isinf(read[5:]).all() == (kind == "F16")


def test_ggufs_mxfp4_makes_zeros_of_a_block_with_nan_or_infinities():
    """A finding: the exponent of NaN is cast to an integer, and on x86 the byte becomes 0 with codes of 0."""
    assert not written("MXFP4").blocks.reshape(7, 8, 17)[:5, 0].any()
    assert not written("MXFP4").dequantize()[:5, :32].any()
