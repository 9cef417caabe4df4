"""What numbers exist: every format is a finite ordered set of exactly representable values, written down as data."""

from refquant.formats.catalog import FORMATS, find_format
from refquant.formats.integer import IntFormat

__all__ = ["FORMATS", "IntFormat", "find_format"]
