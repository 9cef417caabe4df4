"""The result of quantizing a whole model: codes and grids by name, and how they go back into a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from model import Architecture, DenseLinear, Linear, ScoreOperands, Transformer
from refquant.apply.layers import (
    CodebookQuantizer,
    IntegerLinear,
    PerTokenQuantizer,
    QuantizedAttentionProduct,
    QuantizedLinear,
    QuantizedScoreOperands,
    StaticQuantizer,
    TransformedScoreOperands,
    online_transforms,
)
from refquant.apply.recipe import Recipe
from refquant.apply.rewritten import RewrittenModel
from refquant.core import Grid, QTensor
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.methods.activation.tac import AffineCorrection
from refquant.numerics import FAST, Arithmetic

LinearArithmetic = Literal["fake", "integer"]
"""How quantized linears are computed: from numbers that codes are turned back into, or from the codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRecord:
    """What happened to one linear.

    Parameters
    ----------
    name : str
    tokens : int
        Calibration tokens with a weight above 0; 0 without calibration.
    error : float or None
        Output error ``tr((W - W') H (W - W')^T)`` on the calibration tokens, weighted as the method weighed them.
    rtn_error : float or None
        The same for RTN with the same spec.
    """

    name: str
    tokens: int
    error: float | None
    rtn_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedModel:
    """The result: codes and grids by name; :meth:`attach` puts them into a model.

    Parameters
    ----------
    recipe : Recipe
    weights : mapping of str to Quantized
        By the linear's name; of imported weights also by the embedding's and the head's.
    input_grids : mapping of str to Grid
        Static activation grids by the linear's name.
    value_grids : mapping of int to Grid
        Static grids of V by block.
    records : tuple of LinearRecord
    value_alphas : mapping of int to tuple of float
        IA-AQ's choice by block, one a head (or a feature).
    rewritten : RewrittenModel
        What rewrites left besides quantized weights.
    corrections : mapping of int to AffineCorrection
        Of the attention's output, by block.
    """

    recipe: Recipe
    weights: Mapping[str, Quantized]
    input_grids: Mapping[str, Grid] = field(default_factory=dict)
    value_grids: Mapping[int, Grid] = field(default_factory=dict)
    records: tuple[LinearRecord, ...] = ()
    value_alphas: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    rewritten: RewrittenModel = field(default_factory=RewrittenModel)
    corrections: Mapping[int, AffineCorrection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("weights", "input_grids", "value_grids", "value_alphas", "corrections"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def attach(self, m: Transformer, *, arithmetic: LinearArithmetic = "fake") -> Transformer:
        """Return `m` with this model's quantized linears and attention products in it.

        Parameters
        ----------
        m : Transformer
            In full precision and not rewritten; what rewrites changed is put into it, too.
        arithmetic : {"fake", "integer"}
            Whether linears turn codes back into numbers and multiply those, or multiply the codes
            (:class:`~refquant.apply.layers.IntegerLinear`). Attention products are the same in both.

        Raises
        ------
        InputError
            If `m` has linears that the recipe quantizes and this object does not hold, or the other way round, or shapes differ.
        UsageError
            If `arithmetic` is another word, or ``"integer"`` and the recipe leaves weights or activations in floating point, or a
            linear's formats are not for integers: real zero points, or an int32 that might overflow.
        """
        if arithmetic not in ("fake", "integer"):
            raise UsageError(f"arithmetic is {arithmetic!r}; allowed: 'fake', 'integer'")
        m = self.rewritten.attach(m)
        self.check_fit(m, set(self.weights))
        for name, coded in self.weights.items():
            shape = dense_linear(m, name).weight.shape if name in m.linears else m.parameters[f"{name}.weight"].shape
            if coded.shape != shape:
                raise InputError(f"{name}: the quantized weight has shape {coded.shape}, the model's {shape}")
        tables = {f"{name}.weight": self.weights[name].dequantize(m.dtype) for name in self.weights if name not in m.linears}
        m = m.replace(parameters=tables) if tables else m
        if arithmetic == "integer":
            self._check_codes()
        linears: dict[str, Linear] = {}
        for name in m.linears:
            quantizer = input_quantizer(self.recipe, name, self.input_grids, m.arithmetic)
            weight = self.weights.get(name)
            if weight is None and quantizer is None:
                continue
            dense = dense_linear(m, name)
            if arithmetic == "integer" and isinstance(weight, QTensor) and not isinstance(quantizer, CodebookQuantizer | None):
                linears[name] = _integer_linear(name, weight, dense, quantizer, m)
            else:
                values = dense.weight if weight is None else weight
                linears[name] = QuantizedLinear(values, dense.bias, quantizer, m.dtype, m.arithmetic, online_transforms(dense))
        return self.with_products(m, linears)

    def with_products(self, m: Transformer, linears: Mapping[str, Linear]) -> Transformer:
        """Return `m` with `linears` and this model's attention products in it."""
        grids, corrections = self.value_grids, self.corrections
        products = {i: attention_product(self.recipe, m, grids.get(i), corrections.get(i)) for i in range(m.config.n_layers)}
        operands = {index: score_operands(self.recipe, before) for index, before in enumerate(m.score_operands)}
        return m.replace(
            linears,
            {index: product for index, product in products.items() if product is not None},
            {index: operand for index, operand in operands.items() if operand is not None},
        )

    def _check_codes(self) -> None:
        """A linear with one operand in floating point has no integer product; it is not left out without a word."""
        for what, method in (("activations", self.recipe.activations.method), ("weights", self.recipe.weights.method)):
            if method == "none":
                raise UsageError(
                    f"recipe {self.recipe.name} leaves {what} in floating point ({what}.method is 'none'); integer arithmetic multiplies "
                    "codes by codes and needs a recipe that quantizes both, such as w8a8"
                )
            if method in ("lloyd_max", "quant_dllm"):
                raise UsageError(
                    f"recipe {self.recipe.name}: {what} of method {method!r} have codes that are no multiples of one step; integer "
                    "arithmetic needs integer formats on both sides, such as w8a8"
                )

    def check_fit(self, m: Transformer, weights: set[str]) -> None:
        """Raise InputError unless everything that the recipe quantizes in `m` is there, `weights` being the quantized linears.

        A linear that is left out would run in floating point, and V without its scales on scales of the moment, without a word.
        """
        recipe = self.recipe
        if recipe.weights.method == "imported":
            weights = weights - set(table_names(m.architecture))
        linears = {name for name in m.linears if not is_skipped(recipe, name)}
        blocks = {str(index) for index in range(m.config.n_layers)}
        wanted = {
            "quantized weights": (weights, linears if recipe.weights.method != "none" else set()),
            "activation scales": (set(self.input_grids), linears if recipe.activations.method == "static" else set()),
            "corrections": ({str(i) for i in self.corrections}, blocks if recipe.attention_output.method != "none" else set()),
            "V scales": ({str(i) for i in self.value_grids}, blocks if recipe.values.method in ("minmax", "ia_aq") else set()),
        }
        for what, (found, needed) in wanted.items():
            if found != needed:
                odd = sorted(needed - found) or sorted(found - needed)
                verb = "are missing for" if needed - found else "are there for what the recipe or the model does not have:"
                raise InputError(f"recipe {recipe.name}: {what} {verb} {', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''}")


def _integer_linear(
    name: str, weight: QTensor, dense: DenseLinear, quantizer: PerTokenQuantizer | StaticQuantizer, m: Transformer
) -> IntegerLinear:
    try:
        return IntegerLinear(weight, dense.bias, quantizer, m.dtype, m.arithmetic, online_transforms(dense))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def input_quantizer(
    recipe: Recipe, name: str, grids: Mapping[str, Grid], arithmetic: Arithmetic = FAST
) -> PerTokenQuantizer | StaticQuantizer | CodebookQuantizer | None:
    """The activation quantizer before a linear, or None."""
    if recipe.activations.method == "none" or is_skipped(recipe, name):
        return None
    if recipe.activations.method == "per_token":
        return PerTokenQuantizer(recipe.activations.spec())
    if recipe.activations.method == "lloyd_max":
        return CodebookQuantizer(recipe.activations.spec(), recipe.activations.scale_correction, arithmetic)
    return StaticQuantizer(grids[name], recipe.activations.spec())


def attention_product(
    recipe: Recipe, m: Transformer, grid: Grid | None, correction: AffineCorrection | None = None
) -> QuantizedAttentionProduct | None:
    """The attention product of a recipe, or None where it leaves both operands alone and there is no correction."""
    values, probabilities = recipe.values, recipe.probabilities
    if values.method == "none" and not probabilities.bits and correction is None:
        return None
    spec = None if values.method == "none" else values.spec()
    per: Literal["head", "token"] = "token" if values.per == "token" else "head"
    return QuantizedAttentionProduct(
        probabilities.bits, probabilities.range, spec, grid, m.arithmetic, value_per=per, correction=correction
    )


def score_operands(recipe: Recipe, before: ScoreOperands | None) -> ScoreOperands | None:
    """What queries and keys go through before their product: a rewrite's transform if there is one, then the recipe's quantizer.

    Parameters
    ----------
    recipe : Recipe
    before : ScoreOperands or None
        What a rewritten model has there.
    """
    plan = recipe.queries_keys
    quantized = None if plan.method == "none" else QuantizedScoreOperands(plan.spec(), plan.operands, plan.per)
    if isinstance(before, TransformedScoreOperands):
        return TransformedScoreOperands(before.transform, before.arithmetic, quantized)
    return quantized


def is_skipped(recipe: Recipe, name: str) -> bool:
    """Whether a linear stays in floating point, by its last name or its full one."""
    return name.rpartition(".")[2] in recipe.skip or name in recipe.skip


def table_names(architecture: Architecture) -> tuple[str, ...]:
    """What only imported folders have quantized beside linears: the embedding, and the head where it has a weight of its own."""
    return (architecture.embedding,) if architecture.head is None else (architecture.embedding, architecture.head.name)


def dense_linear(m: Transformer, name: str) -> DenseLinear:
    """A linear of a full-precision model, with the weight that it still has; InputError if it has been replaced."""
    linear = m.linears[name]
    if not isinstance(linear, DenseLinear):
        raise InputError(f"{name} is already quantized; start from the full-precision model")
    return linear
