"""Elementary functions at points that tell range reductions and rounding apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.rules import ulp
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

BOUND = ulp(4)
"""What vector libraries in use promise; ours is within one (`ORDERED`)."""
INF, NAN = np.inf, np.nan
ORDINARY = [-3.75, -1.5, -1.0, -0.625, -0.1, -0.0078125, 0.0078125, 0.1, 0.625, 1.0, 1.5, 2.0, 3.75, 9.5]
POSITIVE = [abs(value) for value in ORDINARY if value > 0] + [0.9990234375, 1.0009765625, 1e6, 1e-6]
LARGE = [50.0, 100.5, 710.25, 1000.0, 8191.0, 100000.0]

Points = dict[str, tuple[tuple[str, ...], dict[str, list[float]]]]
"""By slug: flags, and the points by dtype."""


def _both(values: list[float]) -> dict[str, list[float]]:
    return {"float32": values, "float64": values}


POINTS: dict[str, Points] = {
    "exp": {
        "ordinary": (("ordinary",), _both(ORDINARY)),
        "ends": (
            ("large-argument", "subnormal-result"),
            {
                "float32": [-103.0, -100.0, -90.0, -87.0, -50.0, -20.0, 20.0, 50.0, 80.0, 88.5],
                "float64": [-744.0, -720.0, -700.0, -100.0, -50.0, 50.0, 100.0, 700.0, 709.5],
            },
        ),
    },
    "log": {
        "ordinary": (("ordinary",), _both(POSITIVE)),
        "subnormal": (
            ("subnormal-result",),
            {"float32": [1e-45, 1e-40, 1.1754944e-38, 3e38], "float64": [5e-324, 1e-310, 2.2250738585072014e-308, 1.7e308]},
        ),
    },
    "sin": {"ordinary": (("ordinary",), _both(ORDINARY)), "large": (("large-argument",), _both([s * x for x in LARGE for s in (1, -1)]))},
    "cos": {"ordinary": (("ordinary",), _both(ORDINARY)), "large": (("large-argument",), _both([s * x for x in LARGE for s in (1, -1)]))},
    "erf": {"ordinary": (("ordinary",), _both(ORDINARY)), "small": (("rounded-intermediate",), _both([1e-9, -1e-9, 1e-5, 1e-20, 3.0]))},
}
POWERS: dict[str, tuple[tuple[str, ...], dict[str, list[tuple[float, float]]]]] = {
    "ordinary": (
        ("ordinary",),
        {d: [(b, e) for b in (0.5, 1.5, 3.0, 10000.0) for e in (-1.5, -0.75, 0.3, 2.0)] for d in ("float32", "float64")},
    ),
    "large": (
        ("rounded-intermediate",),
        {
            "float32": [(1.5, 200.0), (1.0009765625, 80000.0), (9.5, -38.0), (10000.0, 9.0)],
            "float64": [(1.5, 1700.0), (1.0009765625, 700000.0), (9.5, -310.0), (10000.0, 75.0)],
        },
    ),
}
SPECIALS: dict[str, list[tuple[tuple[float, ...], float]]] = {
    "exp": [((0.0,), 1.0), ((-0.0,), 1.0), ((INF,), INF), ((-INF,), 0.0), ((1e4,), INF), ((-1e4,), 0.0), ((NAN,), NAN)],
    "log": [((1.0,), 0.0), ((0.0,), -INF), ((-0.0,), -INF), ((-1.0,), NAN), ((INF,), INF), ((NAN,), NAN)],
    "power": [
        ((0.0, 0.0), 1.0),
        ((0.0, 2.5), 0.0),
        ((0.0, -0.5), INF),
        ((INF, -1.0), 0.0),
        ((INF, 0.5), INF),
        ((1.0, INF), 1.0),
        ((1e30, 20.0), INF),
    ],
    "sin": [((0.0,), 0.0), ((INF,), NAN), ((-INF,), NAN), ((NAN,), NAN)],
    "cos": [((0.0,), 1.0), ((INF,), NAN), ((-INF,), NAN), ((NAN,), NAN)],
    "erf": [((0.0,), 0.0), ((INF,), 1.0), ((-INF,), -1.0), ((30.0,), 1.0), ((NAN,), NAN)],
}
"""Values that the definition (C99, Annex F) gives without any arithmetic."""
WORDS = {
    "exp": "the exponential of x",
    "log": "the natural logarithm of x: minus infinity at zeros, NaN below",
    "power": "x to the power of exponent, x not negative; 0 to the power of 0 is 1",
    "sin": "the sine of x in radians; NaN at infinities",
    "cos": "the cosine of x in radians; NaN at infinities",
    "erf": "the error function of x",
}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST, name: str) -> dict[str, Array]:
    """Ask the arithmetic."""
    function: Callable[..., Array] = getattr(arithmetic, name)
    with np.errstate(all="ignore"):  # poles and NaN are what is asked for
        return {"y": np.asarray(function(*(inputs[part] for part in _parts(name))))}


def _parts(name: str) -> tuple[str, ...]:
    return ("x", "exponent") if name == "power" else ("x",)


def cases(name: str) -> Iterator[Case]:
    """Points of every kind in both dtypes."""
    numbers = context()
    exact: Callable[..., Any] = getattr(numbers, name)
    if name == "power":
        given = {
            slug: (flags, {dtype: list(zip(*pairs)) for dtype, pairs in by_dtype.items()}) for slug, (flags, by_dtype) in POWERS.items()
        }
    else:
        given = {slug: (flags, {dtype: [tuple(row)] for dtype, row in by.items()}) for slug, (flags, by) in POINTS[name].items()}
    for dtype in ("float32", "float64"):
        for slug, (flags, by_dtype) in given.items():
            arrays = [np.array(column, dtype=dtype) for column in by_dtype[dtype]]
            y = nearest([exact(*point) for point in zip(*(lifted(numbers, array) for array in arrays), strict=True)], dtype)
            yield _case(name, f"{slug}-{dtype}", flags, arrays, y)
        columns = [np.array(column, dtype=dtype) for column in zip(*(point for point, _ in SPECIALS[name]), strict=True)]
        special = np.array([value for _, value in SPECIALS[name]], dtype=dtype)
        yield _case(name, f"special-{dtype}", ("not-finite", "overflow"), columns, special)


def _case(name: str, slug: str, flags: tuple[str, ...], arrays: list[Array], y: Array) -> Case:
    return Case(
        operation=f"elementary.{name}",
        slug=slug,
        parameters={},
        inputs=dict(zip(_parts(name), arrays, strict=True)),
        expected={"y": y},
        flags=flags,
        lane="bounded",
        rules={"y": BOUND},
    )


def _operation(name: str) -> Operation:
    return Operation(
        name=f"elementary.{name}",
        level="model",
        doc=f"y is {WORDS[name]}, elementwise in the dtype of x, off by at most 4 units in the last place; a zero may have either sign.",
        inputs=tuple(Part(part, "points", "float32 or float64", "[points]") for part in _parts(name)),
        outputs=(Part("y", "values", "that of x", "[points]"),),
        reference=partial(reference, name=name),
        cases=partial(cases, name),
    )


EXP, LOG, POWER = _operation("exp"), _operation("log"), _operation("power")
SIN, COS, ERF = _operation("sin"), _operation("cos"), _operation("erf")
