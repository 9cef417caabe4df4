"""A model's architecture as plain data: what its parts are called, how large they are, and which of the known operations join them.

Every family of checkpoints (LLaDA, Dream, LLaDA-MoE, LLaDA2) describes itself as one :class:`Architecture`; the forward pass reads
nothing else, so there is one forward pass and no family in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormPlan:
    """A norm over runs of `width` features: all of them, or a head's."""

    name: str
    kind: str  # rms, gemma_rms, default, low_precision
    width: int
    eps: float
    gain: bool
    bias: bool

    def tensors(self) -> Shapes:
        """Names and shapes of what a checkpoint holds of it."""
        if self.gain:
            yield self.name + ".weight", (self.width,)
        if self.bias:
            yield self.name + ".bias", (self.width,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPlan:
    """A matrix product; the weight is stored ``(out, into)``."""

    name: str
    out: int
    into: int
    bias: bool = False

    def tensors(self) -> Shapes:
        """Names and shapes of what a checkpoint holds of it."""
        yield self.name + ".weight", (self.out, self.into)
        if self.bias:
            yield self.name + ".bias", (self.out,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpPlan:
    """``down(activation(gate) * up)``, or without `up` where `gate_up` holds one linear."""

    gate_up: tuple[LinearPlan, ...]
    down: LinearPlan
    activation: str

    @property
    def linears(self) -> tuple[LinearPlan, ...]:
        """All of them, in the order of execution."""
        return (*self.gate_up, self.down)

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Names of the linears, those that share an input together."""
        return [tuple(linear.name for linear in self.gate_up), (self.down.name,)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterPlan:
    """Who decides which experts a token goes to; see :func:`model.routing.route`."""

    weight: str  # tensor, [experts, d]
    bias: str | None  # tensor, [experts]
    experts: int
    width: int  # d
    top_k: int
    score: Literal["softmax", "sigmoid"]
    bias_enters_weights: bool  # or only the choice
    normalize: bool  # the chosen weights to a sum of one
    scale: float = 1.0
    groups: int = 1
    kept_groups: int = 1

    def tensors(self) -> Shapes:
        """Names and shapes of what a checkpoint holds of it."""
        yield self.weight, (self.experts, self.width)
        if self.bias is not None:
            yield self.bias, (self.experts,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsPlan:
    """A router, its experts, and an MLP that every token goes through besides."""

    router: RouterPlan
    experts: tuple[MlpPlan, ...]
    shared: MlpPlan | None

    @property
    def linears(self) -> tuple[LinearPlan, ...]:
        """All of them, in the order of execution; the router is not one."""
        return tuple(linear for mlp in self._mlps for linear in mlp.linears)

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Names of the linears, those that share an input together."""
        return [group for mlp in self._mlps for group in mlp.groups]

    @property
    def _mlps(self) -> tuple[MlpPlan, ...]:
        return (*self.experts, *([] if self.shared is None else [self.shared]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """One block: norm, attention, norm, MLP."""

    attn_norm: NormPlan
    qkv: tuple[LinearPlan, ...]  # one fused projection (all query heads, all key heads, all value heads), or three
    q_norm: NormPlan | None
    k_norm: NormPlan | None
    attn_out: LinearPlan
    ff_norm: NormPlan
    mlp: MlpPlan | ExpertsPlan

    @property
    def linears(self) -> tuple[LinearPlan, ...]:
        """All of them, in the order of execution."""
        return (*self.qkv, self.attn_out, *self.mlp.linears)

    @property
    def linear_groups(self) -> list[tuple[str, ...]]:
        """Names of the linears in causal order, those that share an input together."""
        return [tuple(linear.name for linear in self.qkv), (self.attn_out.name,), *self.mlp.groups]

    def tensors(self) -> Shapes:
        """Names and shapes of everything that a checkpoint holds of this block, roughly in the order of execution."""
        yield from self.attn_norm.tensors()
        for linear in self.qkv:
            yield from linear.tensors()
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                yield from norm.tensors()
        yield from self.attn_out.tensors()
        yield from self.ff_norm.tensors()
        if isinstance(self.mlp, ExpertsPlan):
            yield from self.mlp.router.tensors()
        for linear in self.mlp.linears:
            yield from linear.tensors()


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A whole model."""

    family: str
    width: int  # d
    rows: int  # of the embedding, columns of the logits
    n_heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int  # the first features of each head that turn; the others pass
    rope_theta: float
    embedding: str
    blocks: tuple[BlockPlan, ...]
    final_norm: NormPlan
    head: LinearPlan | None  # None where the embedding is the head
    clip_qkv: float | None = None
    embedding_scale: float | None = None
    logit_scale: float | None = None
    states_every: int = 1  # blocks between two entries of hidden_states()
    masking: Literal["keys", "pairs", "allowed"] = "keys"  # see model.visibility
    takes_positions: bool = True
    shift: int = 0  # logits at position j are of the token at j + shift

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a checkpoint holds, with its shape, in the order of the forward pass."""
        shapes: dict[str, tuple[int, ...]] = {self.embedding + ".weight": (self.rows, self.width)}
        for block in self.blocks:
            shapes.update(block.tensors())
        shapes.update(self.final_norm.tensors())
        if self.head is not None:
            shapes.update(self.head.tensors())
        return shapes


class ModelConfig(Protocol):
    """What all families' configs share; each has its own keys besides, under their own names."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def n_layers(self) -> int:
        """Number of blocks."""

    @property
    def n_heads(self) -> int:
        """Query heads."""

    @property
    def kv_heads(self) -> int:
        """Key-value heads."""

    @property
    def head_dim(self) -> int:
        """Width of one head."""

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and columns of the logits."""

    @property
    def mask_token_id(self) -> int | None:
        """The mask."""

    @property
    def eos_token_id(self) -> int | None:
        """End of text."""

    def architecture(self) -> Architecture:
        """Describe the model as the forward pass reads it."""
