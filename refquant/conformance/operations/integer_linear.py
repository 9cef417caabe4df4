"""Products of integer codes: accumulators, zero-point corrections, and scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import Grid, QTensor, QuantSpec, Tiling, spec
from refquant.methods.kernels.integer_linear import corrected_sums, integer_linear
from refquant.methods.kernels.integer_matmul import integer_matmul
from refquant.methods.kernels.integer_weight import prepare_weight
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY32, matrix, row
from refquant.oracle.integer_linear import integer_linear as exact_linear

MATMUL, LINEAR = "integer.matmul", "integer.linear"
TOKENS, OUT, COLUMNS = 4, 5, 20


def matmul_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Multiply."""
    return {"accumulators": integer_matmul(inputs["a"], inputs["w"], arithmetic)}


def _spec(parameters: Parameters, which: str, rows: int) -> QuantSpec:
    tiling = Tiling((rows, parameters[f"{which}_group"]))
    return spec(f"int{parameters[f'{which}_bits']}", scheme=parameters[f"{which}_scheme"], tiling=tiling)


def linear_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Multiply, correct, scale."""
    how, activation = _spec(parameters, "weight", 1), _spec(parameters, "activation", 1)
    zero = inputs["w_zero"] if how.scheme.zero != "none" else None
    weight = QTensor(codes=inputs["w_codes"], scale=inputs["w_scale"], zero=zero, spec=how)
    prepared = prepare_weight(weight, activation, np.dtype(np.float32), arithmetic)
    a_zero = inputs["a_zero"] if activation.scheme.zero != "none" else None
    grid = Grid(scale=inputs["a_scale"], zero=a_zero)
    wide = None if a_zero is None else a_zero.astype(np.int64)
    sums = [sums for _, _, sums in corrected_sums(inputs["a_codes"], wide, prepared, arithmetic)]
    bias = inputs["bias"] if parameters["bias"] else None
    return {"sums": np.stack(sums), "y": integer_linear(inputs["a_codes"], grid, prepared, bias, arithmetic)}


def matmul_cases() -> Iterator[Case]:
    """Ordinary codes, and the ends of their formats, where narrow intermediates overflow."""
    ordinary = counted(91, (4, 24), 8).astype(np.int8), counted(92, (5, 24), 4).astype(np.int8)
    lowest = np.full((2, 64), -128, dtype=np.int8), np.full((3, 64), -128, dtype=np.int8)
    pairs = np.full((2, 8), 255, dtype=np.uint8), np.full((2, 8), 127, dtype=np.int8)
    long = np.full((1, 4096), 127, dtype=np.int8), np.stack([np.full(4096, 127), np.full(4096, -127)]).astype(np.int8)
    odd = np.full((1, 2049), 127, dtype=np.int8), np.full((1, 2049), 127, dtype=np.int8)
    for slug, flags, (a, w), note in (
        ("ordinary", ("ordinary",), ordinary, ""),
        ("lowest", ("accumulation", "lowest-code"), lowest, "-128 times -128 is 2^14; 64 of them are 2^20"),
        ("unsigned-pairs", ("accumulation",), pairs, "two products of 255 and 127 do not fit 16 bits"),
        ("long", ("accumulation",), long, "4096 products of 127^2"),
        ("odd-sum", ("accumulation",), odd, "above 2^24 and odd: no float32"),
    ):
        sums = [[sum(int(x) * int(y) for x, y in zip(line, column, strict=True)) for column in w] for line in a]
        yield Case(
            operation=MATMUL,
            slug=slug,
            parameters={},
            inputs={"a": a, "w": w},
            expected={"accumulators": np.array(sums, dtype=np.int32)},
            flags=flags,
            note=note,
            lane="exact",
        )


def _codes(seed: int, shape: tuple[int, int], bits: int, scheme: str) -> Array:
    found = counted(seed, shape, bits)
    return found.astype(np.int8) if scheme == "sym_full" else (found + (1 << (bits - 1))).astype(np.uint8)


def linear_cases() -> Iterator[Case]:
    """With and without zero points, groups of weights and of features, ragged ones, a bias."""
    usual: dict[str, Any] = {"activation_bits": 8, "activation_scheme": "sym_full", "activation_group": None}
    usual |= {"weight_bits": 4, "weight_scheme": "sym_full", "weight_group": None, "bias": False}
    choices: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("symmetric", ("ordinary",), {}),
        ("weight-zeros", ("zero-point",), {"weight_scheme": "asym_incl0"}),
        ("activation-zeros", ("zero-point",), {"activation_scheme": "asym_incl0"}),
        ("both-zeros", ("zero-point",), {"weight_scheme": "asym_incl0", "activation_scheme": "asym_incl0"}),
        ("groups", ("group-boundary", "rounded-sums"), {"weight_group": 5}),
        ("ragged", ("ragged-group", "zero-point"), {"weight_group": 8, "weight_scheme": "asym_incl0", "activation_scheme": "asym_incl0"}),
        ("feature-groups", ("group-boundary", "rounded-sums"), {"activation_group": 10, "weight_group": 5}),
        ("crossing-groups", ("group-boundary", "ragged-group", "rounded-sums"), {"activation_group": 6, "weight_group": 8}),
        ("bias", ("bias", "rounded-sums"), {"bias": True, "weight_group": 5, "activation_group": 10}),
        ("w8", ("accumulation", "ordinary"), {"weight_bits": 8}),
    ]
    for slug, flags, change in choices:
        parameters = usual | change
        groups = {which: -(-COLUMNS // (parameters[f"{which}_group"] or COLUMNS)) for which in ("weight", "activation")}
        a = _codes(93, (TOKENS, COLUMNS), parameters["activation_bits"], parameters["activation_scheme"])
        w = _codes(94, (OUT, COLUMNS), parameters["weight_bits"], parameters["weight_scheme"])
        a_scale = (counted(95, (TOKENS, groups["activation"]), 20, 1 / 8192) + 70).astype(np.float32) / np.float32(3000)
        w_scale = (counted(96, (OUT, groups["weight"]), 20, 1 / 8192) + 70).astype(np.float32) / np.float32(700)
        a_zero: Array = np.zeros(a_scale.shape, dtype=np.int32)
        w_zero: Array = np.zeros(w_scale.shape, dtype=np.int32)
        if parameters["activation_scheme"] != "sym_full":
            a_zero = a_zero + 100 + 7 * np.arange(TOKENS, dtype=np.int32)[:, None]
        if parameters["weight_scheme"] != "sym_full":
            w_zero = w_zero + 5 + np.arange(OUT, dtype=np.int32)[:, None] + np.arange(groups["weight"], dtype=np.int32)
        bias = (counted(97, (OUT,), 12, 1 / 512)).astype(np.float32)
        sums, outputs = exact_linear(
            a.tolist(),
            matrix(a_scale),
            a_zero.tolist(),
            w.tolist(),
            matrix(w_scale),
            w_zero.tolist(),
            BINARY32,
            group=parameters["weight_group"],
            activation_group=parameters["activation_group"],
            bias=row(bias) if parameters["bias"] else None,
        )
        inputs = {"a_codes": a, "a_scale": a_scale, "a_zero": a_zero, "w_codes": w, "w_scale": w_scale, "w_zero": w_zero, "bias": bias}
        yield Case(
            operation=LINEAR,
            slug=slug,
            parameters=parameters,
            inputs=inputs,
            expected={
                "sums": np.array(sums, dtype=np.int64),
                "y": np.array([[float(value) for value in line] for line in outputs], dtype=np.float32),
            },
            flags=flags,
            lane="exact",
        )


MATMUL_OPERATION = Operation(
    name=MATMUL,
    level="methods",
    doc="accumulators[t, o] = sum over k of a[t, k] w[o, k], exactly, in int32.",
    inputs=(Part("a", "activation codes", "int8 or uint8", "[tokens, in]"), Part("w", "weight codes", "int8", "[out, in]")),
    outputs=(Part("accumulators", "sums of products", "int32", "[tokens, out]"),),
    reference=matmul_reference,
    cases=matmul_cases,
)
LINEAR_OPERATION = Operation(
    name=LINEAR,
    level="methods",
    doc="A segment is a run of columns in one activation group h and one weight group g. sums[segment, t, o] = sum over its columns of "
    "(a - a_zero[t, h]) (w - w_zero[o, g]), exactly; segments by h, then by g. In float32, nothing fused: r = 0; for each segment of h, "
    "r = r + w_scale[o, g] float32(sum); y = 0; for each h, y = y + a_scale[t, h] r; with bias, y = y + bias[o].",
    inputs=(
        Part("a_codes", "activation codes", "int8 or uint8", "[tokens, in]"),
        Part("a_scale", "scales of tokens", "float32", "[tokens, activation groups]"),
        Part("a_zero", "zero points of tokens, 0 where there are none", "int32", "[tokens, activation groups]"),
        Part("w_codes", "weight codes", "int8 or uint8", "[out, in]"),
        Part("w_scale", "scales of weights", "float32", "[out, weight groups]"),
        Part("w_zero", "zero points of weights, 0 where there are none", "int32", "[out, weight groups]"),
        Part("bias", "added last, if the parameter says so", "float32", "[out]"),
    ),
    outputs=(
        Part("sums", "corrected sums of every segment", "int64", "[segments, tokens, out]"),
        Part("y", "outputs", "float32", "[tokens, out]"),
    ),
    parameters=(
        Parameter("activation_bits", "of the activation codes"),
        Parameter("activation_scheme", "sym_full (signed) or asym_incl0 (unsigned, with zero points)"),
        Parameter("activation_group", "features that share a scale, the last group may be shorter; null: whole tokens"),
        Parameter("weight_bits", "of the weight codes"),
        Parameter("weight_scheme", "sym_full or asym_incl0"),
        Parameter("weight_group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("bias", "true: the bias is added"),
    ),
    reference=linear_reference,
    cases=linear_cases,
)
