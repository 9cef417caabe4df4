"""compressed-tensors decompresses what we write, and we read what it compresses."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.apply.compressed_layout import COMPRESSED_TENSORS
from refquant.core import spec
from refquant.layout import compressed_floats, compressed_tensors
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import peer as recorded

INPUT = recorded("compressed_tensors")["input"]
INTEGERS = [
    ("pack-quantized", bits, scheme, group, scales)
    for bits in range(2, 9)
    for scheme in ("asym_incl0", "sym_full", "sym_gptq")
    for group, scales in ((None, "float32"), (128, "float32"), (32, "float16"))
] + [("int-quantized", 8, scheme, group, "float32") for scheme in ("asym_incl0", "sym_full") for group in (None, 128)]
# Positive, negative, sparse, alternating, large and ordinary rows, whose float16 scales are finite. More than eight of them: release 0.20.0
# fails on 4-bit zero points that fill a single word ("stride(-1) must be 1").
ROWS = np.concatenate([INPUT[8:12], INPUT[16:]])
FLOATS = {
    "float-quantized": spec("e4m3fn", scale_format="float32"),
    "nvfp4-pack-quantized": spec("nvfp4_compressed_tensors"),
    "mxfp4-pack-quantized": spec("mxfp4_even"),
}


@pytest.fixture
def torch(peer):
    peer("compressed_tensors")
    return peer("torch")


def tensors(torch, parts):
    kinds = {"float8_e4m3fn": torch.float8_e4m3fn}
    return {
        name: torch.from_numpy(array.view(np.uint8).copy()).view(kinds[array.dtype.name])
        if array.dtype.name in kinds
        else torch.from_numpy(np.array(array))
        for name, array in parts.items()
    }


def arrays(torch, state):
    import ml_dtypes

    found = {}
    for name, tensor in state.items():
        if tensor.dtype == torch.float8_e4m3fn:
            found[name] = tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
        else:
            found[name] = tensor.detach().numpy()
    return found


def compressor(block):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig(**block)
    return BaseCompressor.get_value_from_registry(config.format), config.config_groups["group_0"]


def decompressed(torch, state, program, scheme, variant):
    """What it makes of a linear. Its NVFP4 is computed in bfloat16 unless its functions are called with float32, as here."""
    if variant != "nvfp4-pack-quantized":
        return program.decompress(dict(state), scheme)["weight"].float().numpy()
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    rows, half = state["weight_packed"].shape
    codes = unpack_fp4_from_uint8(state["weight_packed"], rows, half * 2, dtype=torch.float32)
    scale, outer = state["weight_scale"].float(), state["weight_global_scale"]
    return dequantize(x_q=codes, scale=scale, args=scheme.weights, global_scale=outer, dtype=torch.float32).numpy()


def of_ours(torch, q, variant):
    program, scheme = compressor(COMPRESSED_TENSORS.config({"linear": q}, [], variant))
    return decompressed(torch, tensors(torch, COMPRESSED_TENSORS.pack(q, variant)), program, scheme, variant)


def note(variant):
    return "computed in float32; its decompress computes NVFP4 in bfloat16" if variant == "nvfp4-pack-quantized" else ""


@pytest.mark.parametrize("variant", ["pack-quantized", "int-quantized"])
def test_it_decompresses_our_integers(torch, record, variant):
    checked = 0
    for layout, bits, scheme, group, scales in INTEGERS:
        if layout != variant:
            continue
        q = rtn(ROWS, spec(f"int{bits}", group_size=group, scheme=scheme, scale_format=scales))
        values = q.dequantize()
        if scales == "float16":  # it multiplies in the dtype of the scales
            values = values.astype(np.float16).astype(np.float32)
        assert np.array_equal(of_ours(torch, q, variant), values), (bits, scheme, group, scales)
        checked += 1
    record(variant, "compressed-tensors", "reads ours", "equal", f"{checked} combinations of bits, scheme, group and scale dtype")


@pytest.mark.parametrize("variant", FLOATS)
def test_it_decompresses_our_floats(torch, record, variant):
    q = rtn(INPUT, FLOATS[variant])
    assert np.array_equal(of_ours(torch, q, variant), q.dequantize())
    record(variant, "compressed-tensors", "reads ours", "equal", note(variant))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("variant", ["pack-quantized", "int-quantized"])
def test_we_read_its_integers(torch, record, variant, symmetric):
    widths = range(2, 9) if variant == "pack-quantized" else [8]
    for bits in widths:
        s = spec(f"int{bits}", group_size=128, scheme="sym_full" if symmetric else "asym_incl0", scale_format="float32")
        q = rtn(INPUT, s)
        program, scheme = compressor(COMPRESSED_TENSORS.config({"linear": q}, [], variant))
        state = {"weight": torch.from_numpy(INPUT.copy()), "weight_scale": torch.from_numpy(np.array(q.scale))}
        if not symmetric:
            state["weight_zero_point"] = torch.from_numpy((q.zero.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8))
        theirs = program.compress(state, scheme)
        found = compressed_tensors.unpack(arrays(torch, theirs), s, variant)
        assert np.array_equal(found.dequantize(), program.decompress(theirs, scheme)["weight"].numpy())
        packed = compressed_tensors.pack(found, variant)
        for name, array in arrays(torch, theirs).items():
            assert packed[name].tobytes() == array.tobytes(), (bits, name)
    record(variant, "compressed-tensors", "writes, we read", "equal", "symmetric" if symmetric else "asymmetric")


@pytest.mark.parametrize("variant", FLOATS)
def test_we_read_its_floats(torch, record, variant):
    q = rtn(INPUT, FLOATS[variant])
    program, scheme = compressor(COMPRESSED_TENSORS.config({"linear": q}, [], variant))
    state = {"weight": torch.from_numpy(INPUT.copy()), "weight_scale": torch.from_numpy(np.array(q.scale, dtype=np.float32))}
    if q.coded is not None and q.coded.outer is not None:
        outer = q.coded.outer.reshape(1).copy()
        # It wants scales in units of the tensor's.
        state |= {
            "weight_global_scale": torch.from_numpy(outer),
            "weight_scale": torch.from_numpy(np.array(q.scale * outer, dtype=np.float32)),
        }
    theirs = program.compress(state, scheme)
    found = compressed_floats.unpack(arrays(torch, theirs), FLOATS[variant], variant)
    assert np.array_equal(found.dequantize(), decompressed(torch, theirs, program, scheme, variant))
    packed = compressed_floats.pack(found, variant)
    for name in packed:
        assert packed[name].tobytes() == arrays(torch, theirs)[name].tobytes(), name
    record(variant, "compressed-tensors", "writes, we read", "equal", note(variant))
