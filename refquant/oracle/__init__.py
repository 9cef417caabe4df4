"""The slow second opinion: every definition in plain loops over exact fractions.

Shares nothing with the array code but the formats and the errors. Read it where you doubt the array code; it is meant
to be checked by eye against the papers. Numbers go in through `refquant.oracle.rational`; `refquant.oracle.ieee`
turns an exact result into what an IEEE machine would have got.
"""

from refquant.oracle.clip_search import ClipChoice, search_clip
from refquant.oracle.coding import CodedRow, margin, quantize_row
from refquant.oracle.gptq import Decision, GptqResult, gptq
from refquant.oracle.hessian import token_weights, weighted_hessian
from refquant.oracle.ieee import BFLOAT16, BINARY16, BINARY32, BINARY64, Binary, exact
from refquant.oracle.interaction import ValueScale, attention_loss, search_value_scale
from refquant.oracle.nearest import nearest_member, round_to_integer
from refquant.oracle.quadratic import best_assignment, quadratic_loss
from refquant.oracle.quotas import largest_remainder, quotas
from refquant.oracle.rational import fraction, matrix, row
from refquant.oracle.uniform import SCHEMES, Uniform, UniformGrid

__all__ = [
    "BFLOAT16",
    "BINARY16",
    "BINARY32",
    "BINARY64",
    "SCHEMES",
    "Binary",
    "ClipChoice",
    "CodedRow",
    "Decision",
    "GptqResult",
    "Uniform",
    "UniformGrid",
    "ValueScale",
    "attention_loss",
    "best_assignment",
    "exact",
    "fraction",
    "gptq",
    "largest_remainder",
    "margin",
    "matrix",
    "nearest_member",
    "quadratic_loss",
    "quantize_row",
    "quotas",
    "round_to_integer",
    "row",
    "search_clip",
    "search_value_scale",
    "token_weights",
    "weighted_hessian",
]
