"""What numbers exist: every format is a finite ordered set of exactly representable values, written down as data."""

from refquant.formats.catalog import CODEBOOKS, FLOATS, FORMATS, INTEGERS, find_format
from refquant.formats.codebook import Codebook
from refquant.formats.encoding import FormatNan, FormatOverflow, decode, encode, require_codes, round_to_format, rounding_for
from refquant.formats.floating import FloatFormat, parse_float
from refquant.formats.integer import IntFormat
from refquant.formats.members import Format, members_of, table_of, thresholds_of
from refquant.formats.patterns import from_patterns, to_patterns
from refquant.formats.rounding import MemberRounding

__all__ = [
    "CODEBOOKS",
    "FLOATS",
    "FORMATS",
    "INTEGERS",
    "Codebook",
    "FloatFormat",
    "Format",
    "FormatNan",
    "FormatOverflow",
    "IntFormat",
    "MemberRounding",
    "decode",
    "encode",
    "find_format",
    "from_patterns",
    "members_of",
    "parse_float",
    "require_codes",
    "round_to_format",
    "rounding_for",
    "table_of",
    "thresholds_of",
    "to_patterns",
]
