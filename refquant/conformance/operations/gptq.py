"""GPTQ: codes, grids, damped Hessian, factor, errors and margins, from exact fractions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.reanchor import Reanchored, replay
from refquant.conformance.rules import margin, scaled
from refquant.core import Grid, QuantSpec, Tiling, fit_grid, spec
from refquant.methods.compensate.gptq import GptqTrace, gptq_trace
from refquant.numerics import FAST, ORDERED, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY64, Uniform, UniformGrid, gptq, matrix
from refquant.oracle.quadratic import prepare, unit_factor_of_inverse

NAME = "gptq.codes"
BOUND = 1e-9
"""Steps: far above rounding in float64 at these sizes and conditions, far below any margin that is no tie."""


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    group = parameters["group"]
    tiling = Tiling.channel() if group is None else Tiling.group(group)
    return spec(f"int{parameters['bits']}", scheme=parameters["scheme"], tiling=tiling)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize, with every intermediate."""
    return _outputs(_trace(inputs, parameters, arithmetic))


def _trace(inputs: Arrays, parameters: Parameters, arithmetic: Arithmetic) -> GptqTrace:
    return gptq_trace(
        inputs["weight"],
        inputs["hessian"],
        spec_of(parameters),
        damping=parameters["damping"],
        act_order=parameters["act_order"],
        static_groups=parameters["static_groups"],
        arithmetic=arithmetic,
    )


def _outputs(trace: GptqTrace) -> dict[str, Array]:
    quantized = trace.quantized
    zero = np.zeros(quantized.scale.shape) if quantized.zero is None else quantized.zero
    return {
        "codes": quantized.codes,
        "scale": quantized.scale,
        "zero": zero.astype(np.int32),
        "order": trace.order.astype(np.int64),
        "damped": trace.hessian,
        "factor": trace.factor,
        "errors": trace.errors,
    }


def reanchor(case: Case, found: Arrays) -> Reanchored:
    """What the codes of a backend demand of it."""
    how, order = spec_of(case.parameters), case.expected["order"]
    weight = np.where(np.diagonal(case.inputs["hessian"]) == 0, 0.0, case.inputs["weight"])
    whole = case.parameters["group"] is None or case.parameters["static_groups"]
    given = replay(weight, case.expected["factor"], order, found["codes"], how, fit_grid(weight, how) if whole else None)
    grid: Grid = given.grid
    zero = np.zeros(grid.scale.shape) if grid.zero is None else grid.zero
    return Reanchored(beyond={"codes": given.beyond}, expected={"scale": grid.scale, "zero": zero, "errors": given.errors})


def _expected(weight: Array, hessian: Array, parameters: Parameters) -> tuple[dict[str, Array], Array]:
    """Every output, and the margins of the codes, by the oracle; square roots are taken last, in binary64."""
    how, group = spec_of(parameters), parameters["group"]
    scheme = Uniform(parameters["scheme"], parameters["bits"], BINARY64)
    dead = np.diagonal(hessian) == 0
    lines = matrix(np.where(dead, 0.0, weight))
    width = group or weight.shape[1]
    fixed = [[scheme.fit(line[i : i + width]) for i in range(0, len(line), width)] for line in lines]
    dynamic = group is not None and not parameters["static_groups"]
    # Grids of dynamic groups are fitted to binary64 numbers: the compensated columns, rounded once.
    grids = scheme.fit if dynamic else fixed
    found = gptq(
        lines,
        matrix(hessian),
        grids,
        group=group,
        percdamp=Fraction(parameters["damping"]),
        act_order=parameters["act_order"],
        stored=BINARY64,
    )
    prepared = prepare(lines, matrix(hessian), Fraction(parameters["damping"]), parameters["act_order"])
    unit, pivots = unit_factor_of_inverse(prepared.hessian)
    roots = [BINARY64.sqrt(1 / pivot) for pivot in pivots]  # U_ii
    size = len(pivots)
    factor = [[float(unit[i][j] * roots[i]) if j >= i else 0.0 for j in range(size)] for i in range(size)]
    order = found.order
    decisions = [[line[column] for column in order] for line in found.decisions]
    taken: list[list[UniformGrid]] = [[line[i].grid for i in range(0, size, width)] for line in decisions] if dynamic else fixed
    outputs = {
        "codes": np.array(found.codes, dtype=how.format.dtype),
        "scale": np.array([[float(grid.scale) for grid in line] for line in taken]),
        "zero": np.array([[grid.zero for grid in line] for line in taken], dtype=np.int32),
        "order": np.array(order, dtype=np.int64),
        "damped": np.array([[float(value) for value in line] for line in prepared.hessian]),
        "factor": np.array(factor),
        "errors": np.array([[float(d.error / roots[i]) for i, d in enumerate(line)] for line in decisions]),
    }
    return outputs, np.array([[float(abs(value)) for value in line] for line in found.margins])


@dataclass(frozen=True, slots=True)
class _Layer:
    """A small layer: rows of the weight in eighths, tokens of small integers, so that the Hessian is exact."""

    flags: tuple[str, ...]
    weight: list[list[float]]
    tokens: list[list[int]]


def _layers() -> dict[str, _Layer]:
    columns = 10
    weight = [[((i * 37 + r * 11) % 61 - 30) / 16 for i in range(columns)] for r in range(3)]
    tokens = [[(t * t * 7 + i * (t + 3) * 5) % 9 - 3 for i in range(columns)] for t in range(14)]
    dead = [[0 if i in (2, 7) else value for i, value in enumerate(token)] for token in tokens]
    few = tokens[:4]
    equal = [[token[0] if i in (3, 6) else value for i, value in enumerate(token)] for token in tokens]
    # Inputs that never meet: the Hessian is diagonal, nothing is compensated, and codes are those of rounding, ties among them.
    alone = [[2 if i == t % columns else 0 for i in range(columns)] for t in range(columns)]
    ties = [[-1.25 if i == 0 else 2.5 if i == 9 else (i - 5 + r / 2) * 0.25 + 0.125 for i in range(columns)] for r in range(3)]
    zeros = [weight[0], [0.0] * columns, [abs(value) for value in weight[2]]]
    return {
        "ordinary": _Layer(("ordinary", "compensation"), weight, tokens),
        "dead": _Layer(("dead-column", "compensation"), weight, dead),
        "few-tokens": _Layer(("rank-deficient",), weight, few),
        "equal-inputs": _Layer(("equal-diagonal", "rank-deficient"), weight, equal),
        "no-compensation": _Layer(("tie",), ties, alone),
        "zero-row": _Layer(("zero-range", "one-sided"), zeros, tokens),
    }


def _case(name: str, scheme: str, bits: int, group: int | None, act_order: bool, static: bool, damping: float = 0.01) -> Case:
    layer = _layers()[name]
    weight, tokens = np.array(layer.weight), np.array(layer.tokens)
    hessian = np.array([[float(sum(token[i] * token[j] for token in tokens.tolist())) for j in range(10)] for i in range(10)])
    parameters = {"scheme": scheme, "bits": bits, "group": group, "act_order": act_order, "static_groups": static, "damping": damping}
    expected, margins = _expected(weight, hessian, parameters)
    tile = "row" if group is None else f"{'static' if static else 'dynamic'}-g{group}"
    flags = layer.flags + ("act-order",) * act_order + ("ragged-group", "group-statistics") * (group is not None and 10 % group != 0)
    return Case(
        operation=NAME,
        slug=f"{scheme}-b{bits}-{tile}-{'actorder-' if act_order else ''}{name}" + ("" if damping == 0.01 else f"-damping{damping:g}"),
        parameters=parameters,
        inputs={"weight": weight, "hessian": hessian},
        expected=expected,
        rules={"codes": margin(BOUND)} | {part: scaled(1e-9) for part in ("scale", "damped", "factor", "errors")},
        margins={"codes": margins},
        flags=tuple(dict.fromkeys(flags)),
        lane="bounded",
    )


def _large(scheme: str, bits: int, group: int | None, act_order: bool, static: bool, shape: tuple[int, int], twin: str) -> Case:
    """Neighbouring inputs that depend on each other, two dead ones, two equal ones; out of reach for fractions."""
    rows, columns = shape
    weight, tokens = counted(71, shape, 12, 1 / 1024), counted(72, (3 * columns, columns), 4)
    tokens[:, 1:] += 2 * tokens[:, :-1]
    tokens[:, 5], tokens[:, (9, columns - 2)] = tokens[:, 20], 0
    # Whole numbers: any product gives this sum exactly.
    inputs = {"weight": weight, "hessian": FAST.matmul(tokens.T, tokens)}
    parameters = {"scheme": scheme, "bits": bits, "group": group, "act_order": act_order, "static_groups": static, "damping": 0.01}
    trace = _trace(inputs, parameters, ORDERED)
    margins = np.empty_like(trace.margins)
    margins[:, trace.order] = trace.margins  # a trace's are in the order of the sweep
    tile = "row" if group is None else f"{'static' if static else 'dynamic'}-g{group}"
    flags = ("compensation", "dead-column", "equal-diagonal") + ("act-order",) * act_order
    return Case(
        operation=NAME,
        slug=f"{scheme}-b{bits}-{tile}-{'actorder-' if act_order else ''}{rows}x{columns}",
        parameters=parameters,
        inputs=inputs,
        expected=_outputs(trace),
        rules={"codes": margin(BOUND)} | {part: scaled(1e-9) for part in ("scale", "damped", "factor", "errors")},
        margins={"codes": margins},
        flags=flags + ("group-statistics",) * (group is not None) + ("ragged-group",) * (group is not None and columns % group != 0),
        lane="ordered",
        source="ordered",
        twin=f"{NAME}/{twin}",
    )


def cases() -> Iterator[Case]:
    """Three rows of ten columns: whole rows, dynamic and static groups, in order and by descending diagonal."""
    make = partial(_case, scheme="asym_incl0", bits=4)
    for name in _layers():
        for group, static in ((None, False), (4, False), (4, True)):
            for act_order in (False, True):
                yield make(name, group=group, act_order=act_order, static=static)
    yield _case("ordinary", "sym_gptq", 3, None, False, False)
    yield _case("ordinary", "sym_full", 3, 4, True, False)
    yield make("ordinary", group=None, act_order=False, static=False, damping=0.1)
    yield make("dead", group=None, act_order=False, static=False, damping=0.1)
    yield _large("asym_incl0", 4, 32, True, False, (64, 128), twin="asym_incl0-b4-dynamic-g4-actorder-ordinary")
    yield _large("asym_incl0", 3, 40, True, True, (16, 96), twin="asym_incl0-b4-static-g4-actorder-ordinary")
    yield _large("sym_gptq", 4, None, False, False, (16, 64), twin="sym_gptq-b3-row-ordinary")


OPERATION = Operation(
    name=NAME,
    level="methods",
    doc="GPTQ (arXiv 2210.17323) in float64. Columns with H_ii = 0 are dead: H_ii = 1, their weights 0. order: columns as they are, or by "
    "descending H_ii (stable). H, permuted, plus damping * mean(diag H) on its diagonal, is damped; factor is the upper triangular U "
    "with H^-1 = U^T U. For i in order: code by the column's grid (uniform.quantize), e_i = (w_i - value) / U_ii, then w_j -= e_i U_ij for "
    "j > i. Whole rows and static groups have grids of the weights before; a dynamic group is a run of the order, its grid fitted on its "
    "columns as they stand, fully compensated, when the first of them is reached.",
    inputs=(
        Part("weight", "the layer's weight", "float64", "[out, in]"),
        Part("hessian", "sum of x x^T over calibration tokens", "float64", "[in, in]"),
    ),
    outputs=(
        Part("codes", "codes, in the original order of columns", "uint8 or int8", "[out, in]"),
        Part("scale", "scales; of dynamic groups in the order of quantization", "float64", "[out, groups]"),
        Part("zero", "zero points, 0 where there are none", "int32", "[out, groups]"),
        Part("order", "column order[i] is decided at step i", "int64", "[in]"),
        Part("damped", "the damped Hessian, in the order of quantization", "float64", "[in, in]"),
        Part("factor", "U, in the order of quantization", "float64", "[in, in]"),
        Part("errors", "e_i, in the order of quantization", "float64", "[out, in]"),
    ),
    parameters=(
        Parameter("scheme", "as of uniform.quantize"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("act_order", "true: columns by descending diagonal"),
        Parameter("static_groups", "true: grids are fitted beforehand, to runs of the original order"),
        Parameter("damping", "multiple of the mean diagonal that is added to the diagonal"),
    ),
    reference=reference,
    cases=cases,
    reanchor=reanchor,
)
