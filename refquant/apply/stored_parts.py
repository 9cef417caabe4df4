"""Parts of a quantized folder, each checked against what the description says of it: linears, and what corrects attention's output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from refquant.apply.description import Description, WeightEntry, check_digests
from refquant.apply.quantized import QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.apply.rewritten import RewrittenModel
from refquant.apply.saving import CORRECTION_PARTS, correction_name
from refquant.core import Origin, QTensor, QuantSpec
from refquant.core.affine_spec import AffineSpec, affine_parts, is_affine
from refquant.core.affine_tensor import AffineTensor
from refquant.core.binary_tensor import BINARY_PARTS, BinarySpec, BinaryTensor, is_binary
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.methods.activation.tac import AffineCorrection
from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint

GRID_PARTS = ("codes", "scale", "scale_codes", "scale_outer", "scale_offset", "zero", "perm")
MINIMUM_PARTS = ("minimum", "minimum_codes", "minimum_outer", "minimum_offset")
PARTS = tuple(dict.fromkeys((*GRID_PARTS, *BINARY_PARTS, *MINIMUM_PARTS)))


def described_model(
    description: Description,
    where: Path,
    weights: Mapping[str, Quantized],
    rewritten: RewrittenModel,
    corrections: Mapping[int, AffineCorrection],
) -> QuantizedModel:
    """Put recipe and grids of a description together with what was read of the tensors; `where` is named in messages.

    Raises
    ------
    InputError
        If the recipe or a grid is none.
    """
    recipe = Recipe.from_dict(description.recipe, f"{where}: recipe")
    try:
        return QuantizedModel(
            recipe=recipe,
            weights=weights,
            input_grids={name: entry.grid() for name, entry in description.activation_scales.items()},
            value_grids={int(index): entry.grid() for index, entry in description.value_scales.items()},
            value_alphas={int(index): tuple(values) for index, values in description.value_alphas.items()},
            rewritten=rewritten,
            corrections=corrections,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def read_corrections(blocks: list[int], tensors: dict[str, Array], where: Path) -> tuple[dict[int, AffineCorrection], set[str]]:
    """Corrections of the attention output by block, and the names of their arrays."""
    names = {index: {part: correction_name(index, part) for part in CORRECTION_PARTS} for index in blocks}
    taken = {name for parts in names.values() for name in parts.values()}
    for name in sorted(taken):
        if name not in tensors:
            raise InputError(f"{where}: {name} is missing, which it promises")
    found = {index: AffineCorrection(**{part: tensors[name] for part, name in parts.items()}) for index, parts in names.items()}
    return found, taken


def read_weight(stored: Checkpoint, name: str, entry: WeightEntry, where: Path) -> Quantized:
    """Read the parts of one weight and check them against what is recorded of them; `where` is named in messages.

    Raises
    ------
    InputError
        If a part is missing, damaged or not what its digest says.
    """
    try:
        possible = _possible_parts(entry.spec)
    except InputError as error:
        raise InputError(f"{where}: {name}: {error}") from error
    parts = {part: stored.read(f"{name}.{part}") for part in possible if f"{name}.{part}" in stored.names}
    missing = _needed_parts(entry.spec, parts) - set(parts)
    if missing:
        raise InputError(f"{stored.directory}: {name} lacks {', '.join(sorted(missing))}, which {where.name} promises")
    try:
        origin = Origin(method=entry.method, version=entry.version, parameters=entry.parameters)
        weight = _from_parts(parts, entry.spec, origin)
    except (InputError, UsageError) as error:  # a spec that asks for what there is not is damage as well
        raise InputError(f"{stored.directory}: {name} is damaged: {error}") from error
    check_digests(str(stored.directory), {name: weight.digest()}, {name: entry.digest})
    return weight


def _possible_parts(spec: str) -> tuple[str, ...]:
    """All parts that a tensor of a spec may have."""
    if is_binary(spec):
        return BINARY_PARTS
    return affine_parts(AffineSpec.from_json(spec)) if is_affine(spec) else GRID_PARTS


def _needed_parts(spec: str, found: Mapping[str, Array]) -> set[str]:
    """The parts that it has to have."""
    if is_binary(spec) or is_affine(spec):
        return set(_possible_parts(spec))
    return {"codes", "scale" if "scale_codes" not in found else "scale_codes"}


def _from_parts(parts: dict[str, Array], spec: str, origin: Origin) -> Quantized:
    if is_binary(spec):
        return BinaryTensor.from_parts(parts, BinarySpec.from_json(spec), origin)
    if is_affine(spec):
        return AffineTensor.from_parts(parts, AffineSpec.from_json(spec), origin)
    return QTensor.from_parts(parts, QuantSpec.from_json(spec), origin)
