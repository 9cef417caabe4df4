"""What laws need of a function before they apply to it; each gives None or a reason why not."""

from __future__ import annotations

from collections.abc import Callable

from refquant.conformance.laws.law import Subject
from refquant.conformance.laws.traits import reason_against

NAMES = {
    "nearest": "numbers go to their nearest level",
    "monotone": "larger numbers of a tile have no smaller results",
    "symmetric": "f(-x) = -f(x)",
    "scalable": "f(2^k x) = 2^k f(x)",
    "keeps_zero": "0 stays 0",
    "idempotent": "f(f(x)) = f(x)",
    "order_free": "results do not depend on the order inside a tile",
    "dead_inputs": "columns whose inputs are 0 become 0",
    "hessian_scalable": "a factor on the Hessian changes nothing",
}


def promised(*promises: str, tiling: bool = False, ends: bool = False) -> Callable[[Subject], str | None]:
    """Need some promises of the traits, and (if asked for) that tiling or end codes are known."""

    def need(subject: Subject) -> str | None:
        traits = subject.traits
        if tiling and traits.tiling is None:
            return "nobody said which elements share a scale; give spec= or traits="
        if ends and traits.ends is None:
            return "nobody said which codes there are; give spec= or traits="
        reasons = (reason_against(getattr(traits, promise), NAMES[promise]) for promise in promises)
        return next((reason for reason in reasons if reason is not None), None)

    return need


def needs_free_rows(subject: Subject) -> str | None:
    """Rows can be exchanged where no tile spans some rows and not others."""
    extents = _matrix_extents(subject)
    if isinstance(extents, str):
        return extents
    if extents[0] == 1:
        return None
    if extents[0] is None:
        return reason_against(subject.traits.order_free, "results do not depend on the order inside a tile")
    return f"tiles span {extents[0]} rows each"


def needs_separate_rows(subject: Subject) -> str | None:
    """Rows can be computed apart where no tile spans two."""
    extents = _matrix_extents(subject)
    if isinstance(extents, str):
        return extents
    return None if extents[0] == 1 else "rows share scales"


def needs_free_columns(subject: Subject) -> str | None:
    """Columns can be exchanged inside a tile where no sum depends on their order, and tiles of equal width with each other."""
    extents = _matrix_extents(subject)
    if isinstance(extents, str):
        return extents
    return None if extents[1] == 1 else reason_against(subject.traits.order_free, "results do not depend on the order inside a tile")


def needs_column_tiles(subject: Subject) -> str | None:
    """Columns can be computed apart where a tile ends."""
    extents = _matrix_extents(subject)
    if isinstance(extents, str):
        return extents
    if extents[1] is None:
        return "a tile spans all columns"
    return None if extents[1] == 1 else reason_against(subject.traits.order_free, "results do not depend on how a ragged tail is summed")


def _matrix_extents(subject: Subject) -> tuple[int | None, int | None] | str:
    tiling = subject.traits.tiling
    if tiling is None or len(tiling.extents) != 2:
        return "nobody said which elements of a matrix share a scale; give spec= or traits="
    return tiling.extents[0], tiling.extents[1]
