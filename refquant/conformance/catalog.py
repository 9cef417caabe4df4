"""All operations that have vectors, by name, resolved when asked for."""

from __future__ import annotations

import importlib

from refquant.conformance.operation import Operation
from refquant.errors import UsageError

FOLDER = "refquant.conformance.operations"
OPERATIONS: dict[str, str] = {
    "rounding.half_even": f"{FOLDER}.rounding:HALF_EVEN",
    "rounding.half_away": f"{FOLDER}.rounding:HALF_AWAY",
    "rounding.trunc_half": f"{FOLDER}.rounding:TRUNC_HALF",
    "rounding.floor": f"{FOLDER}.rounding:FLOOR",
    "rounding.ceil": f"{FOLDER}.rounding:CEIL",
    "format.encode": f"{FOLDER}.format_encode:OPERATION",
    "format.decode": f"{FOLDER}.format_decode:OPERATION",
    "block.mx": f"{FOLDER}.block_mx:OPERATION",
    "codebook.encode": f"{FOLDER}.codebook_encode:OPERATION",
    "block.nvfp4": f"{FOLDER}.block_nvfp4:OPERATION",
    "block.double": f"{FOLDER}.block_double:OPERATION",
    "packing.stream": f"{FOLDER}.packing_stream:OPERATION",
    "packing.nibbles": f"{FOLDER}.packing_stream:NIBBLES_OPERATION",
    "packing.gptq": f"{FOLDER}.packing_gptq:OPERATION",
    "packing.awq": f"{FOLDER}.packing_awq:OPERATION",
    "packing.awq_interleaved": f"{FOLDER}.packing_awq:INTERLEAVED_OPERATION",
    "packing.compressed_tensors": f"{FOLDER}.packing_compressed:OPERATION",
    "packing.gguf_q4_0": f"{FOLDER}.packing_gguf:Q4_0_OPERATION",
    "packing.gguf_q8_0": f"{FOLDER}.packing_gguf:Q8_0_OPERATION",
    "uniform.quantize": f"{FOLDER}.uniform_quantize:OPERATION",
    "uniform.dequantize": f"{FOLDER}.uniform_dequantize:OPERATION",
    "grid.clip_search": f"{FOLDER}.clip_search:OPERATION",
    "activation.per_token": f"{FOLDER}.per_token:OPERATION",
    "gptq.codes": f"{FOLDER}.gptq:OPERATION",
    "elementary.exp": f"{FOLDER}.elementary:EXP",
    "elementary.log": f"{FOLDER}.elementary:LOG",
    "elementary.power": f"{FOLDER}.elementary:POWER",
    "elementary.sin": f"{FOLDER}.elementary:SIN",
    "elementary.cos": f"{FOLDER}.elementary:COS",
    "elementary.erf": f"{FOLDER}.elementary:ERF",
    "transformer.rms_norm": f"{FOLDER}.rms_norm:OPERATION",
    "transformer.rope": f"{FOLDER}.rope:OPERATION",
    "transformer.softmax": f"{FOLDER}.softmax:OPERATION",
    "transformer.attention": f"{FOLDER}.attention:OPERATION",
    "transformer.swiglu": f"{FOLDER}.swiglu:OPERATION",
    "transformer.forward": f"{FOLDER}.forward:OPERATION",
    "sampler.llada": f"{FOLDER}.sampler:OPERATION",
    "likelihood.masks": f"{FOLDER}.nll_bound:DRAWING",
    "likelihood.terms": f"{FOLDER}.nll_bound:SUMMING",
    "hessian.weighted": f"{FOLDER}.hessian:OPERATION",
    "cgq.weights": f"{FOLDER}.cgq:OPERATION",
    "cgq.hessian": f"{FOLDER}.cgq:HESSIAN_OPERATION",
    "tmas.quotas": f"{FOLDER}.tmas:QUOTAS_OPERATION",
    "tmas.draw": f"{FOLDER}.tmas:DRAW_OPERATION",
    "ia_aq.search": f"{FOLDER}.ia_aq:OPERATION",
    "activation.static": f"{FOLDER}.static_activation:STATIC_OPERATION",
    "activation.probabilities": f"{FOLDER}.static_activation:PROBABILITIES_OPERATION",
    "smoothquant.factors": f"{FOLDER}.rewrites:SMOOTH_OPERATION",
    "hadamard.transform": f"{FOLDER}.rewrites:HADAMARD_OPERATION",
    "duquant.permutation": f"{FOLDER}.rewrites:ZIGZAG_OPERATION",
    "checkpoint.quantize": f"{FOLDER}.quantized_model:OPERATION",
    "gptq.layer": f"{FOLDER}.gptq_layer:OPERATION",
    "integer.matmul": f"{FOLDER}.integer_linear:MATMUL_OPERATION",
    "integer.linear": f"{FOLDER}.integer_linear:LINEAR_OPERATION",
    "awq.factors": f"{FOLDER}.awq:OPERATION",
}
"""``name -> "module:object"``; a test holds it against the folder."""


def find_operation(name: str) -> Operation:
    """Look an operation up by name.

    Raises
    ------
    UsageError
        If there is no such operation.

    Examples
    --------
    >>> find_operation("rounding.half_even").level
    'codes'
    """
    if name not in OPERATIONS:
        raise UsageError(f"unknown operation {name!r}; known are {', '.join(OPERATIONS)}")
    module, _, attribute = OPERATIONS[name].partition(":")
    found: Operation = getattr(importlib.import_module(module), attribute)
    return found


def all_operations() -> list[Operation]:
    """Every operation, in the order of the table."""
    return [find_operation(name) for name in OPERATIONS]
