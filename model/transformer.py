"""The forward pass, the only one: logits, hidden states and calibration all go through :meth:`Transformer.block`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from model import border, ops
from model.config import Config
from model.layers import AttentionProduct, DenseAttentionProduct, Linear, Norm
from model.names import EMBEDDING, FINAL_NORM, BlockNames, block_names
from model.taps import Observer, show
from refquant.errors import UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """What all blocks of one forward pass share: rotary tables and the bias on keys."""

    cos: Array  # [1, T, d], see ops.rope_rows
    sin: Array  # [1, T, d]
    key_bias: Array | None  # [B, 1, 1, T]


@dataclass(frozen=True, slots=True)
class _Block:
    names: BlockNames
    attn_norm: Norm
    ff_norm: Norm
    q_norm: Norm | None
    k_norm: Norm | None


class Transformer:
    """A LLaDA model: parameters, and the functions over them.

    Get one from :func:`model.load`, :func:`model.embedded` or :func:`model.build`. Parameters are read-only; :meth:`replace` makes a
    new model with other linears or attention products in it.

    Attributes
    ----------
    config : Config
    dtype : dtype
        float32 or float64: of every parameter, activation and table.
    arithmetic : Arithmetic
    parameters : mapping of str to ndarray
        Every stored tensor, by its name in the checkpoint.
    linears : mapping of str to Linear
        The linears of all blocks in causal order, by module name (a tensor's name without ``.weight``). Neither the embedding nor the
        head is among them, although the head's name, too, ends in ``ff_out``.
    attention_products : tuple of AttentionProduct
        One a block.
    """

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, Array],
        linears: Mapping[str, Linear],
        head: Linear,
        dtype: np.dtype[Any],
        arithmetic: Arithmetic,
        attention_products: tuple[AttentionProduct, ...] | None = None,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.arithmetic = arithmetic
        self.parameters = MappingProxyType(dict(parameters))
        self.linears = MappingProxyType(dict(linears))
        self.attention_products = attention_products or (DenseAttentionProduct(arithmetic),) * config.n_layers
        self._head = head
        self._final_norm = self._norm(FINAL_NORM)
        self._blocks = [self._read_block(block_names(config, index)) for index in range(config.n_layers)]

    def _norm(self, name: str) -> Norm:
        weight, bias = self.parameters.get(name + ".weight"), self.parameters.get(name + ".bias")
        return Norm.build(self.config.layer_norm_type, weight, bias, self.config.norm_eps)

    def _read_block(self, names: BlockNames) -> _Block:
        q_norm = None if names.q_norm is None else self._norm(names.q_norm)
        k_norm = None if names.k_norm is None else self._norm(names.k_norm)
        return _Block(names, self._norm(names.attn_norm), self._norm(names.ff_norm), q_norm, k_norm)

    # The forward pass, from the outside in.

    def logits(self, input_ids: Any, attention_mask: Any = None, observer: Observer | None = None) -> Array:
        """Scores of every token at every position.

        Parameters
        ----------
        input_ids : array_like of integers [B, T]
            Mask tokens included; T may exceed ``max_sequence_length``.
        attention_mask : array_like of 0 and 1 [B, T], optional
            0 hides a position from all others *as a key*. Padded positions still get ordinary logits, and positions are counted from
            0 in every row, left padding included.
        observer : callable(name, array), optional
            See :mod:`model.taps`.

        Returns
        -------
        ndarray [B, T, embedding rows]
            Nothing cuts the columns beyond ``vocab_size`` off.

        Raises
        ------
        InputError
            If ids are out of range or a shape, dtype or mask value is wrong.
        """
        x, context = self._enter(input_ids, attention_mask)
        for index in range(self.config.n_layers):
            x = self.block(index, x, context, observer)  # [B, T, d]
        return self.head(x, observer)

    def hidden_states(self, input_ids: Any, attention_mask: Any = None) -> list[Array]:
        """Input of each block (with block groups: of each group), then the residual stream after the final norm, all [B, T, d].

        The output of the last block *before* the final norm is not in the list, as in the public code.
        """
        x, context = self._enter(input_ids, attention_mask)
        states = []
        for index in range(self.config.n_layers):
            if index % self.config.block_group_size == 0:
                states.append(x)
            x = self.block(index, x, context)
        return [*states, self._final_norm(x, self.arithmetic)]

    def _enter(self, input_ids: Any, attention_mask: Any) -> tuple[Array, AttentionContext]:
        x = self.embed(input_ids)
        return x, self.context(x.shape[0], x.shape[1], attention_mask)

    def embed(self, input_ids: Any) -> Array:
        """Look token ids [B, T] up: [B, T, d]. Positions enter through :meth:`context` only."""
        x = self.parameters[EMBEDDING + ".weight"][border.token_ids(input_ids, self.config.embedding_rows)]
        if self.config.input_emb_norm:
            x *= math.sqrt(self.config.d_model)
        return x

    def context(self, batch: int, length: int, attention_mask: Any = None) -> AttentionContext:
        """Rotary tables for `length` positions and the bias that an attention mask puts on keys."""
        cos, sin = ops.rope_tables(length, self.config.head_dim, self.config.rope_theta, self.dtype, self.arithmetic)
        key_bias = None
        if attention_mask is not None:
            visible = border.mask_of_ones(attention_mask, (batch, length))
            if not visible.all():
                # The lowest finite float32, not -inf: where every key is hidden it swallows the scores, and the result is their
                # uniform average instead of NaN.
                lowest = np.asarray(np.finfo(np.float32).min, dtype=self.dtype)
                key_bias = np.where(visible, np.zeros((), dtype=self.dtype), lowest)[:, None, None, :]
        return AttentionContext(*ops.rope_rows(cos, sin, self.config.n_heads), key_bias)

    def block(self, index: int, x: Array, context: AttentionContext, observer: Observer | None = None) -> Array:
        """One block: [B, T, d] in and out. `x` is not written to."""
        show(observer, f"blocks.{index}.input", x)
        part = self._blocks[index]
        x = x + self._attention(index, part.attn_norm(x, self.arithmetic), context, observer)
        x += self._mlp(index, part.ff_norm(x, self.arithmetic), observer)
        return x

    def head(self, x: Array, observer: Observer | None = None) -> Array:
        """Final norm and output projection: residual stream [B, T, d] to logits [B, T, embedding rows]."""
        x = self._final_norm(x, self.arithmetic)
        show(observer, "head.input", x)
        logits = self._head(x)
        if self.config.scale_logits:
            logits *= 1 / math.sqrt(self.config.d_model)
        return logits

    def _attention(self, index: int, x: Array, context: AttentionContext, observer: Observer | None) -> Array:
        part, head_dim = self._blocks[index], self.config.head_dim
        q, k, v = self._project_qkv(part.names.qkv, x, observer)
        if part.q_norm is not None and part.k_norm is not None:  # over the whole vectors, before the heads are split
            q, k = part.q_norm(q, self.arithmetic), part.k_norm(k, self.arithmetic)
        q = ops.split_heads(ops.rotate(q, context.cos, context.sin, head_dim), head_dim)  # [B, H, T, h]
        k = ops.split_heads(ops.rotate(k, context.cos, context.sin, head_dim), head_dim)  # [B, K, T, h]
        v = ops.split_heads(v, head_dim)  # [B, K, T, h]
        for name, array in (("q", q), ("k", k), ("v", v)):
            show(observer, f"blocks.{index}.{name}", array)
        probabilities = ops.attention_probabilities(q, k, context.key_bias, self.arithmetic)  # [B, H, T, T]
        show(observer, f"blocks.{index}.probabilities", probabilities)
        mixed = ops.merge_heads(self.attention_products[index](probabilities, v))  # [B, T, d]
        return self._apply(part.names.attn_out, mixed, observer)

    def _project_qkv(self, names: tuple[str, ...], x: Array, observer: Observer | None) -> tuple[Array, Array, Array]:
        if len(names) == 3:
            q, k, v = (self._apply(name, x, observer) for name in names)
            return q, k, v
        fused = self._apply(names[0], x, observer)  # [B, T, d + 2 K h], query first
        end_q, end_k = self.config.d_model, self.config.d_model + self.config.kv_width
        return fused[..., :end_q], fused[..., end_q:end_k], fused[..., end_k:]

    def _mlp(self, index: int, x: Array, observer: Observer | None) -> Array:
        names = self._blocks[index].names
        gate, *up = (self._apply(name, x, observer) for name in names.gate_up)  # [B, T, m]
        hidden = ops.ACTIVATION[self.config.activation_type](gate, self.arithmetic)  # [B, T, m], or m / 2 with swiglu
        if up:
            hidden *= up[0]
        return self._apply(names.ff_out, hidden, observer)

    def _apply(self, name: str, x: Array, observer: Observer | None) -> Array:
        show(observer, name + ".input", x)
        return self.linears[name](x)

    # What calibration and quantization need.

    def linear_groups(self, index: int) -> list[tuple[str, ...]]:
        """Names of the linears of block `index` in causal order, those that share an input together."""
        return self._blocks[index].names.linear_groups

    def replace(
        self,
        linears: Mapping[str, Linear] | None = None,
        attention_products: Mapping[int, AttentionProduct] | None = None,
    ) -> Transformer:
        """Return a new model with other linears or attention products in it, sharing everything else.

        Parameters
        ----------
        linears : mapping of str to Linear, optional
            By the keys of :attr:`linears`.
        attention_products : mapping of int to AttentionProduct, optional
            By block index.

        Raises
        ------
        UsageError
            If a name or an index does not exist in this model.
        """
        linears, attention_products = dict(linears or {}), dict(attention_products or {})
        for name in linears:
            if name not in self.linears:
                raise UsageError(
                    f"there is no linear {name!r} to replace; allowed: {', '.join(list(self.linears)[:7])}, ..."
                )
        for index in attention_products:
            if index not in range(self.config.n_layers):
                last = self.config.n_layers - 1
                raise UsageError(
                    f"there is no block {index!r} to replace the attention product of; allowed: 0 to {last}"
                )
        return Transformer(
            self.config,
            self.parameters,
            {**self.linears, **linears},
            self._head,
            self.dtype,
            self.arithmetic,
            tuple(attention_products.get(index, old) for index, old in enumerate(self.attention_products)),
        )

    def __repr__(self) -> str:
        count = sum(array.size for array in self.parameters.values())
        return f"Transformer({self.config.n_layers} blocks, width {self.config.d_model}, {count:,} parameters, {self.dtype})"
