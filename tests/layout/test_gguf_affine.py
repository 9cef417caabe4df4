"""Super-blocks and blocks with minima as tensors: peers' bytes there and back, and their numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Origin
from refquant.core.affine_spec import AFFINE_FORMATS, AffineSpec, affine_parts, is_affine
from refquant.core.affine_tensor import AffineTensor
from refquant.core.scales import CodedScales, ScaleSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from refquant.layout.gguf.affine import NAMES, from_affine, to_affine, types_of
from tests.layout.tensors import peer

RECORDED = peer("gguf")
FILES = [name.removesuffix("q") for name in RECORDED if name.endswith("q") and not name.endswith("deq") and name.split(".")[1] in NAMES]


def tensor(kind, packed):
    kind = BLOCK_TYPES[kind]
    return GgufTensor(kind=kind, blocks=packed.reshape(-1, kind.nbytes), shape=(len(packed), packed.shape[1] // kind.nbytes * kind.size))


def finite(packed, kind):
    """Rows whose float16 numbers all are numbers."""
    fields = tensor(kind, packed).fields()
    good = np.isfinite(fields.d) & (True if fields.m is None else np.isfinite(fields.m))
    return packed[good.reshape(len(packed), -1).all(axis=1)]


@pytest.mark.parametrize("name", FILES)
def test_peers_bytes_there_and_back(name):
    kind = name.split(".")[1]
    packed = finite(RECORDED[f"{name}q"], kind)
    assert len(packed) >= 4
    t = tensor(kind, packed)
    found = to_affine(t)
    assert from_affine(found, kind if kind.startswith("TQ") else None).blocks.tobytes() == t.blocks.tobytes()
    if f"{name}deq" in RECORDED and len(packed) == len(RECORDED[f"{name}q"]):
        assert (found.dequantize() == RECORDED[f"{name}deq"].reshape(t.shape)).all()
    assert found.dequantize().tobytes() == t.dequantize().tobytes()


def test_numbers_of_every_type_are_a_peers():
    seen = {name.split(".")[1] for name in FILES if f"{name}deq" in RECORDED and len(finite(RECORDED[f"{name}q"], name.split(".")[1]))}
    assert seen == set(NAMES)


@given(st.sampled_from(sorted(NAMES)), st.integers(0, 2**32 - 1), st.sampled_from([(2, 256), (1, 512), (256,), (2, 1, 256)]))
def test_any_finite_bytes_come_back(kind, seed, shape):
    block = BLOCK_TYPES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // block.size, block.nbytes), dtype=np.uint8)
    if kind == "TQ1_0":  # bytes that no five trits make have no place
        blocks = quantize(rng.standard_normal(shape).astype(np.float32), kind).blocks
    if kind == "TQ2_0":
        blocks[:, :64] = rng.integers(0, 3, (len(blocks), 64)) * 0b01010101 % 256
    t = GgufTensor(kind=block, blocks=blocks, shape=shape)
    fields = t.fields()
    if not np.isfinite(fields.d).all() or not (fields.m is None or np.isfinite(fields.m).all()):
        with pytest.raises(InputError, match="not finite"):
            to_affine(t)
        return
    found = to_affine(t)
    assert from_affine(found, kind).blocks.tobytes() == t.blocks.tobytes()
    assert found.dequantize().tobytes() == t.dequantize().tobytes()
    again = AffineTensor.from_parts(found.parts(), AffineSpec.from_json(found.spec.to_json()), Origin(method="x"))
    assert again.digest() == found.digest()
    if kind != "TQ1_0":
        assert found.total_bits == 8 * t.blocks.nbytes
    assert found.bits_per_weight == Fraction(found.total_bits, found.codes.size)


@pytest.mark.parametrize("name", ["q2_k", "q4_k", "q6_k"])
def test_numbers_in_fractions(name):
    def single(number):
        return Fraction(float(np.float32(float(number))))  # of fractions that float64 holds

    found = to_affine(quantize(np.random.default_rng(4).standard_normal((1, 256)) * 3 + 1, name))
    group = found.spec.tiling.extents[1]
    values = found.dequantize()
    for i in range(256):
        scale = single(Fraction(float(found.scale.outer[0, 0])) * int(found.scale.codes[0, i // group]))
        x = single(scale * int(found.codes[0, i]))
        if found.minimum is not None:
            low = single(Fraction(float(found.minimum.outer[0, 0])) * int(found.minimum.codes[0, i // group]))
            x = single(x - low)
        assert Fraction(float(values[0, i])) == x
    assert np.array_equal(found.dequantize(np.dtype(np.float64)), values)


def test_bits_are_those_of_the_blocks():
    for kind, name in NAMES.items():
        if kind != "TQ1_0":
            spec, block = AFFINE_FORMATS[name], BLOCK_TYPES[kind]
            made = to_affine(quantize(np.ones((1, block.size * 8), np.float32), kind))
            assert made.bits_per_weight == Fraction(8 * block.nbytes, block.size), spec


def test_the_other_ternary_type():
    t = quantize(np.random.default_rng(0).standard_normal((2, 256)), "tq1_0")
    found = to_affine(t)
    assert from_affine(found).blocks.tobytes() == t.blocks.tobytes()
    assert from_affine(found).kind.name == "TQ1_0"
    assert types_of(found) == ["TQ2_0", "TQ1_0"]
    other = from_affine(found, "tq2_0")
    assert other.kind.name == "TQ2_0"
    assert np.array_equal(other.dequantize(), t.dequantize())
    unknown = AffineTensor.from_parts(found.parts(), found.spec, Origin(method="x"))
    assert from_affine(unknown).blocks.tobytes() == other.blocks.tobytes()
    assert unknown.digest() == found.digest()


def made(**changes):
    parts = {
        "codes": np.zeros((2, 32), np.uint8),
        "scale": np.ones((2, 1), np.float16),
        "minimum": np.zeros((2, 1), np.float16),
        "spec": AFFINE_FORMATS["q4_1"],
    }
    return AffineTensor(**parts | changes)


NESTED = AFFINE_FORMATS["q2_k"]


def nested(scale=None, minimum=None):
    one = CodedScales(codes=np.ones((1, 16), np.uint8), outer=np.ones((1, 1), np.float16))
    return AffineTensor(
        codes=np.zeros((1, 256), np.uint8), scale=one if scale is None else scale, minimum=one if minimum is None else minimum, spec=NESTED
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(codes=np.zeros((2, 32), np.int8)), "codes of uint4 are uint8, not int8"),
        (lambda: made(codes=np.full((2, 32), 16, np.uint8)), "16"),
        (lambda: made(scale=np.ones((2, 1), np.float32)), "the scale is float16, one number a tile"),
        (lambda: made(scale=np.ones((2, 2), np.float16)), r"need a scale of shape \(2, 1\), not \(2, 2\)"),
        (lambda: made(minimum=None), "the spec has minima, and the tensor none"),
        (lambda: made(minimum=np.full((2, 1), np.inf, np.float16)), "a minimum is not finite"),
        (lambda: made(spec=AFFINE_FORMATS["ternary_256"]), "codes of int2_narrow are int8"),
        (lambda: nested(scale=np.ones((1, 16), np.float16)), "the scale has to be codes on outer scales"),
        (lambda: nested(minimum=CodedScales(codes=np.full((1, 16), 16, np.uint8), outer=np.ones((1, 1), np.float16))), "16"),
        (lambda: nested(scale=CodedScales(codes=np.ones((1, 16), np.uint8), outer=np.full((1, 1), np.nan, np.float16))), "not finite"),
        (lambda: AffineTensor.from_parts({}, NESTED, Origin(method="x")), "codes, scale_codes, scale_outer, minimum_codes, minimum_outer"),
        (lambda: AffineSpec.from_json('{"kind":"binary"}'), "its kind is not 'affine'"),
        (lambda: AffineSpec.from_json("[]"), "this is not the JSON"),
        (lambda: from_affine(made(codes=np.zeros((2, 30), np.uint8))), "blocks of 32 along the last axis"),
        (lambda: from_affine(made(), "q4_k"), "q4_k has other blocks"),
        (lambda: to_affine(quantize(np.ones((1, 32)), "mxfp4")), "MXFP4 has no blocks of integer codes on scales"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_specs():
    for spec in AFFINE_FORMATS.values():
        assert AffineSpec.from_json(spec.to_json()) == spec
        assert is_affine(spec.to_json())
        assert spec.with_tiling(2) == spec
        assert affine_parts(spec)[0] == "codes"
    other = AffineSpec(
        format=IntFormat(bits=3, signed=False), tiling=Tiling((1, 8)), scales="float32", minima=AFFINE_FORMATS["q2_k"].minima
    )
    assert isinstance(other.minima, ScaleSpec)
    with pytest.raises(InputError, match="no GGUF type"):
        from_affine(AffineTensor(codes=np.zeros((1, 8), np.uint8), scale=np.ones((1, 1), np.float32), spec=AffineSpec(
            format=other.format, tiling=other.tiling, scales="float32")))  # fmt: skip
    with pytest.raises(InputError, match="have a nested spec; not -1"):
        AffineSpec.from_json(AFFINE_FORMATS["q4_1"].to_json().replace('"scales":"float16"', '"scales":-1'))
    with pytest.raises(InputError, match="have a nested spec; not None"):
        AffineSpec.from_json(AFFINE_FORMATS["q4_1"].to_json().replace('"scales":"float16"', '"scales":null'))
    with pytest.raises(UsageError, match="not 'float64'"):
        AffineSpec(format=other.format, tiling=other.tiling, scales="float64")
    with pytest.raises(UsageError, match="integer codes"):
        AffineSpec(format="int4", tiling=other.tiling, scales="float16")
