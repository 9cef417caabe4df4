"""Recipes: which methods are put together for a whole model, as frozen data with TOML in and out.

A recipe holds no code. Every part can be switched by itself, so an ablation is a recipe that differs in one line.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from refquant.apply.parts import Activations, AttentionOutput, Calibration, Part, Probabilities, QueriesKeys, Tokens, Values, Weights
from refquant.apply.rewrite_parts import REWRITES, RewritePart, check_together, read_rewrite
from refquant.errors import InputError, UsageError
from refquant.storage import canonical_json, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides how a model is quantized, apart from the model, the calibration file and the seed.

    Parameters
    ----------
    name, description : str
    weights, tokens, activations, queries_keys, values, probabilities, attention_output, calibration
        One part each.
    skip : tuple of str
        Last names of linears that stay in floating point, such as ``"q_proj"``. Embedding, head and norms always do. Recipes of imported
        folders also have full names here, of single linears that are not quantized.
    propagate : {"quantized", "float"}
        What a block's calibration inputs come from: the blocks before it as quantized (weights, activations and attention product), or
        the float ones.
    rewrites : tuple of RewritePart
        Function-preserving rewrites of the model (:mod:`refquant.apply.rewrite_parts`), in the order in which they are taken: those of
        the whole model first.

    Examples
    --------
    >>> recipe = find_recipe("dllmquant-w4a4")
    >>> Recipe.from_toml(recipe.to_toml()) == recipe
    True
    """

    name: str
    description: str = ""
    weights: Weights = field(default_factory=Weights)
    tokens: Tokens = field(default_factory=Tokens)
    activations: Activations = field(default_factory=Activations)
    queries_keys: QueriesKeys = field(default_factory=QueriesKeys)
    values: Values = field(default_factory=Values)
    probabilities: Probabilities = field(default_factory=Probabilities)
    attention_output: AttentionOutput = field(default_factory=AttentionOutput)
    calibration: Calibration = field(default_factory=Calibration)
    skip: tuple[str, ...] = ()
    propagate: Literal["quantized", "float"] = "quantized"
    rewrites: tuple[RewritePart, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_.+" for c in self.name):
            raise UsageError(f"a recipe's name is made of letters, digits and -_.+, not {self.name!r}")
        if not isinstance(self.description, str):
            raise UsageError(f"recipe {self.name}: description is a text, not {self.description!r}")
        for name, kind in PARTS.items():
            object.__setattr__(self, name, _checked_part(f"recipe {self.name}: {name}", getattr(self, name), kind))
        if not isinstance(self.skip, tuple) or not all(isinstance(name, str) for name in self.skip):
            raise UsageError(f"recipe {self.name}: skip is a tuple of names, not {self.skip!r}")
        if self.propagate not in ("quantized", "float"):
            raise UsageError(f"recipe {self.name}: propagate is 'quantized' or 'float', not {self.propagate!r}")
        object.__setattr__(self, "rewrites", _checked_rewrites(f"recipe {self.name}: rewrites", self.rewrites))
        if self.calibration.states == "none" and self.needs_calibration:
            raise UsageError(f"recipe {self.name}: its methods need calibration; calibration.states is 'none'")

    @property
    def needs_calibration(self) -> bool:
        """Whether any part looks at data."""
        return (
            self.weights.looks_at_hessian
            or self.weights.limits != "none"
            or self.values.method in ("minmax", "ia_aq")
            or self.activations.method == "static"
            or self.attention_output.method != "none"
            or any(part.needs_calibration for part in self.rewrites)
        )

    def replace(self, **parts: Any) -> Recipe:
        """Return a recipe with some fields replaced; a dict replaces fields of a part.

        Raises
        ------
        UsageError
            If a field does not exist or is out of range.

        Examples
        --------
        >>> find_recipe("gptq-w4a16").replace(weights={"bits": 3}, name="gptq-w3a16").weights.bits
        3
        """
        try:
            _refuse_unknown(parts, type(self), f"recipe {self.name}")
        except InputError as error:  # here the field comes from the caller, not from a file
            raise UsageError(str(error)) from error
        changes = {
            name: dataclasses.replace(getattr(self, name), **value) if isinstance(value, dict) and name in PARTS else value
            for name, value in parts.items()
        }
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict with every field, defaults included."""
        tree: dict[str, Any] = msgspec.to_builtins(self)
        return tree

    def to_toml(self) -> str:
        """TOML with every field, defaults included."""
        return tomli_w.dumps(self.to_dict())

    def digest(self) -> str:
        """SHA-256 over everything but name and description."""
        tree = self.to_dict()
        return digest(canonical_json({key: tree[key] for key in tree if key not in ("name", "description")}))

    @classmethod
    def from_dict(cls, tree: dict[str, Any], where: str = "recipe") -> Recipe:
        """Read a nested dict; missing fields take their defaults.

        Raises
        ------
        InputError
            For unknown fields, wrong types and values out of range, naming the field.
        """
        _refuse_unknown(tree, cls, where)
        try:
            return msgspec.convert(tree, cls, strict=True, dec_hook=read_rewrite)
        except msgspec.ValidationError as error:
            raise InputError(f"{where}: {error}") from error

    @classmethod
    def from_toml(cls, text: str, where: str = "recipe") -> Recipe:
        """Read TOML; errors as :meth:`from_dict`."""
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{where}: not valid TOML: {error}") from error
        return cls.from_dict(tree, where)


PARTS: dict[str, type[Part]] = {
    "weights": Weights,
    "tokens": Tokens,
    "activations": Activations,
    "queries_keys": QueriesKeys,
    "values": Values,
    "probabilities": Probabilities,
    "attention_output": AttentionOutput,
    "calibration": Calibration,
}


def _checked_part(where: str, part: Part, kind: type[Part]) -> Part:
    """The part with every field of exactly its type: whoever writes 2 for 2.0 means the same recipe, and gets the same digest."""
    if not isinstance(part, kind):
        raise UsageError(f"{where} is a {kind.__name__}, not {part!r}")
    try:
        return msgspec.convert(msgspec.to_builtins(part), kind, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error


def _checked_rewrites(where: str, rewrites: tuple[RewritePart, ...]) -> tuple[RewritePart, ...]:
    """As :func:`_checked_part`, for each rewrite."""
    if not isinstance(rewrites, tuple) or not all(isinstance(part, RewritePart) for part in rewrites):
        raise UsageError(f"{where} is a tuple of {', '.join(kind.__name__ for kind in REWRITES.values())}, not {rewrites!r}")
    try:
        parts = tuple(read_rewrite(RewritePart, msgspec.to_builtins(part)) for part in rewrites)
        check_together(parts)
    except (msgspec.ValidationError, InputError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from error
    return parts


def _refuse_unknown(tree: dict[str, Any], kind: type, where: str) -> None:
    """A misspelt field would otherwise silently leave its default in force, and of a misspelt choice one wants to know the others."""
    hints = get_type_hints(kind)
    for key, value in tree.items():
        if key not in hints:
            raise InputError(f"{where}: unknown field {key!r}; allowed are {', '.join(hints)}")
        if get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            raise InputError(f"{where}.{key} is {value!r}; allowed are {', '.join(map(repr, get_args(hints[key])))}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            _refuse_unknown(value, hints[key], f"{where}.{key}")


@cache
def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = files("refquant.apply").joinpath("recipes")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def find_recipe(name: str) -> Recipe:
    """A recipe that comes with the package, or a TOML file if `name` ends in ``.toml``.

    Raises
    ------
    UsageError
        If there is no such recipe.
    InputError
        If the file cannot be read or is not a recipe.
    """
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name not in recipe_names():
        raise UsageError(f"unknown recipe {name!r}; known are {', '.join(recipe_names())}, or a file ending in .toml")
    text = files("refquant.apply").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    return Recipe.from_toml(text, name)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; errors name the path."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    return Recipe.from_toml(text, str(path))


__all__ = [
    "Activations",
    "AttentionOutput",
    "Calibration",
    "Probabilities",
    "QueriesKeys",
    "Recipe",
    "Tokens",
    "Values",
    "Weights",
    "find_recipe",
    "read_recipe",
    "recipe_names",
]
