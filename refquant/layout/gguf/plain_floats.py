"""F32, F16 and BF16: numbers without blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from refquant.errors import NumericalError
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.numerics.arrays import Array


def _unpack_f32(blocks: Array) -> Fields:
    return Fields(codes=np.ascontiguousarray(blocks).view("<f4"))


def _unpack_f16(blocks: Array) -> Fields:
    return Fields(codes=np.ascontiguousarray(blocks).view("<f2"))


def _unpack_bf16(blocks: Array) -> Fields:
    return Fields(codes=np.ascontiguousarray(blocks).view("<u2").view(ml_dtypes.bfloat16))


def _pack(fields: Fields) -> Array:
    return np.ascontiguousarray(fields.codes).view(np.uint8)


def _values(fields: Fields, out: Array) -> None:
    with np.errstate(invalid="ignore"):  # a signalling NaN is quietened
        np.copyto(out, fields.codes)


def _bf16_values(fields: Fields, out: Array) -> None:
    np.left_shift(fields.codes.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)


def _to_f16(x: Array) -> Fields:
    with np.errstate(over="ignore", under="ignore"):
        found = x.astype(np.float16)
    _require_finite(found, x, "float16")
    return Fields(codes=found)


def _to_bf16(x: Array) -> Fields:
    """Half to even on the upper 16 bits: adding 0x7FFF, and 1 more if the bit that stays is odd, carries exactly when it has to."""
    bits = x.view(np.uint32)
    found = ((bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    _require_finite(found, x, "bfloat16")
    return Fields(codes=found)


def _require_finite(found: Array, x: Array, dtype: str) -> None:
    wrong = ~np.isfinite(found)
    if wrong.any():
        raise NumericalError(f"{float(x[wrong][0]):g} exceeds the largest {dtype} number; rescale the tensor")


F32 = BlockType(name="F32", number=0, size=1, nbytes=4, unpack=_unpack_f32, pack=_pack, values=_values, quantize=lambda x: Fields(codes=x))
F16 = BlockType(name="F16", number=1, size=1, nbytes=2, unpack=_unpack_f16, pack=_pack, values=_values, quantize=_to_f16)
BF16 = BlockType(name="BF16", number=30, size=1, nbytes=2, unpack=_unpack_bf16, pack=_pack, values=_bf16_values, quantize=_to_bf16)
