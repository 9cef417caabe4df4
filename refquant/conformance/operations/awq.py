"""AWQ's search: the loss of every exponent, the choice, and its factors."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.extras import precise
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.core import QuantSpec, Tiling, spec
from refquant.methods.scale.awq import FLOOR, search_factors
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import Uniform, exact, matrix, quantize_row
from refquant.oracle.rational import Matrix, Row

NAME = "awq.factors"
BITS = 200
TOKENS, OUT, CHANNELS = 12, 4, 8


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    tiling = Tiling.channel() if parameters["group"] is None else Tiling.group(parameters["group"])
    return spec(f"int{parameters['bits']}", scheme=parameters["scheme"], tiling=tiling)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Search."""
    count = parameters["candidates"]
    found = search_factors(inputs["x"], [inputs["weight"]], spec_of(parameters), candidates=count, arithmetic=arithmetic)
    return {
        "magnitudes": found.magnitudes,
        "losses": found.losses,
        "chosen": np.array(round(found.alpha * count), dtype=np.int64),
        "factors": found.factors,
    }


def _factors(magnitudes: Row, alpha: Fraction) -> Row:
    """To 200 bits."""
    mp = precise()
    with mp.workprec(BITS + 20):
        raised = [mp.power(mp.mpf(m.numerator) / m.denominator, mp.mpf(alpha.numerator) / alpha.denominator) for m in magnitudes]
        held = [max(value, mp.mpf(FLOOR)) for value in raised]
        root = mp.sqrt(max(held) * min(held))
        return [Fraction(int(mp.nint(mp.ldexp(value / root, BITS))), 1 << BITS) for value in held]


def _loss(x: Matrix, weight: Matrix, factors: Row, scheme: Uniform, group: int | None) -> Fraction:
    """Mean over tokens and outputs of the squared change."""
    total = Fraction(0)
    for line in weight:
        coded = quantize_row([w * s for w, s in zip(line, factors, strict=True)], scheme, group)
        change = [value / s - w for value, s, w in zip(coded.values, factors, line, strict=True)]
        for token in x:
            moved = sum((a * d for a, d in zip(token, change, strict=True)), Fraction(0))
            total += moved * moved
    return total / (len(weight) * len(x))


def _expected(x: Array, weight: Array, parameters: Parameters) -> dict[str, Array]:
    lines, weights, count = matrix(x), matrix(weight), parameters["candidates"]
    magnitudes = [sum((abs(line[c]) for line in lines), Fraction(0)) / len(lines) for c in range(len(lines[0]))]
    scheme = Uniform(parameters["scheme"], parameters["bits"], exact)
    factors = [_factors(magnitudes, Fraction(i, count)) for i in range(count)]
    losses = [_loss(lines, weights, s, scheme, parameters["group"]) for s in factors]
    best = losses.index(min(losses))
    return {
        "magnitudes": np.array([float(m) for m in magnitudes]),
        "losses": np.array([float(loss) for loss in losses]),
        "chosen": np.array(best, dtype=np.int64),
        "factors": np.array([float(s) for s in factors[best]]),
    }


def cases() -> Iterator[Case]:
    """Channels of very different size; equal ones; weights that are on the grid whatever the factors."""
    usual: dict[str, Any] = {"scheme": "asym_minmax", "bits": 3, "group": None, "candidates": 20}
    weight = counted(101, (OUT, CHANNELS), 16, 1 / 32768)
    x = counted(102, (TOKENS, CHANNELS), 12, 1 / 512) * np.array([1, 16, 1, 4, 1 / 4, 1, 1 / 16, 2.0])
    signs = np.where(x < 0, -1.0, 1.0)
    tiny = x * np.array([1, 1, 1 / (1 << 32), 1, 1, 1, 1, 1.0])
    choices: list[tuple[str, tuple[str, ...], Array, Array, dict[str, Any]]] = [
        ("row", ("ordinary", "activation-scales"), x, weight, {}),
        ("g4-sym", ("activation-scales", "group-statistics"), x, weight, {"scheme": "sym_full", "bits": 4, "group": 4}),
        ("g3-incl0", ("activation-scales", "ragged-group"), x, weight, {"scheme": "asym_incl0", "bits": 2, "group": 3}),
        ("tenths", ("activation-scales",), x, weight, {"candidates": 10}),
        ("tiny-channel", ("tiny", "activation-scales"), tiny, weight, {"candidates": 2}),
        ("equal-channels", ("search-tie",), signs, weight, {"candidates": 4}),
        ("zero-weights", ("search-tie", "zero-range"), x, np.zeros_like(weight), {"scheme": "asym_incl0", "candidates": 5}),
    ]
    for slug, flags, given, weights, change in choices:
        parameters = usual | change
        yield Case(
            operation=NAME,
            slug=slug,
            parameters=parameters,
            inputs={"x": given, "weight": weights},
            expected=_expected(given, weights, parameters),
            rules={"losses": scaled(1e-9), "magnitudes": scaled(1e-14), "factors": scaled(1e-12)},
            flags=flags,
            lane="bounded",
        )


OPERATION = Operation(
    name=NAME,
    level="methods",
    doc="AWQ (arXiv 2306.00978) for one linear. m_j = mean over tokens of |x_tj|. Candidate i of n: r_j = max(m_j^(i/n), 1e-4), s_j = r_j"
    " / sqrt(max r min r). Its loss: mean over tokens and outputs of (x W^T - x V^T)^2, V_j = Q(W diag s)_j / s_j, Q quantizes and "
    "dequantizes as in uniform.quantize. Chosen is the first candidate with the least loss; factors are its s. In float64.",
    inputs=(
        Part("x", "inputs", "float64", "[tokens, channels]"),
        Part("weight", "the linear's weight", "float64", "[out, channels]"),
    ),
    outputs=(
        Part("magnitudes", "m", "float64", "[channels]"),
        Part("losses", "of every candidate", "float64", "[candidates]"),
        Part("chosen", "index of the candidate", "int64", "[]"),
        Part("factors", "s of the chosen one", "float64", "[channels]"),
    ),
    parameters=(
        Parameter("scheme", "as of uniform.quantize"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("candidates", "n"),
    ),
    reference=reference,
    cases=cases,
)
