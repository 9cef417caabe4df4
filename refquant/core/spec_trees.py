"""Formats and nested scale specs as JSON trees, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from refquant.core.scales import ScaleSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError
from refquant.formats import FORMATS, Codebook, FloatFormat, Format, IntFormat, MemberRounding


def format_tree(fmt: Format) -> str | dict[str, Any]:
    """An integer format's fields; the name of a format of the catalogue; every field, and which kind it is, of any other.

    Examples
    --------
    >>> format_tree(IntFormat(bits=4, signed=True)), format_tree(FORMATS["nf4"])
    ({'bits': 4, 'signed': True, 'narrow': False}, 'nf4')
    """
    if isinstance(fmt, IntFormat):
        return asdict(fmt)
    if FORMATS.get(fmt.name) == fmt:
        return fmt.name
    return {"kind": "float" if isinstance(fmt, FloatFormat) else "codebook", **asdict(fmt)}


def format_from_tree(tree: Any) -> Format:
    """Read what :func:`format_tree` wrote; InputError, or the format's own errors, if it is not that."""
    if isinstance(tree, str):
        if tree not in FORMATS:
            raise InputError(f"the catalogue holds no format {tree!r}")
        return FORMATS[tree]
    if not isinstance(tree, dict):
        raise InputError(f"a format is a name or an object of its fields, not a {type(tree).__name__}")
    kind = tree.get("kind", "integer")
    fields = {name: value for name, value in tree.items() if name != "kind"}
    if kind == "integer":
        return IntFormat(**fields)
    if kind == "float":
        return FloatFormat(**fields)
    if kind == "codebook":
        return Codebook(**fields | {"table": tuple(fields["table"]), "ties": MemberRounding(fields["ties"])})
    raise InputError(f"a format is an integer format, a float or a codebook, not {kind!r}")


def scales_tree(scales: ScaleSpec) -> dict[str, Any]:
    """Every field of a nested scale spec."""
    tree = asdict(scales)
    tree["format"] = format_tree(scales.format)
    tree["tiling"] = None if scales.tiling is None else list(scales.tiling.extents)
    return tree


def scales_from_tree(tree: Any) -> ScaleSpec:
    """Read what :func:`scales_tree` wrote; InputError, or the spec's own errors, if it is not that."""
    if not isinstance(tree, dict):
        raise InputError(f"a nested spec of scales is an object of its fields, not a {type(tree).__name__}")
    tiling = tree["tiling"]
    return ScaleSpec(**tree | {"format": format_from_tree(tree["format"]), "tiling": None if tiling is None else Tiling(tuple(tiling))})
