"""One weight by the method that a recipe names."""

from __future__ import annotations

import numpy as np

from refquant.apply.weight_parts import Weights
from refquant.core import Stats
from refquant.core.qtensor import Quantized
from refquant.errors import InputError
from refquant.methods.binary.quant_dllm import quant_dllm
from refquant.methods.codebook.lloyd_max import lloyd_max
from refquant.methods.compensate.gptq import gptq
from refquant.methods.grid.dash_q import dash_q
from refquant.methods.grid.rtn import rtn
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


def quantize_weight(plan: Weights, w: Array, stats: Stats | None, arithmetic: Arithmetic) -> Quantized:
    """Quantize a weight.

    Parameters
    ----------
    plan : Weights
        Its method is not ``"none"``.
    w : float64 ndarray ``[out, in]``
    stats : Stats or None
        Of the linear's inputs; needed if :attr:`Weights.looks_at_hessian`.
    arithmetic : Arithmetic

    Raises
    ------
    InputError
        If statistics are needed and missing; otherwise what the method raises.
    UsageError
        If the method is ``imported``, which makes nothing.
    """
    match plan.method:
        case "rtn" | "imported":  # the latter has no spec, and its error says so
            return rtn(w, plan.spec(), arithmetic)
        case "lloyd_max":
            return lloyd_max(w, plan.spec(), correction=plan.scale_correction, arithmetic=arithmetic)
    if stats is None:
        raise InputError(f"method {plan.method!r} needs statistics of the linear's inputs")
    match plan.method:
        case "dash_q":
            return dash_q(w, np.diagonal(stats.hessian), plan.spec(), steps=plan.steps, arithmetic=arithmetic)
        case "quant_dllm":
            return quant_dllm(
                w,
                stats.hessian,
                ratio=plan.mixed_ratio,
                orders=plan.bits,
                block=plan.group_size,
                emphasis=plan.emphasis,
                deviations=plan.deviations,
                damping=plan.damping,
                steps=plan.steps,
                saliency=plan.saliency,
                scale_format=plan.scale_format or "float64",
                arithmetic=arithmetic,
            )
    return gptq(
        w,
        stats.hessian,
        plan.spec(),
        damping=plan.damping,
        block_size=plan.block_size,
        act_order=plan.act_order,
        static_groups=plan.static_groups,
        compat=plan.compat,
        working=plan.working,
        arithmetic=arithmetic,
    )
