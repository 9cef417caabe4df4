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
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from refquant.core import QuantSpec, Tiling, find_scheme, spec
from refquant.errors import InputError, UsageError
from refquant.storage import canonical_json, digest

Bits = Annotated[int, Meta(ge=1, le=16)]
Count = Annotated[int, Meta(ge=1)]
GroupSize = Annotated[int, Meta(ge=-1)]
Share = Annotated[float, Meta(gt=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the linears' weights are quantized.

    Parameters
    ----------
    method : {"none", "rtn", "gptq"}
    bits, scheme, group_size, scale_format, clip_search, range_ratio
        As in :func:`refquant.spec`; group size -1 is a whole row; an empty scale format keeps float64.
    damping, block_size, act_order, static_groups, compat
        As in :func:`refquant.gptq`.
    hessian_inputs : {"float", "quantized"}
        What the Hessian is made of: the inputs of a linear as they arrive, or after the activation quantizer.
    """

    method: Literal["none", "rtn", "gptq"] = "gptq"
    bits: Bits = 4
    scheme: str = "asym_incl0"
    group_size: GroupSize = 128
    scale_format: Literal["", "float16", "bfloat16", "float32"] = "float16"
    clip_search: bool = False
    range_ratio: Share = 1.0
    damping: NotNegative = 0.01
    block_size: Count = 128
    act_order: bool = False
    static_groups: bool = False
    compat: tuple[str, ...] = ()
    hessian_inputs: Literal["float", "quantized"] = "float"

    def spec(self) -> QuantSpec:
        """The spec of one weight ``[out, in]``."""
        return spec(
            f"int{self.bits}",
            group_size=self.group_size,
            scheme=self.scheme,
            scale_format=self.scale_format or None,
            mse=self.clip_search,
            range_ratio=self.range_ratio,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How much each calibration token counts in a Hessian.

    Parameters
    ----------
    weighting : {"uniform", "certainty"}
        All alike, or CGQ's weights.
    power, visible_weight, masked_weight, visible_confidence
        As in :func:`refquant.certainty_weights`.
    confidence : {"argmax", "final_token"}
        Whose probability s is: of the likeliest token, or of the token that ends up at that position.
    """

    weighting: Literal["uniform", "certainty"] = "uniform"
    power: Annotated[float, Meta(gt=0)] = 2.0
    visible_weight: NotNegative = 0.7
    masked_weight: NotNegative = 1.0
    visible_confidence: Literal["zero", "model", "one"] = "zero"
    confidence: Literal["argmax", "final_token"] = "argmax"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """How the linears' inputs are quantized at run time.

    Parameters
    ----------
    method : {"none", "per_token", "static"}
        Not; a scale a token, at run time; one calibrated scale a linear.
    bits, scheme, group_size, range_ratio
        As in :func:`refquant.spec`. Symmetric schemes use scale 1 for an all-zero token.
    """

    method: Literal["none", "per_token", "static"] = "none"
    bits: Bits = 8
    scheme: str = "sym_full"
    group_size: GroupSize = -1
    range_ratio: Share = 1.0

    def spec(self) -> QuantSpec:
        """The spec of inputs ``[tokens, features]``."""
        symmetric = find_scheme(self.scheme).zero == "none"
        return spec(
            f"int{self.bits}",
            tiling=Tiling.tensor() if self.method == "static" else None,
            group_size=None if self.method == "static" else self.group_size,
            scheme=self.scheme,
            empty="unit_scale" if symmetric else None,
            range_ratio=self.range_ratio,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """How V is quantized in the attention product.

    Parameters
    ----------
    method : {"none", "minmax", "ia_aq", "per_token"}
        Not; static, from calibrated extremes; static, by IA-AQ; dynamic per token with ratio `range_ratio`.
    bits, scheme
        As in :func:`refquant.spec`.
    per, gram, rows
        Options of :func:`refquant.ia_aq`; `rows` is ``"all"`` or ``"masked"`` queries.
    lowest_alpha, alpha_step : float
        Candidates run from 1 down to the lowest in steps.
    range_ratio : float
        For ``per_token`` only.
    calibrate : {"after_qkv", "before_qkv"}
        With the quantized projections of q, k, v in place (causal order), or with the float ones.
    """

    method: Literal["none", "minmax", "ia_aq", "per_token"] = "none"
    bits: Bits = 8
    scheme: str = "asym_incl0"
    per: Literal["head", "feature"] = "head"
    gram: Literal["exact", "mass"] = "exact"
    rows: Literal["all", "masked"] = "all"
    lowest_alpha: Share = 0.8
    alpha_step: Share = 0.01
    range_ratio: Share = 1.0
    calibrate: Literal["after_qkv", "before_qkv"] = "after_qkv"

    def spec(self) -> QuantSpec:
        """The spec of values ``[kv_heads, tokens, head_dim]``: a scale a head, or a head and feature; dynamically, a scale a token."""
        static = Tiling((1, None, 1 if self.per == "feature" else None))
        tiling = Tiling.token(ndim=3) if self.method == "per_token" else static
        return spec(f"int{self.bits}", tiling=tiling, scheme=self.scheme, scale_format="float32", range_ratio=self.range_ratio)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Candidates of the search, largest first; 1 alone for min/max."""
        if self.method != "ia_aq":
            return (1.0,)
        count = int((1 - self.lowest_alpha) / self.alpha_step + 1e-9)
        return tuple(round(1 - i * self.alpha_step, 12) for i in range(count + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probabilities:
    """How the softmax output is quantized in the attention product.

    Parameters
    ----------
    bits : int
        0 leaves it in floating point.
    range : {"unit", "row_max"}
    """

    bits: Annotated[int, Meta(ge=0, le=16)] = 0
    range: Literal["unit", "row_max"] = "unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Which states of which sequences the statistics are taken from.

    Parameters
    ----------
    states : {"none", "clean", "iid", "rollout", "tmas"}
        No calibration; fully visible text; masks drawn independently at a uniform ratio; states of rollouts drawn uniformly; TMAS.
    samples : int
        Number of sequences.
    prompts : int
        Number of calibration lines that samples are made of, round-robin; for rollouts, the number of rollouts.
    gen_length : int
        Response tokens of a line that has no response of its own (the end of a text is then its response).
    block_length, tokens_per_step, temperature
        Sampler settings of rollouts.
    proportions, bins, joint
        As in :func:`refquant.tmas`.
    min_distinct : float
        A rollout whose committed response has a smaller share of distinct tokens is rejected, and counted.
    """

    states: Literal["none", "clean", "iid", "rollout", "tmas"] = "iid"
    samples: Count = 128
    prompts: Count = 32
    gen_length: Count = 64
    block_length: Count = 16
    tokens_per_step: Count = 1
    temperature: NotNegative = 0.0
    proportions: tuple[NotNegative, ...] = (0.3, 0.2, 0.2, 0.3)
    bins: Literal["time", "mask_ratio"] = "time"
    joint: bool = False
    min_distinct: Annotated[float, Meta(ge=0, le=1)] = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides how a model is quantized, apart from the model, the calibration file and the seed.

    Parameters
    ----------
    name, description : str
    weights, tokens, activations, values, probabilities, calibration
        One part each.
    skip : tuple of str
        Last names of linears that stay in floating point, such as ``"q_proj"``. Embedding, head and norms always do.
    propagate : {"quantized", "float"}
        What a block's calibration inputs come from: the blocks before it as quantized (weights, activations and attention product), or
        the float ones.

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
    values: Values = field(default_factory=Values)
    probabilities: Probabilities = field(default_factory=Probabilities)
    calibration: Calibration = field(default_factory=Calibration)
    skip: tuple[str, ...] = ()
    propagate: Literal["quantized", "float"] = "quantized"

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_.+" for c in self.name):
            raise UsageError(f"a recipe's name is made of letters, digits and -_.+, not {self.name!r}")
        self.weights.spec(), self.activations.spec(), self.values.spec()  # schemes and widths that contradict each other raise here
        if self.calibration.states == "none" and self.needs_calibration:
            raise UsageError(f"recipe {self.name}: its methods need calibration; calibration.states is 'none'")
        if self.calibration.block_length % self.calibration.tokens_per_step:
            raise UsageError(f"recipe {self.name}: block_length is a multiple of tokens_per_step")
        if self.calibration.gen_length % self.calibration.block_length:
            raise UsageError(f"recipe {self.name}: gen_length is a multiple of block_length")

    @property
    def needs_calibration(self) -> bool:
        """Whether any part looks at data."""
        return self.weights.method == "gptq" or self.values.method in ("minmax", "ia_aq") or self.activations.method == "static"

    def replace(self, **parts: Any) -> Recipe:
        """Return a recipe with some fields replaced; a dict replaces fields of a part.

        Examples
        --------
        >>> find_recipe("gptq-w4a16").replace(weights={"bits": 3}, name="gptq-w3a16").weights.bits
        3
        """
        changes = {
            name: dataclasses.replace(getattr(self, name), **value) if isinstance(value, dict) else value for name, value in parts.items()
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
            return msgspec.convert(tree, cls, strict=True)
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


def _refuse_unknown(tree: dict[str, Any], kind: type, where: str) -> None:
    """A misspelt field would otherwise silently leave its default in force."""
    hints = get_type_hints(kind)
    for key, value in tree.items():
        if key not in hints:
            raise InputError(f"{where}: unknown field {key!r}; allowed are {', '.join(hints)}")
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
    try:
        return Recipe.from_toml(text, str(path))
    except UsageError as error:  # a value of the file that contradicts another is bad input here, not a wrong flag
        raise InputError(f"{path}: {error}") from error


__all__ = [
    "Activations",
    "Calibration",
    "Probabilities",
    "Recipe",
    "Tokens",
    "Values",
    "Weights",
    "find_recipe",
    "read_recipe",
    "recipe_names",
]
