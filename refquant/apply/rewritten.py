"""What rewrites leave of a model once its linears are quantized: tensors that changed, online transforms, a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from model import DenseLinear, Transformer
from refquant.apply.layers import TransformedScoreOperands, online_transforms
from refquant.apply.rewriting import untied, with_online
from refquant.core.transform import Transform
from refquant.numerics.arrays import Array, read_only

Notes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenModel:
    """The parts; :meth:`attach` puts them into a model. Empty without rewrites.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Rewritten tensors that were not quantized, by full name: norms, embedding, head, biases, skipped linears.
    online : mapping of str to tuple of Transform
        What linears' inputs go through, by the linear's name.
    scores : mapping of int to Transform
        What queries and keys go through, by block.
    untied : bool
        Whether the model got a head of its own.
    notes : tuple of mapping
        What was chosen: ``method``, ``block`` (or -1 for the whole model), and the method's own.
    """

    tensors: Mapping[str, Array] = field(default_factory=dict)
    online: Mapping[str, tuple[Transform, ...]] = field(default_factory=dict)
    scores: Mapping[int, Transform] = field(default_factory=dict)
    untied: bool = False
    notes: tuple[Notes, ...] = ()

    def __post_init__(self) -> None:
        tensors = {name: read_only(array) for name, array in self.tensors.items()}
        for name, values in (("tensors", tensors), ("online", self.online), ("scores", self.scores)):
            object.__setattr__(self, name, MappingProxyType(dict(values)))

    @classmethod
    def of(cls, before: Transformer, after: Transformer, quantized: set[str], notes: tuple[Notes, ...]) -> RewrittenModel:
        """What of a rewritten model cannot be had from the model before and the quantized weights.

        Parameters
        ----------
        before, after : Transformer
            In full precision.
        quantized : set of str
            Linears whose weights are kept as codes.
        notes : tuple of mapping
        """
        codes = {f"{name}.weight" for name in quantized}
        return cls(
            tensors={name: a for name, a in after.parameters.items() if name not in codes and _differs(before.parameters.get(name), a)},
            online={
                name: online
                for name, linear in after.linears.items()
                if isinstance(linear, DenseLinear) and (online := online_transforms(linear))
            },
            scores={
                i: operand.transform for i, operand in enumerate(after.score_operands) if isinstance(operand, TransformedScoreOperands)
            },
            untied=before.architecture.head is None and after.architecture.head is not None,
            notes=notes,
        )

    def attach(self, m: Transformer) -> Transformer:
        """Put the parts into a model in full precision; tensors are carried to its dtype."""
        if self.untied:
            m = untied(m)
        if not (self.tensors or self.online or self.scores):
            return m
        rounded = {name: array.astype(m.dtype, copy=False) for name, array in self.tensors.items()}
        scores = {index: TransformedScoreOperands(transform, m.arithmetic) for index, transform in self.scores.items()}
        return with_online(m, rounded, self.online).replace(score_operands=scores)


def _differs(before: Array | None, after: Array) -> bool:
    return before is None or (before is not after and not np.array_equal(before, after))
