"""What a layout of linears is: one whose linears are each a handful of tensors beside the others, described once in ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from refquant.core import QTensor, QuantSpec, Tiling, spec
from refquant.errors import InputError
from refquant.layout.fields import column_tiles
from refquant.numerics.arrays import Array

DEFAULT_GROUP = 128


class Described(Protocol):
    """What a ``quantization_config`` looks at in a weight: a :class:`~refquant.core.QTensor`, or what is left of one that was written."""

    @property
    def spec(self) -> QuantSpec:
        """How it is quantized."""

    @property
    def permutation(self) -> Array | None:
        """Its activation order, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is left of a weight that was written: see :class:`Described`."""

    spec: QuantSpec
    permutation: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a folder's ``quantization_config`` says of all its linears.

    Parameters
    ----------
    variant : str
        One of the layout's.
    spec : QuantSpec
        Bits, groups, scheme; the scale format is what the tensors have.
    """

    variant: str
    spec: QuantSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayout:
    """One layout.

    Parameters
    ----------
    name : str
        As ``--to`` and ``--from`` say it.
    method : str
        What ``quant_method`` says.
    variants : tuple of str
        The first is the default.
    parts : tuple of str
        Names that follow a linear's, all that may be there; the first is always there and nowhere else.
    why_not, pack, unpack : callable
        Of a tensor (or its arrays) and a variant; see the modules of :mod:`refquant.layout`.
    native : callable
        The spec that a weight is quantized to where the layout cannot hold what is there, from what is there and the variant.
    config : callable
        The ``quantization_config`` of some weights, the linears that are not quantized, and a variant.
    settings : callable
        What such a block says; raises InputError.
    dtype : {"float64", "float32"}
        In which weights are requantized; where scales keep the dtype that they were computed in, it is theirs.
    """

    name: str
    method: str
    variants: tuple[str, ...]
    parts: Callable[[str], tuple[str, ...]]
    why_not: Callable[[QTensor, str], str | None]
    pack: Callable[[QTensor, str], dict[str, Array]]
    unpack: Callable[[Mapping[str, Array], Settings], QTensor]
    native: Callable[[QTensor | None, tuple[int, ...], str], QuantSpec]
    config: Callable[[Mapping[str, Described], Sequence[str], str], dict[str, Any]]
    settings: Callable[[Mapping[str, Any]], Settings]
    dtype: Literal["float64", "float32"] = "float64"


def one_spec(weights: Mapping[str, Described]) -> QuantSpec:
    """The spec that all weights share as far as a ``quantization_config`` speaks of it; InputError naming two that differ."""
    first, *others = weights
    wanted = weights[first].spec
    for name in others:
        found = weights[name].spec
        if (found.format, found.tiling, found.scheme) != (wanted.format, wanted.tiling, wanted.scheme):
            raise InputError(
                f"{first} and {name} differ in format, groups or scheme; a quantization_config says one for all: {wanted.format.name}, "
                f"{wanted.tiling.extents}, {wanted.scheme.name} or {found.format.name}, {found.tiling.extents}, {found.scheme.name}"
            )
    return wanted


def entry(block: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A value of a ``quantization_config`` that has to be of a kind; InputError otherwise."""
    value = block.get(key, default)
    if type(value) is not kind:
        raise InputError(f"quantization_config: {key} is {value!r}; a {kind.__name__} is needed")
    return value


def native_integers(bits: tuple[int, ...], multiple: bool) -> Callable[[QTensor | None, tuple[int, ...], str], QuantSpec]:
    """Integer codes on float16 scales: the width and groups that are there as far as the layout has them, else 4 bits in groups of 128."""

    def native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
        del variant
        symmetric = like is not None and like.spec.scheme.zero in ("none", "midpoint")
        width = like.spec.format.bits if like is not None and like.spec.format.bits in bits else (4 if 4 in bits else bits[0])
        width = max(width, 1 + symmetric)  # symmetric codes of 1 bit have no positive number
        size = None if like is None else column_tiles(like.spec, shape)
        group = DEFAULT_GROUP if size is None else size
        # A row of just one group is a group, as in the wider linears beside it: a quantization_config says one size for all.
        no_groups = group > shape[1] or (multiple and shape[1] % group != 0)
        whole = like is not None and like.spec.tiling.extents[-1] is None
        tiling = Tiling.channel() if whole or no_groups else Tiling.group(group)
        return spec(f"int{width}", scheme="sym_gptq" if symmetric else "asym_incl0", tiling=tiling, scale_format="float16")

    return native


def group_size(found: QuantSpec) -> int:
    """Columns that share a scale, -1 for whole rows."""
    size = found.tiling.extents[1]
    return -1 if size is None else size


def integer_spec(block: Mapping[str, Any], bits: str, scheme: str, widths: Sequence[int]) -> QuantSpec:
    """The spec that a ``quantization_config`` gives by its width and group size; InputError if it has other ones."""
    width, group = entry(block, bits, int), entry(block, "group_size", int, -1)
    if width not in widths:
        raise InputError(f"quantization_config: {bits} is {width}; {', '.join(map(str, widths))} are read")
    if group != -1 and not 0 < group < 1 << 31:
        raise InputError(f"quantization_config: group_size is {group}; -1 or a positive number is needed")
    return spec(f"int{width}", group_size=group, scheme=scheme)
