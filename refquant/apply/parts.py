"""The parts of a recipe, one frozen dataclass each. A field's annotation says what it may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from msgspec import Meta

from refquant.core import QuantSpec, Tiling, find_scheme, spec
from refquant.core.block_formats import BLOCK_FORMATS
from refquant.errors import UsageError
from refquant.methods.compensate.gptq import PRESETS, QUIRKS

Bits = Annotated[int, Meta(ge=1, le=16)]
Count = Annotated[int, Meta(ge=1)]
GroupSize = Annotated[int, Meta(ge=-1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Step = Annotated[float, Meta(ge=1e-4, le=1)]  # finer ones would only make the list of candidates endless
Positive = Annotated[float, Meta(gt=0, le=1e6)]  # a bound far out keeps infinity away
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the linears' weights are quantized.

    Parameters
    ----------
    method : {"none", "rtn", "gptq"}
    bits, scheme, group_size, scale_format, clip_search, range_ratio
        As in :func:`refquant.spec`; group size -1 is a whole row; an empty scale format keeps float64.
    format : str
        Instead of integers of `bits` bits by `scheme`: a block format such as ``"mxfp4"`` or ``"nf4"``, which brings its block and scales,
        or another format such as ``"e4m3fn"``, on groups of `group_size` with scales of `scale_format`.
    damping, block_size, act_order, static_groups, compat
        As in :func:`refquant.gptq`.
    hessian_inputs : {"float", "quantized"}
        What the Hessian is made of: the inputs of a linear as they arrive, or after the activation quantizer.
    limits : {"none", "awq"}
        Clip each row and group of a weight to a limit found by AWQ's search before it is quantized.
    limit_steps, limit_shrink, limit_tokens
        As in :func:`refquant.methods.scale.limits.search_limits`.
    limit_skip : tuple of str
        Last names of linears that are not clipped; AWQ leaves queries and keys alone.
    limit_inputs : {"float", "quantized"}
        Inputs of the linears in the float model, as published, or behind what is already quantized.
    limit_weighted : bool
        Tokens count as ``[tokens]`` says; AWQ counts all alike.
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
    limits: Literal["none", "awq"] = "none"
    limit_steps: Count = 20
    limit_shrink: Share = 0.5
    limit_tokens: Count = 512
    limit_skip: tuple[str, ...] = ("q_proj", "k_proj")
    limit_inputs: Literal["float", "quantized"] = "float"
    limit_weighted: bool = False
    format: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.compat if name not in (*PRESETS, *QUIRKS)]
        if unknown:
            raise UsageError(f"unknown compat {unknown[0]!r}; known are {', '.join((*PRESETS, *QUIRKS))}")
        if self.limits != "none" and self.method == "none":
            raise UsageError("limits clip weights before they are quantized; method is 'none'")
        if int(self.limit_shrink * self.limit_steps) < 1:
            raise UsageError(f"limit_shrink {self.limit_shrink} of {self.limit_steps} limit_steps leaves no limit to try")
        self.spec()  # a scheme and a width that contradict each other raise here

    def spec(self) -> QuantSpec:
        """The spec of one weight ``[out, in]``.

        Raises
        ------
        UsageError
            If the fields contradict each other.
        """
        if self.format:
            return self._spec_of_format()
        return spec(
            f"int{self.bits}",
            group_size=self.group_size,
            scheme=find_scheme(self.scheme),
            scale_format=self.scale_format or None,
            mse=self.clip_search,
            range_ratio=self.range_ratio,
        )

    def _spec_of_format(self) -> QuantSpec:
        block = BLOCK_FORMATS.get(self.format)
        unused = ("bits", "scheme") if block is None else ("bits", "scheme", "group_size", "scale_format")
        usual = {entry.name: entry.default for entry in fields(Weights)}
        changed = [name for name in unused if getattr(self, name) != usual[name]]
        if changed:
            raise UsageError(f"format {self.format!r} stands for {', '.join(unused)}; leave out {', '.join(changed)}")
        if block is not None:
            return spec(self.format, mse=self.clip_search, range_ratio=self.range_ratio)
        return spec(
            self.format,
            group_size=self.group_size,
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
    routing : {"routed", "mixing"}
        In a mixture: a token counts in full with every expert that it is sent to, or times the square of its mixing weight.
    confidence : {"argmax", "final_token", "margin"}
        Whose probability s is: of the likeliest token, or of the token that ends up at that position.
    """

    weighting: Literal["uniform", "certainty"] = "uniform"
    power: Positive = 2.0
    visible_weight: NotNegative = 0.7
    masked_weight: NotNegative = 1.0
    visible_confidence: Literal["zero", "model", "one"] = "zero"
    confidence: Literal["argmax", "final_token", "margin"] = "argmax"
    routing: Literal["routed", "mixing"] = "routed"


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

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> QuantSpec:
        """The spec of inputs ``[tokens, features]``."""
        scheme = find_scheme(self.scheme)
        return spec(
            f"int{self.bits}",
            tiling=Tiling.tensor() if self.method == "static" else None,
            group_size=None if self.method == "static" else self.group_size,
            scheme=scheme,
            empty="unit_scale" if scheme.zero == "none" else None,
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
    alpha_step: Step = 0.01
    range_ratio: Share = 1.0
    calibrate: Literal["after_qkv", "before_qkv"] = "after_qkv"

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> QuantSpec:
        """The spec of values ``[kv_heads, tokens, head_dim]``: a scale a head, or a head and feature; dynamically, a scale a token."""
        static = Tiling((1, None, 1 if self.per == "feature" else None))
        tiling = Tiling.token(ndim=3) if self.method == "per_token" else static
        ratio = self.range_ratio if self.method == "per_token" else 1.0  # static ranges are what was calibrated; IA-AQ's shrink by alpha
        return spec(f"int{self.bits}", tiling=tiling, scheme=find_scheme(self.scheme), scale_format="float32", range_ratio=ratio)

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
class QueriesKeys:
    """How rotated queries and keys are quantized before their product, at run time.

    Parameters
    ----------
    method : {"none", "per_token"}
        At run time, with a scale for what `per` says, or not. DLLMQuant does not describe this product; leaving it alone is the default,
        quantizing both operands is what DuQuant does.
    operands : {"both", "keys"}
        QuaRot quantizes keys alone, as a cache would hold them.
    per : {"head", "token"}
        A scale a head and token, or, as in the QDLM study's runs of QuaRot, one for all heads of a token.
    bits, scheme, range_ratio
        As in :func:`refquant.spec`.
    """

    method: Literal["none", "per_token"] = "none"
    operands: Literal["both", "keys"] = "both"
    per: Literal["head", "token"] = "head"
    bits: Bits = 8
    scheme: str = "sym_full"
    range_ratio: Share = 1.0

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> QuantSpec:
        """The spec of one operand ``[tokens, head_dim]``."""
        scheme = find_scheme(self.scheme)
        return spec(
            f"int{self.bits}",
            tiling=Tiling.token(),
            scheme=scheme,
            empty="unit_scale" if scheme.zero == "none" else None,
            range_ratio=self.range_ratio,
        )


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
    min_expert_tokens : int
        An expert that fewer calibration tokens are routed to is refused.
    min_distinct : float
        A rollout whose committed response has a smaller share of distinct tokens is rejected, and counted.
    """

    states: Literal["none", "clean", "iid", "rollout", "tmas"] = "iid"
    samples: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    prompts: Count = 32
    gen_length: Count = 64
    block_length: Count = 16
    tokens_per_step: Count = 1
    temperature: NotNegative = 0.0
    proportions: tuple[NotNegative, ...] = (0.3, 0.2, 0.2, 0.3)
    bins: Literal["time", "mask_ratio", "block_ratio"] = "time"
    joint: bool = False
    min_expert_tokens: Count = 32
    min_distinct: Annotated[float, Meta(ge=0, le=1)] = 0.1

    def __post_init__(self) -> None:
        if self.tokens_per_step < 1 or self.block_length % self.tokens_per_step:
            raise UsageError(f"block_length {self.block_length} is no multiple of tokens_per_step {self.tokens_per_step}")
        if self.block_length < 1 or self.gen_length % self.block_length:
            raise UsageError(f"gen_length {self.gen_length} is no multiple of block_length {self.block_length}")
        if not any(self.proportions):
            raise UsageError(f"proportions are not all 0; got {self.proportions}")


Part = Weights | Tokens | Activations | Values | QueriesKeys | Probabilities | Calibration
