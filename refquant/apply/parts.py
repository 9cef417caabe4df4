"""The parts of a recipe, one frozen dataclass each. A field's annotation says what it may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from refquant.apply.weight_parts import Bits, Count, GroupSize, NotNegative, Positive, Share, Weights
from refquant.core import QuantSpec, Tiling, find_scheme, spec
from refquant.errors import UsageError
from refquant.methods.activation.log2_softmax import MOST_BITS as MOST_LOG2_BITS
from refquant.methods.codebook.lloyd_max import MOST_BITS as MOST_CODEBOOK_BITS
from refquant.methods.codebook.lloyd_max import lloyd_max_spec

Step = Annotated[float, Meta(ge=1e-4, le=1)]  # finer ones would only make the list of candidates endless


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How much each calibration token counts in a Hessian.

    Parameters
    ----------
    weighting : {"uniform", "certainty", "fair_adaptation"}
        All alike, CGQ's weights, or weights after FAIR-Calib: what is about to be committed counts more.
    power, visible_weight, masked_weight, visible_confidence
        As in :func:`refquant.certainty_weights`; `masked_weight` also stands before FAIR's reliability of masked tokens.
    frontier, frontier_weight, early_boost, floor, normalize
        As in :func:`refquant.methods.diffusion.fair_weights.fair_weights`.
    routing : {"routed", "mixing"}
        In a mixture: a token counts in full with every expert that it is sent to, or times the square of its mixing weight.
    confidence : {"argmax", "final_token", "margin"}
        Whose probability s is: of the likeliest token, or of the token that ends up at that position.
    """

    weighting: Literal["uniform", "certainty", "fair_adaptation"] = "uniform"
    power: Positive = 2.0
    visible_weight: NotNegative = 0.7
    masked_weight: NotNegative = 1.0
    visible_confidence: Literal["zero", "model", "one"] = "zero"
    confidence: Literal["argmax", "final_token", "margin"] = "argmax"
    routing: Literal["routed", "mixing"] = "routed"
    frontier: Count = 1
    frontier_weight: NotNegative = 1.0
    early_boost: NotNegative = 1.0
    floor: NotNegative = 0.1
    normalize: Literal["mean", "max", "none"] = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """How the linears' inputs are quantized at run time.

    Parameters
    ----------
    method : {"none", "per_token", "static", "lloyd_max"}
        Not; a scale a token (and group), at run time; one calibrated scale a linear; at run time, a Lloyd-Max code of the normal
        distribution on root mean squares, which `scheme` and `range_ratio` have no part in.
    bits, scheme, group_size, range_ratio
        As in :func:`refquant.spec`. Symmetric schemes use scale 1 for an all-zero token.
    scale_correction : bool
        Of ``lloyd_max``: whether a token's scale makes it unbiased along itself.
    """

    method: Literal["none", "per_token", "static", "lloyd_max"] = "none"
    bits: Bits = 8
    scheme: str = "sym_full"
    group_size: GroupSize = -1
    range_ratio: Share = 1.0
    scale_correction: bool = True

    def __post_init__(self) -> None:
        if self.method == "lloyd_max" and (self.scheme != "sym_full" or self.range_ratio != 1 or self.bits > MOST_CODEBOOK_BITS):
            raise UsageError(f"lloyd_max has a scale of its own and at most {MOST_CODEBOOK_BITS} bits; leave out scheme and range_ratio")
        self.spec()

    def spec(self) -> QuantSpec:
        """The spec of inputs ``[tokens, features]``."""
        if self.method == "lloyd_max":
            return lloyd_max_spec(self.bits, self.group_size)
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
        Options of :func:`refquant.ia_aq`; `rows` is ``"all"`` or ``"masked"`` queries. Under ``per_token``, `per` is ``"head"``, a scale a
        head and token, or ``"token"``, one for all heads of a token, as in the QDLM study's runs of QuaRot.
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
    per: Literal["head", "feature", "token"] = "head"
    gram: Literal["exact", "mass"] = "exact"
    rows: Literal["all", "masked"] = "all"
    lowest_alpha: Share = 0.8
    alpha_step: Step = 0.01
    range_ratio: Share = 1.0
    calibrate: Literal["after_qkv", "before_qkv"] = "after_qkv"

    def __post_init__(self) -> None:
        if self.per == "token" and self.method in ("minmax", "ia_aq"):
            raise UsageError(f"per 'token' is for scales at run time (per_token); method {self.method!r} has static ones")
        if self.per == "feature" and self.method == "per_token":
            raise UsageError("per 'feature' is for static scales; under per_token a scale belongs to a token")
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
    range : {"unit", "row_max", "log2", "log2_power"}
        A uniform grid on [0, 1] or up to each row's maximum; powers of two, whose last code is 0, or, in ``log2_power``, one more power.
    """

    bits: Annotated[int, Meta(ge=0, le=16)] = 0
    range: Literal["unit", "row_max", "log2", "log2_power"] = "unit"

    def __post_init__(self) -> None:
        if self.range.startswith("log2") and self.bits > MOST_LOG2_BITS:
            raise UsageError(f"powers of two take at most {MOST_LOG2_BITS} bits, not {self.bits}")


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
class AttentionOutput:
    """What happens to the attention's output before its projection.

    Parameters
    ----------
    method : {"none", "tac"}
        Nothing, or TAC: an affine map, calibrated so that mean and covariance are again those of the float model.
    block, damping, shrinkage
        As in :func:`refquant.methods.activation.tac.tac`; `block` divides the output's channels.
    """

    method: Literal["none", "tac"] = "none"
    block: Count = 16
    damping: NotNegative = 0.01
    shrinkage: Annotated[float, Meta(ge=0, le=1)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Which states of which sequences the statistics are taken from.

    Parameters
    ----------
    states : {"none", "clean", "iid", "ratio_grid", "rollout", "tmas", "stored"}
        No calibration; fully visible text; masks drawn independently at a uniform ratio; at ratios 1/N, 2/N, ..., 1 behind a visible
        beginning (Quant-dLLM's MCS); states of rollouts drawn uniformly; TMAS; states that the calibration file holds as they are, for
        models whose rollouts were made elsewhere.
    samples : int
        Number of sequences; of stored states, the first so many.
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
    visible_share : float
        Of ``ratio_grid``: the share of a sequence at its beginning that is never masked.
    min_distinct : float
        A rollout whose committed response has a smaller share of distinct tokens is rejected, and counted.
    """

    states: Literal["none", "clean", "iid", "ratio_grid", "rollout", "tmas", "stored"] = "iid"
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
    visible_share: Annotated[float, Meta(ge=0, le=1)] = 0.25

    def __post_init__(self) -> None:
        if self.tokens_per_step < 1 or self.block_length % self.tokens_per_step:
            raise UsageError(f"block_length {self.block_length} is no multiple of tokens_per_step {self.tokens_per_step}")
        if self.block_length < 1 or self.gen_length % self.block_length:
            raise UsageError(f"gen_length {self.gen_length} is no multiple of block_length {self.block_length}")
        if not any(self.proportions):
            raise UsageError(f"proportions are not all 0; got {self.proportions}")


Part = Weights | Tokens | Activations | Values | QueriesKeys | Probabilities | AttentionOutput | Calibration

__all__ = ["Activations", "AttentionOutput", "Calibration", "Part", "Probabilities", "QueriesKeys", "Tokens", "Values", "Weights"]
