"""All number formats by name. A format is one literal here; floating-point formats of the general family need none."""

from __future__ import annotations

from refquant.errors import UsageError
from refquant.formats.codebook import Codebook
from refquant.formats.constructions import additive_powers_of_two, dynamic_map, fixed_point, powers_of_two
from refquant.formats.floating import FloatFormat, parse_float
from refquant.formats.integer import IntFormat
from refquant.formats.members import Format
from refquant.formats.rounding import MemberRounding

INTEGERS: tuple[IntFormat, ...] = tuple(
    entry
    for bits in range(1, 17)
    for entry in (
        IntFormat(bits=bits, signed=False),
        IntFormat(bits=bits, signed=True),
        *([IntFormat(bits=bits, signed=True, narrow=True)] if bits > 1 else []),
    )
)
# Apart, because golden vectors list those above one by one.
NARROW_UNSIGNED: tuple[IntFormat, ...] = tuple(IntFormat(bits=bits, signed=False, narrow=True) for bits in range(2, 17))

FLOATS: tuple[FloatFormat, ...] = (
    FloatFormat(name="binary16", exponent_bits=5, mantissa_bits=10, bias=15, infinities=True, nan="ieee"),
    FloatFormat(name="bfloat16", exponent_bits=8, mantissa_bits=7, bias=127, infinities=True, nan="ieee"),
    FloatFormat(name="e5m2", exponent_bits=5, mantissa_bits=2, bias=15, infinities=True, nan="ieee"),
    FloatFormat(name="e4m3", exponent_bits=4, mantissa_bits=3, bias=7, infinities=True, nan="ieee"),
    FloatFormat(name="e3m4", exponent_bits=3, mantissa_bits=4, bias=3, infinities=True, nan="ieee"),
    FloatFormat(name="e4m3fn", exponent_bits=4, mantissa_bits=3, bias=7, nan="all_ones"),
    FloatFormat(name="ue4m3", exponent_bits=4, mantissa_bits=3, bias=7, nan="all_ones", signed=False),
    FloatFormat(name="e4m3fnuz", exponent_bits=4, mantissa_bits=3, bias=8, nan="negative_zero"),
    FloatFormat(name="e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, bias=11, nan="negative_zero"),
    FloatFormat(name="e5m2fnuz", exponent_bits=5, mantissa_bits=2, bias=16, nan="negative_zero"),
    FloatFormat(name="e3m2", exponent_bits=3, mantissa_bits=2, bias=3),
    FloatFormat(name="e2m3", exponent_bits=2, mantissa_bits=3, bias=1),
    FloatFormat(name="e2m1", exponent_bits=2, mantissa_bits=1, bias=1),
    FloatFormat(name="e8m0", exponent_bits=8, mantissa_bits=0, bias=127, nan="all_ones", signed=False, lowest="normal"),
)

# Normal float (Dettmers et al., QLoRA, arXiv 2305.14314): quantiles of the normal distribution over their largest. NF4 is the table that
# bitsandbytes writes, computed by its authors in float32 and up to 3e-7 off the exact quantiles; NF2 and NF3, which have no released table,
# are the exact quantiles of the same rule, rounded once to float32.
NF2 = (-1.0, 0.0, 0.4358181655406952, 1.0)
NF3 = (
    *(-1.0, -0.5350227355957031, -0.24693143367767334, 0.0),
    *(0.1833374798297882, 0.38199394941329956, 0.6229857206344604, 1.0),
)
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# bitsandbytes' FP4 by code: a sign bit and these magnitudes, 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6 and 1/4 rounded to float32. It is not e2m1.
FP4_MAGNITUDES = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)

CODEBOOKS: tuple[Codebook, ...] = (
    Codebook(name="nf2", bits=2, table=NF2, ties=MemberRounding.HALF_DOWN),
    Codebook(name="nf3", bits=3, table=NF3, ties=MemberRounding.HALF_DOWN),
    Codebook(name="nf4", bits=4, table=NF4, ties=MemberRounding.HALF_DOWN, midpoints="float32"),
    Codebook(
        name="fp4",
        bits=4,
        table=(*FP4_MAGNITUDES, *(-m for m in FP4_MAGNITUDES)),
        ties=MemberRounding.HALF_DOWN,
        midpoints="float32",
        zero_from_above=8,
    ),
    Codebook(name="dynamic8", bits=8, table=dynamic_map(signed=True), ties=MemberRounding.HALF_DOWN),
    Codebook(name="udynamic8", bits=8, table=dynamic_map(signed=False), ties=MemberRounding.HALF_DOWN),
    Codebook(name="binary", bits=1, table=(-1.0, 1.0), ties=MemberRounding.HALF_UP),
    Codebook(name="ternary", bits=2, table=(-1.0, 0.0, 1.0), ties=MemberRounding.HALF_ZERO),
    Codebook(name="pot3", bits=3, table=powers_of_two(3), ties=MemberRounding.HALF_AWAY),
    Codebook(name="pot4", bits=4, table=powers_of_two(4), ties=MemberRounding.HALF_AWAY),
    Codebook(name="apot3", bits=3, table=additive_powers_of_two(2, signed=True), ties=MemberRounding.HALF_AWAY),
    Codebook(name="apot5", bits=5, table=additive_powers_of_two(4, signed=True), ties=MemberRounding.HALF_AWAY),
    Codebook(name="uapot4", bits=4, table=additive_powers_of_two(4, signed=False), ties=MemberRounding.HALF_AWAY),
    # The elements of MXINT8: two's complement with six fraction bits (OCP Microscaling Formats 1.0, 5.3.4); int4_q2 is microxcaling's.
    Codebook(name="int8_q6", bits=8, table=fixed_point(8, 6)),
    Codebook(name="int4_q2", bits=4, table=fixed_point(4, 2)),
)

_ALL: tuple[Format, ...] = (*INTEGERS, *NARROW_UNSIGNED, *FLOATS, *CODEBOOKS)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}


def find_format(name: str) -> Format:
    """Look a format up by name.

    Parameters
    ----------
    name : str
        ``int1`` .. ``int16``, ``uint1`` .. ``uint16``, ``int2_narrow`` .. ``int16_narrow``, ``uint2_narrow`` .. ``uint16_narrow``; the
        floating-point formats and codebooks of :data:`FORMATS`; or any name that :func:`parse_float` reads.

    Raises
    ------
    UsageError
        If there is no such format.

    Examples
    --------
    >>> find_format("int4").lo, find_format("nf4").hi, find_format("e3m3").hi
    (-8, 1.0, 30.0)
    """
    found = FORMATS.get(name) or parse_float(name)
    if found is None:
        named = ", ".join(entry.name for entry in FORMATS.values() if not isinstance(entry, IntFormat))
        raise UsageError(
            f"unknown format {name!r}; known are int1 to int16, uint1 to uint16, both from 2 bits also with _narrow, {named}, "
            "and e<exponent bits>m<mantissa bits> with an optional ieee, fn, fnuz or finite behind it"
        )
    return found
