"""The forward pass, the only one: logits, hidden states and calibration all go through :meth:`Transformer.block`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from model import border, ops
from model.architecture import BlockPlan, ExpertsPlan, LinearPlan, MlpPlan, ModelConfig, NormPlan
from model.attention import AttentionContext, mix_values
from model.layers import AttentionProduct, DenseAttentionProduct, DenseLinear, Linear, Norm, ScoreOperands
from model.routing import route
from model.streaming import StreamedTensors, count, gather
from model.taps import Observer, show
from model.visibility import read_mask, read_positions
from refquant.errors import InputError, UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only


@dataclass(frozen=True, slots=True)
class _Block:
    plan: BlockPlan
    attn_norm: Norm
    ff_norm: Norm
    q_norm: Norm | None
    k_norm: Norm | None


class Transformer:
    """A masked diffusion model of any family: parameters, and the functions over them.

    Get one from :func:`model.load`, :func:`model.embedded` or :func:`model.build`. Parameters are read-only; :meth:`replace` makes a
    new model with other linears or attention products in it.

    Attributes
    ----------
    config : Config, or that of another family
        What all have in common is in :class:`~model.architecture.ModelConfig`.
    architecture : Architecture
        What the config comes to.
    dtype : dtype
        float32 or float64: of every parameter, activation and table.
    arithmetic : Arithmetic
    parameters : mapping of str to ndarray
        Every stored tensor, by its name in the checkpoint. Of a streamed model each look-up reads it again.
    linears : mapping of str to Linear
        The linears of all blocks in causal order, by module name (a tensor's name without ``.weight``); every expert's are among them.
        Not among them are the embedding, the head, although LLaDA's, too, is called ``ff_out``, and the routers.
    score_operands : tuple of ScoreOperands or None
        One a block: what queries and keys go through before their product; None leaves them alone.
    attention_products : tuple of AttentionProduct
        One a block.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Mapping[str, Array],
        linears: Mapping[str, Linear],
        head: Linear,
        dtype: np.dtype[Any],
        arithmetic: Arithmetic,
        attention_products: tuple[AttentionProduct, ...] | None = None,
        score_operands: tuple[ScoreOperands | None, ...] | None = None,
    ) -> None:
        self.config = config
        self.architecture = config.architecture()
        self.dtype = dtype
        self.arithmetic = arithmetic
        streamed = isinstance(parameters, StreamedTensors)
        self.parameters: Mapping[str, Array] = parameters if streamed else MappingProxyType(dict(parameters))
        self.linears = MappingProxyType(dict(linears))
        self.attention_products = attention_products or (DenseAttentionProduct(arithmetic),) * config.n_layers
        self.score_operands = score_operands or (None,) * config.n_layers
        self._head = head
        self._final_norm = self._norm(self.architecture.final_norm)
        self._blocks = None if streamed else [self._read_block(plan) for plan in self.architecture.blocks]

    def _norm(self, plan: NormPlan) -> Norm:
        weight = self.parameters[plan.name + ".weight"] if plan.gain else None
        bias = self.parameters[plan.name + ".bias"] if plan.bias else None
        return Norm.build(plan.kind, plan.width, weight, bias, plan.eps)

    def _read_block(self, plan: BlockPlan) -> _Block:
        q_norm = None if plan.q_norm is None else self._norm(plan.q_norm)
        k_norm = None if plan.k_norm is None else self._norm(plan.k_norm)
        return _Block(plan, self._norm(plan.attn_norm), self._norm(plan.ff_norm), q_norm, k_norm)

    def _part(self, index: int) -> _Block:
        return self._read_block(self.architecture.blocks[index]) if self._blocks is None else self._blocks[index]

    # The forward pass, from the outside in.

    def logits(self, input_ids: Any, attention_mask: Any = None, observer: Observer | None = None, position_ids: Any = None) -> Array:
        """Scores of every token at every position, as the network gives them: Dream's are of the *next* position's token, and only
        :func:`model.aligned` moves them.

        Parameters
        ----------
        input_ids : array_like of integers [B, T]
            Mask tokens included; T may exceed ``max_sequence_length``.
        attention_mask : array_like of 0 and 1 [B, T], optional
            LLaDA: 0 hides a position from all others *as a key*. Padded positions still get ordinary logits, and positions are counted
            from 0 in every row, left padding included. What other families make of it, and the forms they take: :mod:`model.visibility`.
        observer : callable(name, array), optional
            See :mod:`model.taps`.
        position_ids : array_like of integers [B, T], optional
            Where tokens stand, instead of what the family makes of the mask. LLaDA takes none.

        Returns
        -------
        ndarray [B, T, embedding rows]
            Nothing cuts the columns beyond ``vocab_size`` off.

        Raises
        ------
        InputError
            If ids are out of range or a shape, dtype or mask value is wrong.
        """
        x, context = self._enter(input_ids, attention_mask, position_ids)
        for index in range(self.config.n_layers):
            x = self.block(index, x, context, observer)  # [B, T, d]
        return self.head(x, observer)

    def hidden_states(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> list[Array]:
        """Input of each block (with block groups: of each group), then the residual stream after the final norm, all [B, T, d].

        The output of the last block *before* the final norm is not in the list, as in the public code.
        """
        x, context = self._enter(input_ids, attention_mask, position_ids)
        states = []
        for index in range(self.config.n_layers):
            if index % self.architecture.states_every == 0:
                states.append(x)
            x = self.block(index, x, context)
        return [*states, self._final_norm(x, self.arithmetic)]

    def _enter(self, input_ids: Any, attention_mask: Any, position_ids: Any) -> tuple[Array, AttentionContext]:
        x = self.embed(input_ids)
        return x, self.context(x.shape[0], x.shape[1], attention_mask, position_ids)

    def embed(self, input_ids: Any) -> Array:
        """Look token ids [B, T] up: [B, T, d]. Positions enter through :meth:`context` only."""
        x = gather(self.parameters, self.architecture.embedding + ".weight", border.token_ids(input_ids, self.config.embedding_rows))
        if self.architecture.embedding_scale is not None:
            x *= self.architecture.embedding_scale
        return x

    def context(self, batch: int, length: int, attention_mask: Any = None, position_ids: Any = None) -> AttentionContext:
        """Rotary tables for `length` positions, and what the attention mask adds to scores; parameters as in :meth:`logits`."""
        shape = self.architecture
        seen = read_mask(attention_mask, shape.masking, batch, length, self.dtype)
        positions = np.arange(length) if seen.positions is None else seen.positions
        if position_ids is not None:
            if not shape.takes_positions:
                raise InputError(f"position_ids is given to a {shape.family} model; allowed: none, its positions are 0, 1, 2, ...")
            positions = read_positions(position_ids, batch, length)
        cos, sin = ops.rope_at(positions, shape.rotary_dim, shape.rope_theta, self.dtype, self.arithmetic)
        return AttentionContext(*ops.rope_rows(cos, sin, shape.n_heads), seen.bias, seen.sighted)

    def block(self, index: int, x: Array, context: AttentionContext, observer: Observer | None = None) -> Array:
        """One block: [B, T, d] in and out. `x` is not written to."""
        show(observer, f"blocks.{index}.input", x)
        part = self._part(index)
        attended = self._attention(index, part, part.attn_norm(x, self.arithmetic), context, observer)
        attended += x
        attended += self._mlp(index, part.plan.mlp, part.ff_norm(attended, self.arithmetic), observer)
        return attended

    def head(self, x: Array, observer: Observer | None = None) -> Array:
        """Final norm and output projection: residual stream [B, T, d] to logits [B, T, embedding rows]."""
        x = self._final_norm(x, self.arithmetic)
        show(observer, "head.input", x)
        logits = self._head(x)
        if self.architecture.logit_scale is not None:
            logits *= self.architecture.logit_scale
        return logits

    def attention(self, index: int, x: Array, context: AttentionContext, observer: Observer | None = None) -> Array:
        """Attention of one block from the output of its norm, before the residual sum: [B, T, d] in and out."""
        return self._attention(index, self._part(index), x, context, observer)

    def mlp(self, index: int, x: Array, observer: Observer | None = None) -> Array:
        """MLP of one block from the output of its norm, before the residual sum: [B, T, d] in and out."""
        return self._mlp(index, self.architecture.blocks[index].mlp, x, observer)

    def _attention(self, index: int, part: _Block, x: Array, context: AttentionContext, observer: Observer | None) -> Array:
        head_dim, rotary = self.architecture.head_dim, self.architecture.rotary_dim
        q, k, v = self._project_qkv(part, x, observer)
        q = ops.split_heads(ops.rotate_heads(q, context.cos, context.sin, head_dim, rotary), head_dim)  # [B, H, T, h]
        k = ops.split_heads(ops.rotate_heads(k, context.cos, context.sin, head_dim, rotary), head_dim)  # [B, K, T, h]
        v = ops.split_heads(v, head_dim)  # [B, K, T, h]
        for name, array in (("q", q), ("k", k), ("v", v)):
            show(observer, f"blocks.{index}.{name}", array)
        prepare = self.score_operands[index]
        if prepare is not None:
            q, k = prepare(q, k)
        mixed = mix_values(q, k, v, context, self.attention_products[index], self.arithmetic, observer, f"blocks.{index}.probabilities")
        return self._apply(part.plan.attn_out, mixed, observer)

    def _project_qkv(self, part: _Block, x: Array, observer: Observer | None) -> tuple[Array, Array, Array]:
        projected = [self._apply(linear, x, observer) for linear in part.plan.qkv]
        if len(projected) == 1:  # [B, T, (H + 2 K) h], query first
            end_q = self.architecture.n_heads * self.architecture.head_dim
            end_k = end_q + self.architecture.kv_heads * self.architecture.head_dim
            fused = projected[0]
            projected = [fused[..., :end_q], fused[..., end_q:end_k], fused[..., end_k:]]
        q, k, v = projected
        if part.q_norm is not None and part.k_norm is not None:
            q, k = part.q_norm.by_runs(q, self.arithmetic), part.k_norm.by_runs(k, self.arithmetic)
        clip = self.architecture.clip_qkv
        return (q, k, v) if clip is None else (np.clip(q, -clip, clip), np.clip(k, -clip, clip), np.clip(v, -clip, clip))

    def _mlp(self, index: int, plan: MlpPlan | ExpertsPlan, x: Array, observer: Observer | None) -> Array:
        return self._experts(index, plan, x, observer) if isinstance(plan, ExpertsPlan) else self._dense(plan, x, observer)

    def _dense(self, plan: MlpPlan, x: Array, observer: Observer | None) -> Array:
        gate, *up = (self._apply(linear, x, observer) for linear in plan.gate_up)  # [..., m]
        hidden = ops.gated(plan.activation, gate, up[0] if up else None, self.arithmetic)  # [..., m], or m / 2 with swiglu
        return self._apply(plan.down, hidden, observer)

    def _experts(self, index: int, plan: ExpertsPlan, x: Array, observer: Observer | None) -> Array:
        flat = x.reshape(-1, x.shape[-1])  # [N, d]
        router = plan.router
        show(observer, f"blocks.{index}.mixture", x)
        scores = self.arithmetic.matmul(flat, self.parameters[router.weight].T)  # [N, E]
        chosen, weights = route(scores, router, None if router.bias is None else self.parameters[router.bias], self.arithmetic)
        for name, array in (("routing", chosen), ("routing_weights", weights)):
            show(observer, f"blocks.{index}.{name}", array.reshape(*x.shape[:-1], -1))  # [B, T, k]
        mixed = np.zeros_like(flat)
        for expert, mlp in enumerate(plan.experts):
            tokens, slots = np.nonzero(chosen == expert)  # a token goes to an expert once at most
            mixed[tokens] += self._dense(mlp, flat[tokens], observer) * weights[tokens, slots, None]
        if plan.shared is not None:
            mixed += self._dense(plan.shared, flat, observer)
        return mixed.reshape(x.shape)

    def _apply(self, plan: LinearPlan, x: Array, observer: Observer | None) -> Array:
        show(observer, plan.name + ".input", x)
        if not x.size:  # an expert that no token goes to: its weights are not touched
            return np.zeros((*x.shape[:-1], plan.out), dtype=self.dtype)
        return self.linears[plan.name](x)

    # What calibration and quantization need.

    def linear_groups(self, index: int) -> list[tuple[str, ...]]:
        """Names of the linears of block `index` in causal order, those that share an input together; a mixture's experts one by one."""
        return self.architecture.blocks[index].linear_groups

    def replace(
        self,
        linears: Mapping[str, Linear] | None = None,
        attention_products: Mapping[int, AttentionProduct] | None = None,
        score_operands: Mapping[int, ScoreOperands] | None = None,
        parameters: Mapping[str, Array] | None = None,
    ) -> Transformer:
        """Return a new model with other linears, attention products or parameters in it, sharing everything else.

        Parameters
        ----------
        linears : mapping of str to Linear, optional
            By the keys of :attr:`linears`.
        attention_products : mapping of int to AttentionProduct, optional
            By block index.
        score_operands : mapping of int to ScoreOperands, optional
            By block index: what is done to queries and keys before their product.
        parameters : mapping of str to ndarray, optional
            By the keys of :attr:`parameters`, in their shapes and dtype. Linears whose weight or bias is among them become dense ones of
            them, unless `linears` names them.

        Raises
        ------
        UsageError
            If a name or an index does not exist in this model, a parameter has another shape or dtype, or the model is streamed and a
            parameter is to be replaced.
        """
        linears, attention_products, operands = dict(linears or {}), dict(attention_products or {}), dict(score_operands or {})
        tensors, head = self._with_parameters(dict(parameters or {}), linears)
        for name in linears:
            if name not in self.linears:
                raise UsageError(f"there is no linear {name!r} to replace; allowed: {', '.join(list(self.linears)[:7])}, ...")
        for index in (*attention_products, *operands):
            if index not in range(self.config.n_layers):
                last = self.config.n_layers - 1
                raise UsageError(f"there is no block {index!r} to replace the attention of; allowed: 0 to {last}")
        return Transformer(
            self.config,
            tensors,
            {**self.linears, **linears},
            head,
            self.dtype,
            self.arithmetic,
            tuple(attention_products.get(index, old) for index, old in enumerate(self.attention_products)),
            tuple(operands.get(index, old) for index, old in enumerate(self.score_operands)),
        )

    def _with_parameters(self, changed: dict[str, Array], linears: dict[str, Linear]) -> tuple[Mapping[str, Array], Linear]:
        """All parameters and the head after a change; the dense linears that it makes are added to `linears`."""
        if not changed:
            return self.parameters, self._head
        if isinstance(self.parameters, StreamedTensors):
            raise UsageError("the parameters of a streamed model are read from its files; load the model into memory to replace them")
        for name, array in changed.items():
            if name not in self.parameters:
                raise UsageError(f"there is no parameter {name!r} to replace; allowed: {', '.join(list(self.parameters)[:4])}, ...")
            old = self.parameters[name]
            if (array.shape, array.dtype) != (old.shape, old.dtype):
                raise UsageError(f"{name} is {old.dtype} {old.shape} in this model; replaced by {array.dtype} {array.shape}")
        tensors = {**self.parameters, **{name: read_only(array) for name, array in changed.items()}}
        untied = self.architecture.head
        head_name = self.architecture.embedding if untied is None else untied.name
        touched = {name.rpartition(".")[0] for name in changed}
        for name in touched & ({*self.linears, head_name} - set(linears)):
            dense = DenseLinear(tensors[name + ".weight"], tensors.get(name + ".bias"), self.arithmetic)
            if name != self.architecture.embedding:
                tensors[name + ".weight"] = dense.weight  # held once, in the layer's own memory
            linears[name] = dense
        return tensors, linears.pop(head_name, self._head)

    def __repr__(self) -> str:
        kept = "streamed, " if isinstance(self.parameters, StreamedTensors) else ""
        sizes = f"{self.config.n_layers} blocks, width {self.config.d_model}, {count(self.parameters):,} parameters"
        return f"Transformer({sizes}, {kept}{self.dtype})"
