"""How a recipe quantizes weights, and the types that fields of recipes share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from msgspec import Meta

from refquant.core import QuantSpec, find_scheme, spec
from refquant.core.binary_tensor import MOST_ORDERS
from refquant.core.block_formats import named_block
from refquant.errors import UsageError
from refquant.methods.codebook.lloyd_max import MOST_BITS, lloyd_max_spec
from refquant.methods.compensate.gptq_inputs import PRESETS, QUIRKS, quirks_of
from refquant.numerics import Arithmetic

Bits = Annotated[int, Meta(ge=1, le=16)]
Count = Annotated[int, Meta(ge=1)]
GroupSize = Annotated[int, Meta(ge=-1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]  # a bound far out keeps infinity away
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
WITH_HESSIAN = ("gptq", "dash_q", "quant_dllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the linears' weights are quantized.

    Parameters
    ----------
    method : {"none", "rtn", "gptq", "dash_q", "quant_dllm", "lloyd_max", "imported"}
        ``quant_dllm`` makes sums of `bits` scaled signs, `group_size` columns a block; ``lloyd_max`` codes with a codebook fitted to the
        normal distribution. Neither has a scheme. ``imported`` is what other programs made, each weight by a spec of its own, the embedding
        and the head perhaps among them: it describes a folder, nothing is quantized by it, and it has no other field.
    bits, scheme, group_size, scale_format, clip_search, range_ratio
        As in :func:`refquant.spec`; group size -1 is a whole row; an empty scale format keeps float64.
    format : str
        Instead of integers of `bits` bits by `scheme`: a block format such as ``"mxfp4"`` or ``"nf4@128"``, which brings its block and
        scales, or another format such as ``"e4m3fn"``, on groups of `group_size` with scales of `scale_format`.
    damping, block_size, act_order, static_groups, compat
        As in :func:`refquant.gptq`.
    steps : int
        Turns of ``dash_q`` and ``quant_dllm``.
    mixed_ratio : float
        Of ``quant_dllm``: share of the blocks that get a sign more, and as many a sign less; only around 2 bits.
    emphasis, deviations, saliency
        As in :func:`refquant.methods.binary.quant_dllm.quant_dllm`.
    scale_correction : bool
        Of ``lloyd_max``: whether a group's scale makes it unbiased along itself.
    working : {"float64", "float32"}
        Of ``gptq``: what statistics are collected and codes are decided in. float32 is for speed, in the fast lane alone.
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

    method: Literal["none", "rtn", "gptq", "dash_q", "quant_dllm", "lloyd_max", "imported"] = "gptq"
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
    steps: Annotated[int, Meta(ge=0)] = 15
    mixed_ratio: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    emphasis: Positive = 2.0
    deviations: NotNegative = 3.0
    saliency: Literal["inverse", "factor"] = "inverse"
    scale_correction: bool = True
    working: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        unknown = [name for name in self.compat if name not in (*PRESETS, *QUIRKS)]
        if unknown:
            raise UsageError(f"unknown compat {unknown[0]!r}; known are {', '.join((*PRESETS, *QUIRKS))}")
        if self.limits != "none" and self.method == "none":
            raise UsageError("limits clip weights before they are quantized; method is 'none'")
        if int(self.limit_shrink * self.limit_steps) < 1:
            raise UsageError(f"limit_shrink {self.limit_shrink} of {self.limit_steps} limit_steps leaves no limit to try")
        if self.working == "float32" and (self.method != "gptq" or "lazy_groups" in quirks_of(self.compat)):
            raise UsageError("working = 'float32' is for method 'gptq' without lazy_groups; everything else computes in float64")
        if self.method in ("quant_dllm", "lloyd_max"):
            self._check_own_codes()
        if self.method == "imported":
            changed = [entry.name for entry in fields(Weights) if entry.name != "method" and getattr(self, entry.name) != entry.default]
            if changed:
                raise UsageError(f"weights of method 'imported' each have a spec of their own; leave out {', '.join(changed)}")
            return
        self.spec()  # a scheme and a width that contradict each other raise here

    def _check_own_codes(self) -> None:
        usual = {entry.name: entry.default for entry in fields(Weights)}
        changed = [name for name in ("scheme", "format", "clip_search", "range_ratio") if getattr(self, name) != usual[name]]
        if changed:
            raise UsageError(f"weights of method {self.method!r} have codes of their own; leave out {', '.join(changed)}")
        if self.limits != "none":
            raise UsageError(f"limits clip to a grid of integers, which method {self.method!r} does not have")
        most = MOST_ORDERS if self.method == "quant_dllm" else MOST_BITS
        if self.bits > most or (self.method == "quant_dllm" and self.mixed_ratio and self.bits != 2):
            raise UsageError(f"method {self.method!r} has 1 to {most} bits, and 2 with a mixed_ratio above 0; got {self.bits}")
        if self.method == "quant_dllm" and self.group_size < 1:
            raise UsageError(f"quant_dllm takes blocks of group_size columns, at least 1, not {self.group_size}")

    def check_lane(self, arithmetic: Arithmetic) -> None:
        """Raise UsageError if an arithmetic promises its bits and the weights ask for float32."""
        if self.working == "float32" and not arithmetic.regroups:
            raise UsageError(f"weights.working is 'float32', which is for speed; allowed in the {arithmetic.name} lane: 'float64'")

    @property
    def looks_at_hessian(self) -> bool:
        """Whether the method needs calibration statistics of the linears' inputs."""
        return self.method in WITH_HESSIAN

    def spec(self) -> QuantSpec:
        """The spec of one weight ``[out, in]``; for ``quant_dllm``, which has none, that of RTN with as many bits and groups.

        Raises
        ------
        UsageError
            If the fields contradict each other, or the method is ``imported``.
        """
        if self.method == "imported":
            raise UsageError("weights of method 'imported' say what another program made; nothing can be quantized by such a recipe")
        if self.method == "lloyd_max":
            return lloyd_max_spec(self.bits, self.group_size, self.scale_format or None)
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
        block = named_block(self.format)
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
