"""onnxruntime dequantizes and multiplies what we write, and we quantize as it does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from refquant.core import Scheme, Tiling, encode, fit_grid, spec
from refquant.layout.bits import pack_stream
from refquant.layout.matmul_nbits import attributes, pack, unpack
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import peer as recorded

INPUT = recorded("compressed_tensors")["input"]
SIGNED = Scheme(name="onnx_signed", range="minmax_with_zero", steps="levels", zero="integer", empty="unit_range", signed=True)
TILINGS = {"tensor": Tiling.tensor(), "channel": Tiling.channel(), "blocks of 32": Tiling.group(32)}


@pytest.fixture
def run(peer):
    """One node of ONNX, its initializers and inputs by name, and its one output."""
    onnx, runtime = peer("onnx"), peer("onnxruntime")

    def call(operator, inputs, output, *, given=(), domain="", **settings):
        kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT}
        tensors = [array if isinstance(array, onnx.TensorProto) else onnx.numpy_helper.from_array(array, name) for name, array in inputs]
        node = onnx.helper.make_node(operator, [name for name, _ in [*given, *inputs]], ["Y"], domain=domain, **settings)
        nodes = [node]
        if output in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):  # which NumPy has not
            output = onnx.TensorProto.INT8
            node.output[0] = "narrow"
            nodes.append(onnx.helper.make_node("Cast", ["narrow"], ["Y"], to=output))
        graph = onnx.helper.make_graph(
            nodes,
            "one",
            [onnx.helper.make_tensor_value_info(name, kinds[array.dtype], array.shape) for name, array in given],
            [onnx.helper.make_tensor_value_info("Y", output, None)],
            initializer=tensors,
        )
        opsets = [onnx.helper.make_opsetid("", 21), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, dict(given))[0]

    return call


def tensor(onnx, name, bits, signed, codes):
    """A tensor of codes; those of 4 bits lie two a byte, the first in the low half."""
    kind = getattr(onnx.TensorProto, f"{'INT' if signed else 'UINT'}{bits}")
    raw = pack_stream(codes.astype(np.uint8).reshape(-1) & 15, 4) if bits == 4 else codes.astype(np.int8 if signed else np.uint8)
    return onnx.helper.make_tensor(name, kind, codes.shape, raw.tobytes(), raw=True)


@pytest.mark.parametrize("granularity", TILINGS)
@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint4"])
def test_quantize_and_dequantize_linear(run, peer, record, name, granularity):
    onnx, bits, signed = peer("onnx"), int(name[-1]), name.startswith("i")
    tiling = TILINGS[granularity]
    s = spec(name, scheme=SIGNED if signed else "asym_incl0", tiling=tiling)
    x = INPUT[8:20] if granularity == "tensor" else INPUT
    grid = fit_grid(x, s)
    shape = {"tensor": (), "channel": (len(x),)}.get(granularity, grid.scale.shape)
    settings = {"tensor": {}, "channel": {"axis": 0}}.get(granularity, {"axis": 1, "block_size": 32})
    scale, zero = grid.scale.reshape(shape), tensor(onnx, "zero", bits, signed, grid.zero.reshape(shape))
    codes = encode(x, grid, s)
    kind = getattr(onnx.TensorProto, name.upper())
    theirs = run("QuantizeLinear", [("scale", scale), ("zero", zero)], kind, given=[("x", x)], **settings)
    assert np.array_equal(np.asarray(theirs).astype(np.int64), codes.astype(np.int64))
    q = rtn(x, s)
    numbers = run(
        "DequantizeLinear", [("codes", tensor(onnx, "codes", bits, signed, q.codes)), ("scale", scale), ("zero", zero)], 1, **settings
    )
    assert np.array_equal(numbers, q.dequantize())
    record(f"ONNX {name}", "onnxruntime", "reads ours", "equal", f"DequantizeLinear, per {granularity}".replace("per blocks", "blocks"))
    record(f"ONNX {name}", "onnxruntime", "writes, we read", "equal", f"QuantizeLinear, per {granularity}".replace("per blocks", "blocks"))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["sym_gptq", "sym_full", "asym_incl0"])
def test_matmul_nbits_multiplies_ours(run, record, bits, scheme):
    q = rtn(INPUT[8:], spec(f"int{bits}", group_size=32, scheme=scheme))
    parts = pack(q)
    one = np.eye(q.shape[1], dtype=np.float32)  # its product with the identity is the weight itself
    parts = [(name, parts[name]) for name in ("B", "scales", "zero_points") if name in parts]
    found = run("MatMulNBits", parts, 1, given=[("A", one)], domain="com.microsoft", accuracy_level=1, **attributes(q))
    assert np.array_equal(found.T, q.dequantize())
    record("MatMulNBits", "onnxruntime", "reads ours", "equal", f"{bits} bits, {scheme}: times the identity")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 40])
def test_we_read_its_blocks(peer, record, symmetric, columns):
    state = peer("onnxruntime").capi._pybind_state
    if not hasattr(state, "quantize_matmul_4bits"):
        pytest.skip("this build of onnxruntime cannot quantize")
    weight = np.ascontiguousarray(np.delete(INPUT[8:], 10, axis=0)[:, :columns].T)  # without the row of zero blocks, whose scales are 0
    rows, blocks = weight.shape[1], -(-columns // 32)
    packed, scale = np.zeros((rows, blocks, 16), np.uint8), np.zeros(rows * blocks, np.float32)
    zero = np.zeros(rows * ((blocks + 1) // 2), np.uint8)
    state.quantize_matmul_4bits(packed, weight, scale, zero, 32, rows, columns, symmetric)
    parts = {"B": packed, "scales": scale} | ({} if symmetric else {"zero_points": zero})
    if symmetric:  # its symmetric scales have a sign, as AutoRound's
        like = spec("uint4", group_size=32, scheme="auto_round_symmetric")
    q = unpack(parts, {"K": columns, "N": rows, "bits": 4, "block_size": 32}, like=like if symmetric else None)
    ours = pack(q)
    assert all(ours[name].tobytes() == parts[name].tobytes() for name in parts)
    steps = np.abs(q.dequantize() - weight.T) / np.repeat(np.abs(q.scale), 32, axis=1)[:, :columns]
    assert steps.max() < 1.01
    record("MatMulNBits", "onnxruntime", "writes, we read", "equal", f"{'symmetric' if symmetric else 'asymmetric'}, {columns} columns")


def test_float8(run, peer, record):
    onnx = peer("onnx")
    for name, kind in (("e4m3fn", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)):
        q = rtn(INPUT, spec(name))
        codes = onnx.helper.make_tensor(
            "codes",
            {"e4m3fn": onnx.TensorProto.FLOAT8E4M3FN, "e5m2": onnx.TensorProto.FLOAT8E5M2}[name],
            q.shape,
            q.codes.tobytes(),
            raw=True,
        )
        found = run("DequantizeLinear", [("codes", codes), ("scale", q.scale[:, 0])], 1, axis=0)
        assert np.array_equal(found, q.dequantize())
        assert np.array_equal(q.codes.view(kind).astype(np.float32) * q.scale, found)
        record(f"ONNX {name}", "onnxruntime", "reads ours", "equal", "DequantizeLinear, a scale a row")
