"""A model with integer linears beside itself with fake-quantized ones: how far they are apart, and how full accumulators can be.

Every linear by itself is within the proved bound [INT-6] of its fake-quantized twin, and that is checked on the inputs it meets. Logits
have no such bound: where a difference in the last bits moves the input of a later layer across the border of two codes, a whole step
follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import Linear, Tokenizer, Transformer
from refquant.apply.evaluation import EvaluationSet, Sizes
from refquant.apply.evaluation.batches import finite_logits, mask_id, rows_at_once
from refquant.apply.evaluation.masks import text_masks
from refquant.apply.evaluation.tasks import prompt_ids
from refquant.apply.layers import IntegerLinear
from refquant.errors import NumericalError, UsageError
from refquant.methods.kernels.integer_matmul import INT32_MAX
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerCheck:
    """What a comparison found.

    Parameters
    ----------
    sequences, tokens : int
        Of the batch, all tokens together.
    logit_difference : float
        Largest magnitude of a difference between two logits.
    largest_logit : float
        Largest magnitude of a logit of the fake-quantized model.
    bound_share : float
        Largest share of its proved bound that any output of any linear used, given the fake-quantized model's inputs; never above 1.
    accumulator_bound : int
        Largest magnitude that an int32 sum of any integer linear can have; proved for the formats' ends, not measured.
    linears : int
        How many linears multiply integers.
    """

    sequences: int
    tokens: int
    logit_difference: float
    largest_logit: float
    bound_share: float
    accumulator_bound: int
    linears: int

    @property
    def accumulator_limit(self) -> int:
        """What an int32 holds."""
        return INT32_MAX


def first_batch(m: Transformer, tokenizer: Tokenizer, data: EvaluationSet, sizes: Sizes, seed: int) -> Array:
    """Ids ``[B, T]`` of the evaluation's first forward pass: masked copies of the first text, and of others as long as it.

    Without texts it is the first item's prompt with a masked answer.

    Raises
    ------
    UsageError
        If nothing at all is evaluated.
    """
    texts = data.first_texts(sizes.texts)
    if texts:
        length = len(texts[0].ids)
        alike = [index for index, text in enumerate(texts) if len(text.ids) == length]
        copies = [(index, copy) for index in alike for copy in range(sizes.masks)][: rows_at_once(length, m.config.embedding_rows)]
        masks = {index: text_masks(seed, index, length, sizes.masks) for index, _ in copies}
        hidden = np.stack([masks[index][copy] for index, copy in copies])
        return np.where(hidden, mask_id(m), np.stack([np.asarray(texts[index].ids) for index, _ in copies]))
    items = data.first_items(max(sizes.items, sizes.trajectory_items))
    if not items:
        raise UsageError("the held-out data hold no text and no item that is evaluated; there is nothing to compare integer arithmetic on")
    return np.asarray([[*prompt_ids(items[0], tokenizer), *[mask_id(m)] * items[0].gen_length]])


class _Twin:
    """A fake-quantized linear that also asks its integer twin, and keeps the largest share of the bound between them."""

    def __init__(self, name: str, fake: Linear, integer: IntegerLinear) -> None:
        self.name, self.fake, self.integer, self.bias, self.share = name, fake, integer, integer.bias, 0.0

    def __call__(self, x: Array) -> Array:
        y = self.fake(x)
        apart = np.abs(self.integer(x).astype(np.float64) - y)
        share = float(np.max(apart / self.integer.difference_bound(x), initial=0.0))
        if not share <= 1:
            raise NumericalError(f"{self.name}: integer and fake-quantized results differ by {share:g} times the proved bound")
        self.share = max(self.share, share)
        return y


def compare_arithmetics(fake: Transformer, integer: Transformer, ids: Array) -> IntegerCheck:
    """Run both on the same ids.

    Parameters
    ----------
    fake, integer : Transformer
        One quantized model, attached both ways.
    ids : ndarray of integers ``[B, T]``

    Raises
    ------
    NumericalError
        If logits are not finite, or a linear breaks its proved bound: one of the two is wrong.
    """
    linears = {name: linear for name, linear in integer.linears.items() if isinstance(linear, IntegerLinear)}
    twins = {name: _Twin(name, fake.linears[name], linear) for name, linear in linears.items()}
    expected, found = finite_logits("fake", fake.replace(twins), ids), finite_logits("integer", integer, ids)
    return IntegerCheck(
        sequences=ids.shape[0],
        tokens=ids.size,
        logit_difference=float(np.max(np.abs(found.astype(np.float64) - expected))),
        largest_logit=float(np.max(np.abs(expected))),
        bound_share=max((twin.share for twin in twins.values()), default=0.0),
        accumulator_bound=max((linear.accumulator_bound for linear in linears.values()), default=0),
        linears=len(linears),
    )
