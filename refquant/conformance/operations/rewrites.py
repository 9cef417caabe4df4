"""What makes layers easier to quantize: SmoothQuant's factors, Hadamard transforms, DuQuant's permutation."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.extras import precise
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import BYTES, ulp
from refquant.methods.rotate.duquant import zigzag_order
from refquant.methods.scale.smoothquant import FLOOR, smoothing_factors
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.hadamard import hadamard
from refquant.oracle import BINARY32, BINARY64, Binary, fraction, matrix

SMOOTH, HADAMARD, ZIGZAG = "smoothquant.factors", "hadamard.transform", "duquant.permutation"


def smooth_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Factors of channels."""
    factors = smoothing_factors(
        inputs["absmax"],
        list(inputs["weights"]),
        parameters["alpha"],
        weight_maximum=parameters["weight_maximum"],
        activation_floor=parameters["activation_floor"],
        arithmetic=arithmetic,
    )
    return {"factors": factors}


def hadamard_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Transform rows."""
    plan = hadamard(inputs["x"].shape[1], base=inputs["base"], blocks=parameters["blocks"])
    return {"y": plan.apply(inputs["x"], inverse=parameters["inverse"], arithmetic=arithmetic)}


def zigzag_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Order of features."""
    return {"order": zigzag_order(inputs["magnitudes"], parameters["block"]).astype(np.int64)}


def _power(x: Fraction, exponent: float, binary: Binary) -> Fraction:
    if exponent in (0, 1):
        return x if exponent else Fraction(1)
    if exponent == 0.5:
        return binary.sqrt(x)
    mp = precise()
    with mp.workprec(200):
        found = mp.power(mp.mpf(x.numerator) / x.denominator, mp.mpf(exponent)) if x else mp.mpf(0)
        return binary(Fraction(int(mp.floor(mp.ldexp(found, 180))), 1 << 180))


def smooth_cases() -> Iterator[Case]:
    """Two linears behind one input: exact exponents compared by bytes, others by a few units in the last place."""
    weights = counted(61, (2, 3, 8), 10, 1 / 512)
    weights[1] *= 4
    weights[:, :, 2] = 0
    weights[:, :, 5] = -np.abs(weights[:, :, 5])
    absmax = np.array([8.0, 0.3, 2.0, 117.0, 1e-3, 5.0, 0.0, 1.0])
    usual: dict[str, Any] = {"alpha": 0.5, "weight_maximum": "all", "activation_floor": 0.0}
    choices: list[tuple[str, tuple[str, ...], dict[str, Any], str]] = [
        ("half", ("ordinary", "tiny"), {}, "float32"),
        ("half-float64", ("ordinary",), {}, "float64"),
        ("zero", ("tiny", "exponent"), {"alpha": 0.0}, "float32"),
        ("one", ("exponent",), {"alpha": 1.0}, "float32"),
        ("first", ("ordinary",), {"weight_maximum": "first"}, "float32"),
        ("floor", ("tiny",), {"activation_floor": 1e-5}, "float32"),
        ("three-quarters", ("exponent",), {"alpha": 0.75}, "float64"),
        ("sixteen-twentieths", ("exponent",), {"alpha": 0.8, "activation_floor": 1e-5}, "float32"),
    ]
    for slug, flags, change, dtype in choices:
        parameters = usual | change
        binary = {"float32": BINARY32, "float64": BINARY64}[dtype]
        given, counted_weights = absmax.astype(dtype), weights.astype(dtype)
        floor, alpha = binary(Fraction(FLOOR)), float(parameters["alpha"])
        least = binary(Fraction(parameters["activation_floor"]))
        used = counted_weights if parameters["weight_maximum"] == "all" else counted_weights[:1]
        found = []
        for channel in range(8):
            top = max([floor, *(abs(fraction(w)) for w in used[:, :, channel].reshape(-1))])
            a = max(fraction(given[channel]), least)
            found.append(max(binary(_power(a, alpha, binary) / _power(top, 1 - alpha, binary)), floor))
        exact = alpha in (0, 0.5, 1)
        yield Case(
            operation=SMOOTH,
            slug=slug,
            parameters=parameters,
            inputs={"absmax": given, "weights": counted_weights},
            expected={"factors": np.array([float(value) for value in found], dtype=dtype)},
            rules={"factors": BYTES if exact else ulp(4)},
            flags=flags,
            lane="exact" if exact else "bounded",
        )


def _dense(base: list[list[int]], power: int) -> list[list[int]]:
    """``base (x) H_(2^m)``, row by row; the entry of Sylvester's matrix is -1 to the number of ones that i and j share."""
    size = len(base) * power
    return [
        [base[i // power][j // power] * (1 - 2 * (((i % power) & (j % power)).bit_count() % 2)) for j in range(size)] for i in range(size)
    ]


def _paley(prime: int) -> list[list[int]]:
    """Paley's matrix of order ``prime + 1``, prime = 3 modulo 4, from quadratic residues."""
    squares = {i * i % prime for i in range(1, prime)}
    inner = [[0 if i == j else 1 if (j - i) % prime in squares else -1 for j in range(prime)] for i in range(prime)]
    skew = [[0, *[1] * prime], *[[-1, *line] for line in inner]]
    return [[value + int(i == j) for j, value in enumerate(line)] for i, line in enumerate(skew)]


def hadamard_cases() -> Iterator[Case]:
    """Powers of two, and Paley's matrix of order 12 in front of them; whole numbers, so that sums are exact."""
    for size, base, blocks, inverse, dtype in (
        (1, [[1]], 1, False, "float32"),
        (8, [[1]], 1, False, "float32"),
        (16, [[1]], 1, False, "float64"),
        (64, [[1]], 1, False, "float32"),
        (12, _paley(11), 1, False, "float64"),
        (12, _paley(11), 1, True, "float64"),
        (48, _paley(11), 1, False, "float32"),
        (48, _paley(11), 1, True, "float32"),
        (24, [[1]], 3, False, "float32"),
    ):
        x = counted(62, (3, size), 8)
        x[1] = 0
        x[1, size // 3] = 1  # a single column of the matrix
        block = size // blocks
        binary = {"float32": BINARY32, "float64": BINARY64}[dtype]
        root = binary.sqrt(Fraction(block))
        dense = _dense(base, block // len(base))
        dense = [list(line) for line in zip(*dense, strict=True)] if inverse else dense
        lines = []
        for line in matrix(x):
            parts = [line[i : i + block] for i in range(0, size, block)]
            lines.append(
                [binary(sum((h * v for h, v in zip(signs, part, strict=True)), Fraction(0)) / root) for part in parts for signs in dense]
            )
        flags = ("ordinary", "transform") + ("transform-base",) * (len(base) > 1) + ("group-boundary",) * (blocks > 1)
        yield Case(
            operation=HADAMARD,
            slug=f"n{size}-k{len(base)}-blocks{blocks}{'-inverse' if inverse else ''}-{dtype}",
            parameters={"blocks": blocks, "inverse": inverse},
            inputs={"x": x.astype(dtype), "base": np.array(base, dtype=np.int8)},
            expected={"y": np.array([[float(value) for value in line] for line in lines], dtype=dtype)},
            flags=flags if size > 1 else ("ordinary",),
            lane="exact",
        )


def _snake(magnitudes: list[float], block: int) -> list[int]:
    """Deal one feature at a time, forth and back."""
    blocks: list[list[int]] = [[] for _ in range(len(magnitudes) // block)]
    place, step = 0, 1
    for feature in sorted(range(len(magnitudes)), key=lambda f: -magnitudes[f]):  # stable
        blocks[place].append(feature)
        if place + step in (-1, len(blocks)):
            step = -step  # the end of a row gets the first of the next
        else:
            place += step
    return [feature for one in blocks for feature in one]


def zigzag_cases() -> Iterator[Case]:
    """Distinct magnitudes, and equal ones."""
    distinct = [float((7 * i) % 23) for i in range(23)] + [50.0]
    equal = [float(i % 3) for i in range(24)]
    for name, magnitudes, flags in (("distinct", distinct, ("ordinary",)), ("equal", equal, ("equal-diagonal",))):
        for block in (1, 4, 6, 24):
            yield Case(
                operation=ZIGZAG,
                slug=f"{name}-block{block}",
                parameters={"block": block},
                inputs={"magnitudes": np.array(magnitudes)},
                expected={"order": np.array(_snake(magnitudes, block), dtype=np.int64)},
                flags=flags,
                lane="exact",
            )


SMOOTH_OPERATION = Operation(
    name=SMOOTH,
    level="scales",
    doc="s_j = max(a_j^alpha / m_j^(1 - alpha), 1e-5), a_j = max(absmax_j, activation_floor), m_j = max(largest |weight| of column j over"
    " rows of all linears (weight_maximum all) or of the first (first), 1e-5). Constants are rounded to the dtype, which is the "
    "weights'; the power 0 is 1, the power 1/2 the correctly rounded root; every operation is rounded once.",
    inputs=(
        Part("absmax", "largest magnitude of each input channel", "float32 or float64", "[channels]"),
        Part("weights", "of the linears that share the input", "as absmax", "[linears, out, channels]"),
    ),
    outputs=(Part("factors", "what inputs are divided and weights multiplied by", "as absmax", "[channels]"),),
    parameters=(
        Parameter("alpha", "0 to 1"),
        Parameter("weight_maximum", "all or first"),
        Parameter("activation_floor", "magnitudes are at least this"),
    ),
    reference=smooth_reference,
    cases=smooth_cases,
)
HADAMARD_OPERATION = Operation(
    name=HADAMARD,
    level="methods",
    doc="Every row is cut into equal blocks; each block v becomes M v (inverse: M^T v) / sqrt(n), n its length, M the Kronecker product "
    "base (x) H_(2^m) with H_(2^m)[i, j] = (-1)^(number of ones in i AND j). In the dtype of x: sums first (here exact), then one "
    "division by the rounded root.",
    inputs=(
        Part("x", "rows", "float32 or float64", "[rows, features]"),
        Part("base", "matrix of ones and minus ones with orthogonal rows", "int8", "[k, k]"),
    ),
    outputs=(Part("y", "rows after the transform", "as x", "[rows, features]"),),
    parameters=(Parameter("blocks", "number of blocks"), Parameter("inverse", "true: by the transpose")),
    reference=hadamard_reference,
    cases=hadamard_cases,
)
ZIGZAG_OPERATION = Operation(
    name=ZIGZAG,
    level="methods",
    doc="Features in descending order of magnitude (stable) are dealt to features / block blocks in a snake: 0, 1, ..., last, last, ..., "
    "1, 0, 0, 1, ...; order lists the features of block 0 as they were dealt, then those of block 1, and so on.",
    inputs=(Part("magnitudes", "largest magnitude of each feature", "float64", "[features]"),),
    outputs=(Part("order", "the feature that stands at each place", "int64", "[features]"),),
    parameters=(Parameter("block", "features a block; divides their number"),),
    reference=zigzag_reference,
    cases=zigzag_cases,
)
