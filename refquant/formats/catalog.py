"""All number formats by name."""

from __future__ import annotations

from refquant.errors import UsageError
from refquant.formats.integer import IntFormat

FORMATS: dict[str, IntFormat] = {
    entry.name: entry
    for bits in range(1, 17)
    for entry in (
        IntFormat(bits=bits, signed=False),
        IntFormat(bits=bits, signed=True),
        *([IntFormat(bits=bits, signed=True, narrow=True)] if bits > 1 else []),
    )
}


def find_format(name: str) -> IntFormat:
    """Look a format up by name.

    Parameters
    ----------
    name : str
        ``int1`` .. ``int16``, ``uint1`` .. ``uint16``, ``int2_narrow`` .. ``int16_narrow``.

    Raises
    ------
    UsageError
        If there is no such format.

    Examples
    --------
    >>> find_format("int4").lo
    -8
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}; known are int1 to int16, uint1 to uint16 and int2_narrow to int16_narrow")
    return FORMATS[name]
