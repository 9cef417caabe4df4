"""Numbers to codes of codebooks: every member, every tie and both its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.formats import CODEBOOKS, Codebook, MemberRounding, encode, members_of
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.formats import encode_number

NAME = "codebook.encode"


def codebook_of(table: Array, parameters: Parameters) -> Codebook:
    """The codebook that a case describes."""
    return Codebook(
        name="given",
        bits=parameters["bits"],
        table=tuple(table.astype(np.float64).tolist()),
        ties=MemberRounding(parameters["rounding"]),
        midpoints=parameters["midpoints"],
        zero_from_above=parameters["zero_from_above"],
    )


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Encode, and look the numbers up."""
    codes = encode(inputs["x"], codebook_of(inputs["table"], parameters))
    return {"codes": codes, "y": np.asarray(inputs["table"])[codes]}


def by_oracle(x: Array, table: Array, parameters: Parameters) -> dict[str, Array]:
    """Each number by looking at every member."""
    book = codebook_of(table, parameters)
    infinite = {float("inf"): "+inf", float("-inf"): "-inf"}
    exact: list[Fraction | str] = [infinite.get(number) or Fraction(number) for number in x.astype(np.float64).tolist()]
    codes = np.array([encode_number(number, book, parameters["rounding"]) for number in exact], dtype=book.dtype)
    return {"codes": codes, "y": np.array([table[code] for code in codes], dtype=np.float32)}


def _numbers(book: Codebook) -> Iterator[tuple[str, tuple[str, ...], Array]]:
    values = members_of(book).values
    middles = (values[1:] + values[:-1]) / 2
    near = middles.astype(np.float32)
    with np.errstate(under="ignore"):
        beside = [np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)]
        wide = [np.nextafter(middles, end) for end in (-np.inf, np.inf)]
    yield "members", ("ordinary", "negative", "special-codes"), values.astype(np.float32)
    yield "middles", ("tie", "negative"), middles  # float64: of tables of rounded numbers, float32 does not hold the ties
    yield "near-ties", ("near-tie",), np.concatenate([near, *beside])
    yield "near-ties-f64", ("near-tie",), np.concatenate(wide)
    # Tables that are symmetric about a zero have a tie on both sides of it; signs of what becomes 0 matter to two zeros.
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-8, -1e-8, values[values > 0][0] / 4, -values[values > 0][0] / 4], dtype=np.float32)
    yield "zeros", ("negative-zero",), tiny
    yield (
        "outside",
        ("out-of-range", "saturation", "not-finite"),
        np.array([1.5, -1.5, 3.0, -3.0, 1e30, -1e30, np.inf, -np.inf], np.float32),
    )


def _rules(book: Codebook) -> list[str]:
    """The rule of the format, and for the smaller codebooks those that look at signs."""
    others = ["half_up", "half_zero", "floor", "ceil"] if book.name in ("nf4", "fp4", "apot3", "int4_q2") else []
    return [str(book.ties), *others]


def cases() -> Iterator[Case]:
    """Every codebook of the catalogue."""
    for book in CODEBOOKS:
        table = np.array(book.table, dtype=np.float32)
        for rule in _rules(book):
            parameters = {"bits": book.bits, "rounding": rule, "midpoints": book.midpoints, "zero_from_above": book.zero_from_above}
            for slug, flags, x in _numbers(book):
                if rule != book.ties and slug not in ("middles", "near-ties"):
                    continue
                yield Case(
                    operation=NAME,
                    slug=f"{book.name}-{slug}" + ("" if rule == book.ties else f"-{rule.replace('_', '-')}"),
                    parameters=parameters,
                    inputs={"x": x, "table": table},
                    expected=by_oracle(x, table, parameters),
                    flags=flags,
                    lane="exact",
                )


DOC = """table[c] is the number of code c, in any order; of equal numbers (0 and -0 are equal) the lowest code is written. Every x goes to a
member: under half_even, half_away, half_zero, half_up, half_down to the nearest, on ties to the even code, the larger magnitude, the
smaller, the upper, the lower number; under floor, ceil to the member below, above; beyond the ends, to the end. With midpoints = float32,
the middle between two neighbours at which the nearest changes is first rounded to float32, half to even. A positive x that goes to 0 gets
the code zero_from_above, unless that is null. Comparisons are exact: nothing else is rounded. y = table[codes]."""

OPERATION = Operation(
    name=NAME,
    level="formats",
    doc=DOC,
    inputs=(Part("x", "numbers", "float32 or float64", "[n]"), Part("table", "the codebook", "float32", "[members]")),
    outputs=(Part("codes", "codes", "uint8", "[n]"), Part("y", "their numbers", "float32", "[n]")),
    parameters=(
        Parameter("bits", "width of a code"),
        Parameter("rounding", "half_even, half_away, half_zero, half_up, half_down, floor or ceil"),
        Parameter("midpoints", "exact or float32"),
        Parameter("zero_from_above", "a second code of 0, or null"),
    ),
    reference=reference,
    cases=cases,
)
