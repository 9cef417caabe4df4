"""Quantizing one linear: the unit of work. A pure function of what can be pickled, so that it may run in any process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.streaming import StreamedLinear
from refquant.apply.description import tensor_digest
from refquant.apply.quantized import LinearRecord
from refquant.apply.weight_parts import Weights
from refquant.apply.weight_quantizing import quantize_weight
from refquant.core import Stats
from refquant.core.metrics import output_error
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, NotPositiveDefiniteError, NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.methods.scale.limits import clip_to_limits
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearTask:
    """Everything that decides the codes of one linear.

    Parameters
    ----------
    name : str
    weight : ndarray ``[out, in]``, or a streamed linear
        As rewrites left it; of a streamed linear the weight is read where the task is carried out.
    plan : Weights
        Its method is not ``"none"``.
    stats : Stats, optional
        Of the linear's inputs, where the method looks at them.
    limits : ndarray ``[out, groups]``, optional
        AWQ's, that the weight is clipped to first.
    arithmetic : Arithmetic
    """

    name: str
    weight: Array | StreamedLinear
    plan: Weights
    stats: Stats | None = None
    limits: Array | None = None
    arithmetic: Arithmetic = FAST


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearResult:
    """A quantized linear, what is to be said of it, and the digest of the weight that it was made of."""

    weight: Quantized
    record: LinearRecord
    made_of: str


def quantize_linear(task: LinearTask) -> LinearResult:
    """Quantize one weight, in float64 whatever the method, so that methods differ in nothing but themselves.

    Raises
    ------
    InputError, NumericalError, NotPositiveDefiniteError
        What the method raises, with the linear's name before it.
    """
    plan, stats, arithmetic = task.plan, task.stats, task.arithmetic
    given = task.weight.weight if isinstance(task.weight, StreamedLinear) else task.weight
    w = given.astype(np.float64)
    within = w if task.limits is None else clip_to_limits(w, task.limits, plan.spec())
    try:
        quantized = quantize_weight(plan, within, stats, arithmetic)
        rounded = None if stats is None else rtn(within, plan.spec(), arithmetic)
    except NotPositiveDefiniteError as error:
        raise NotPositiveDefiniteError(f"{task.name}: {error}", error.pivot) from error
    except (InputError, NumericalError) as error:
        raise type(error)(f"{task.name}: {error}") from error
    made_of = tensor_digest(given)
    if rounded is None or stats is None:
        record = LinearRecord(name=task.name, tokens=0, error=None, rtn_error=None)
        return LinearResult(weight=quantized, record=record, made_of=made_of)
    errors = [output_error(w, q.dequantize(np.dtype(np.float64)), stats.hessian, arithmetic) for q in (quantized, rounded)]
    record = LinearRecord(name=task.name, tokens=stats.tokens, error=errors[0], rtn_error=errors[1])
    return LinearResult(weight=quantized, record=record, made_of=made_of)
