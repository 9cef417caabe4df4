"""The recipe of an imported folder: what it was made of and with is not in such files, so it says only what the weights look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from refquant.apply.recipe import Recipe
from refquant.core import QuantSpec, Tiling
from refquant.core import spec as named_spec
from refquant.core.block_formats import BLOCK_FORMATS, block_name
from refquant.core.qtensor import Described
from refquant.errors import InputError
from refquant.formats import IntFormat


def folder_recipe(layout: str, variant: str, specs: Mapping[str, Described], linears: Iterable[str]) -> Recipe:
    """The recipe of a folder whose file says of every tensor by itself what it is.

    Where all linears look alike it is that of :func:`weight_recipe`, and else one of method ``imported``.

    Parameters
    ----------
    layout, variant : str
    specs : mapping of specs
        By linear, perhaps of embedding and head as well.
    linears : iterable of str
        All of the model.
    """
    linears = list(linears)
    plain = [name for name in linears if name not in specs]
    kinds = {name.rpartition(".")[2] for name in plain}
    clear = kinds.isdisjoint(name.rpartition(".")[2] for name in linears if name in specs)
    alike = set(specs) <= set(linears) and len(set(specs.values())) == 1 and isinstance(next(iter(specs.values())), QuantSpec)
    skip = tuple(sorted(kinds if clear else plain))
    if clear and alike:
        return weight_recipe(layout, variant, specs, ()).replace(skip=skip)
    return _recipe(layout, variant, {"method": "imported"}, skip)


def _recipe(layout: str, variant: str, weights: dict[str, Any], skip: tuple[str, ...]) -> Recipe:
    return Recipe(name=f"imported-{layout}").replace(
        description=f"Imported from the {layout} layout ({variant})", weights=weights, calibration={"states": "none"}, skip=skip
    )


def weight_recipe(layout: str, variant: str, specs: Mapping[str, Described], matrices: Iterable[str]) -> Recipe:
    """The recipe that says what imported weights look like.

    Parameters
    ----------
    layout, variant : str
    specs : mapping of QuantSpec
        By linear.
    matrices : iterable of str
        Full names of the matrices that are not quantized.

    Raises
    ------
    InputError
        If they do not all look alike, or linears of one last name are quantized in one block and not in another: recipes skip by last name.
    """
    first = next(iter(specs))
    spec = specs[first]
    for name, other in specs.items():
        if other != spec:
            raise InputError(f"{first} and {name} are quantized differently; a quantized folder has one recipe for all")
    quantized = {name.rpartition(".")[2] for name in specs}
    blocks = {name.rpartition(".")[0] for name in specs}
    plain = {
        name.removesuffix(".weight")
        for name in matrices
        if name.endswith(".weight") and name.removesuffix(".weight").rpartition(".")[0] in blocks
    }
    both = sorted(name for name in plain if name.rpartition(".")[2] in quantized)
    if both:
        raise InputError(f"{both[0]} is not quantized although others of its kind are; a quantized folder skips kinds of linears")
    return _recipe(layout, variant, _weight_fields(spec), tuple(sorted({name.rpartition(".")[2] for name in plain})))


def _weight_fields(spec: Described) -> dict[str, Any]:
    if not isinstance(spec, QuantSpec):
        raise InputError(f"{spec.to_json()}; a recipe has no name for such weights")
    if not isinstance(spec.format, IntFormat):
        named = _block_names(spec)
        if spec.scales is None and not named and spec.tiling == Tiling.channel():
            return {"method": "rtn", "format": spec.format.name, "group_size": -1, "scale_format": spec.scale_format or ""}
        if not named:
            raise InputError(f"{spec.format.name} in tiles {spec.tiling.extents}; recipes have no name for this block format")
        return {"method": "rtn", "format": named[0]}
    size = spec.tiling.extents[1]
    if spec.tiling.extents[0] is None:
        raise InputError("one scale a tensor; a quantized folder has at least one for each row")
    return {
        "method": "rtn",
        "bits": spec.format.bits,
        "scheme": spec.scheme.name,
        "group_size": -1 if size is None else size,
        "scale_format": spec.scale_format or "",
    }


def _block_names(spec: QuantSpec) -> list[str]:
    """Names of the block formats that a spec is, with the block it has."""
    size = spec.tiling.extents[-1]
    tried = [block_name(block, size) if block.any_block and size is not None else name for name, block in BLOCK_FORMATS.items()]
    return [name for name in tried if named_spec(name) == spec]
