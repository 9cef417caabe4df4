"""The grid: which cells there are, and how their recipes are made to differ in nothing but the method.

A row's method is the idea of a recipe that comes with the package: its rewrites, how it rounds weights and clips them, how it counts
tokens and scales V, and, for DLLMQuant, its states. Everything else is the same in all rows of a width: the weight grid (asymmetric,
holding 0, groups of 128 with float16 scales, no clip ratio), the inputs' (symmetric, a scale a token), V at the inputs' width, the softmax
output at 16 bits, queries and keys in floating point, independently drawn masks, and the number of calibration tokens. These are not the
settings of each paper. Recipes as shipped, which are, stand apart as the group ``shipped``: their rows differ in what is quantized.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refquant.apply.recipe import Recipe, find_recipe, recipe_names
from refquant.apply.rewrite_parts import RewritePart
from refquant.apply.study.settings import Settings
from refquant.errors import UsageError

Kind = Literal["plain", "outliers"]
Group = Literal["grid", "calibration", "shipped"]
KINDS: tuple[Kind, ...] = ("plain", "outliers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Bits of weights and of inputs; 0 leaves inputs in floating point."""

    weights: int
    activations: int


WIDTHS: dict[str, Width] = {
    "W4A4": Width(weights=4, activations=4),
    "W4A16": Width(weights=4, activations=0),
    "W3A16": Width(weights=3, activations=0),
    "W8A8": Width(weights=8, activations=8),
    "W4A8": Width(weights=4, activations=8),
    "W2A16": Width(weights=2, activations=0),
}
"""In the order in which they are run: those that the findings need first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the grid: the recipe that its idea is taken from, and whether it makes sense where inputs stay in floating point."""

    recipe: str
    weight_only: bool = True


METHODS: dict[str, Method] = {
    "RTN": Method(recipe="rtn-w4a4"),
    "GPTQ": Method(recipe="gptq-w4a4"),
    "AWQ": Method(recipe="awq-w4a4"),
    "SmoothQuant": Method(recipe="smoothquant-w8a8", weight_only=False),
    "SmoothQuant, 4 places": Method(recipe="smoothquant-qdlm-w4a4", weight_only=False),
    "QuaRot, RTN": Method(recipe="quarot-rtn-w4a4"),
    "QuaRot": Method(recipe="quarot-gptq-w4a4"),
    "DuQuant": Method(recipe="duquant-w4a4", weight_only=False),
    "DLLMQuant": Method(recipe="dllmquant-w4a4"),
    "DLLMQuant+": Method(recipe="dllmquant+-w4a4"),
    "DLLMQuant++": Method(recipe="dllmquant++-w4a4"),
}
STATES = ("clean", "iid", "rollout", "tmas")
"""Of the calibration ablation, GPTQ at W4A4; "iid" is the grid's own cell."""
SHIPPED = ("smoothquant-qdlm-w4a4", "quarot-qdlm-w4a4", "quarot-gptq-w4a4", "duquant-w4a4", "awq-w4a4")
"""The published setups at W4A4, each with its own activations, grids and clip ratios."""
NEWER = ("fair-adaptation-w4a4", "soloq-w4a4", "tac-gptq-w4a4", "dash-q-w3", "quant-dllm-w2")
"""What came after, as shipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: a method at a width on a model, for all seeds."""

    kind: Kind
    group: Group
    width: str
    method: str

    @property
    def label(self) -> str:
        """What progress calls it."""
        return f"{self.width} {self.method}, {self.kind}" + ("" if self.group == "grid" else f" ({self.group})")


def cells(
    widths: Sequence[str] = tuple(WIDTHS), methods: Sequence[str] = tuple(METHODS), kinds: Sequence[Kind] = KINDS, also: Sequence[str] = ()
) -> list[Cell]:
    """All cells, the most telling first.

    Parameters
    ----------
    widths, methods, kinds : sequence of str
        Which part of the grid.
    also : sequence of str
        Names of further recipes, run as they are shipped.

    Raises
    ------
    UsageError
        For an unknown name.

    Examples
    --------
    >>> len(cells()), cells()[0].label
    (137, 'W4A4 RTN, outliers')
    """
    for given, known, what in (
        (widths, WIDTHS, "width"),
        (methods, METHODS, "method"),
        (kinds, KINDS, "model"),
        (also, recipe_names(), "recipe"),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UsageError(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")
    return list(_cells(widths, methods, kinds, also))


def _cells(widths: Sequence[str], methods: Sequence[str], kinds: Sequence[Kind], also: Sequence[str]) -> Iterator[Cell]:
    for width in (name for name in WIDTHS if name in widths):
        for method in (name for name in METHODS if name in methods):
            if METHODS[method].weight_only or WIDTHS[width].activations:
                for kind in reversed(KINDS):
                    if kind in kinds:
                        yield Cell(kind=kind, group="grid", width=width, method=method)
        if width == "W4A4" and "GPTQ" in methods and "DLLMQuant" in methods:
            for states in STATES:
                if states != "iid" and "plain" in kinds:
                    yield Cell(kind="plain", group="calibration", width=width, method=states)
    shipped = (*((*SHIPPED, *NEWER) if set(widths) == set(WIDTHS) and set(methods) == set(METHODS) else ()), *also)
    for name in dict.fromkeys(shipped):
        for kind in kinds:
            yield Cell(kind=kind, group="shipped", width="as shipped", method=name)


def cell_recipes(cell: Cell, settings: Settings) -> list[Recipe]:
    """The recipes of a cell, one a seed; one alone where no seed changes anything.

    Parameters
    ----------
    cell : Cell
    settings : Settings
    """
    if cell.group == "shipped":
        first = find_recipe(cell.method)
        made = [sized(first, settings, seed) for seed in range(settings.seeds)]
    else:
        name = "GPTQ" if cell.group == "calibration" else cell.method
        states = cell.method if cell.group == "calibration" else None
        made = [controlled(find_recipe(METHODS[name].recipe), WIDTHS[cell.width], settings, seed, states) for seed in range(settings.seeds)]
    return made if made[0].needs_calibration or len({recipe.digest() for recipe in made}) > 1 else made[:1]


def controlled(recipe: Recipe, width: Width, settings: Settings, seed: int, states: str | None = None) -> Recipe:
    """A recipe's idea at a width, with everything else as in all other rows.

    Parameters
    ----------
    recipe : Recipe
    width : Width
    settings : Settings
    seed : int
        Of random rotations.
    states : str, optional
        Calibration states, in the place of TMAS where the recipe has that and independent masks elsewhere.

    Examples
    --------
    >>> first, second = (controlled(find_recipe(name), WIDTHS["W4A4"], Settings(), 0) for name in ("rtn-w4a4", "quarot-rtn-w4a4"))
    >>> first.replace(name="x", description="", rewrites=second.rewrites) == second.replace(name="x", description="")
    True
    """
    inputs = width.activations
    values: dict[str, Any] = {"method": "none"}
    if inputs:
        searched = recipe.values if recipe.values.method == "ia_aq" else type(recipe.values)(method="minmax")
        values = {**_plain(searched), "bits": inputs, "scheme": "asym_incl0"}
    else:
        values = _plain(type(recipe.values)())
    own = "tmas" if recipe.calibration.states == "tmas" else "iid"
    made = sized(recipe, settings, seed).replace(
        weights={"bits": width.weights, "format": "", **GRID},
        activations=_plain(type(recipe.activations)(method="per_token", bits=inputs) if inputs else type(recipe.activations)()),
        queries_keys=_plain(type(recipe.queries_keys)()),
        values=values,
        probabilities={"bits": 16 if inputs else 0, "range": "unit"},
        skip=(),
        propagate="quantized",
        calibration={"states": states or own},
    )
    if states == "rollout":  # states of uneven lengths, cut to the number of tokens that all rows take: there have to be enough
        made = made.replace(calibration={"samples": 2 * settings.samples})
    return made if made.needs_calibration else made.replace(calibration={"states": "none"})


GRID: dict[str, Any] = {
    "scheme": "asym_incl0",
    "group_size": 128,
    "scale_format": "float16",
    "clip_search": False,
    "range_ratio": 1.0,
    "damping": 0.01,
    "hessian_inputs": "float",
}
"""The weight grid of all rows, and what GPTQ's Hessian is made of."""


def sized(recipe: Recipe, settings: Settings, seed: int) -> Recipe:
    """A recipe on as many calibration sequences as the settings say, its rotations drawn from a seed."""
    return recipe.replace(
        calibration={"samples": settings.samples, "prompts": settings.prompts},
        rewrites=tuple(_seeded(part, settings, seed) for part in recipe.rewrites),
    )


def _seeded(part: RewritePart, settings: Settings, seed: int) -> RewritePart:
    wanted = {"seed": seed, "search_tokens": settings.search_tokens}
    known = {entry.name for entry in dataclasses.fields(part)}  # type: ignore[arg-type]
    return dataclasses.replace(part, **{name: value for name, value in wanted.items() if name in known})  # type: ignore[type-var]


def _plain(part: Any) -> dict[str, Any]:
    return {entry.name: getattr(part, entry.name) for entry in dataclasses.fields(part)}
