"""The tensor types of GGUF that are read, by name and by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.importance import Importance
from refquant.layout.gguf.iq1_m import IQ1_M, weigh_iq1_m
from refquant.layout.gguf.iq1_s import IQ1_S, weigh_iq1_s
from refquant.layout.gguf.iq2_s import IQ2_S, weigh_iq2_s
from refquant.layout.gguf.iq2_xs import IQ2_XS, weigh_iq2_xs
from refquant.layout.gguf.iq2_xxs import IQ2_XXS, weigh_iq2_xxs
from refquant.layout.gguf.iq3_s import IQ3_S, weigh_iq3_s
from refquant.layout.gguf.iq3_xxs import IQ3_XXS, weigh_iq3_xxs
from refquant.layout.gguf.iq4_nl import IQ4_NL, weigh_iq4_nl
from refquant.layout.gguf.iq4_xs import IQ4_XS, weigh_iq4_xs
from refquant.layout.gguf.mxfp4 import MXFP4
from refquant.layout.gguf.nvfp4 import NVFP4
from refquant.layout.gguf.plain_floats import BF16, F16, F32
from refquant.layout.gguf.q2_k import Q2_K
from refquant.layout.gguf.q3_k import Q3_K
from refquant.layout.gguf.q4_0 import Q4_0
from refquant.layout.gguf.q4_1 import Q4_1
from refquant.layout.gguf.q4_k import Q4_K
from refquant.layout.gguf.q5_0 import Q5_0
from refquant.layout.gguf.q5_1 import Q5_1
from refquant.layout.gguf.q5_k import Q5_K
from refquant.layout.gguf.q6_k import Q6_K
from refquant.layout.gguf.q8_0 import Q8_0
from refquant.layout.gguf.super_blocks import weigh_q2_k, weigh_q3_k, weigh_q4_k, weigh_q5_k, weigh_q6_k
from refquant.layout.gguf.tq1_0 import TQ1_0
from refquant.layout.gguf.tq2_0 import TQ2_0
from refquant.layout.gguf.weighted_blocks import weigh_q4_0, weigh_q4_1, weigh_q5_0, weigh_q5_1
from refquant.numerics.arrays import Array

_BY_FORMULA = (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, TQ1_0, TQ2_0, MXFP4)
_BY_TABLES = (IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, NVFP4)
_ALL = (*_BY_FORMULA, *_BY_TABLES)
BLOCK_TYPES = MappingProxyType({kind.name: kind for kind in _ALL})
BY_NUMBER = MappingProxyType({kind.number: kind for kind in _ALL})

WEIGHTED: Mapping[str, Callable[[Array, Importance], Fields]] = MappingProxyType(
    {
        **{"Q4_0": weigh_q4_0, "Q4_1": weigh_q4_1, "Q5_0": weigh_q5_0, "Q5_1": weigh_q5_1},
        **{"Q2_K": weigh_q2_k, "Q3_K": weigh_q3_k, "Q4_K": weigh_q4_k, "Q5_K": weigh_q5_k, "Q6_K": weigh_q6_k},
        **{"IQ1_S": weigh_iq1_s, "IQ1_M": weigh_iq1_m, "IQ2_XXS": weigh_iq2_xxs, "IQ2_XS": weigh_iq2_xs, "IQ2_S": weigh_iq2_s},
        **{"IQ3_XXS": weigh_iq3_xxs, "IQ3_S": weigh_iq3_s, "IQ4_NL": weigh_iq4_nl, "IQ4_XS": weigh_iq4_xs},
    }
)
"""Quantizers that take an importance: float32 ``[n, size]`` to fields, bit for bit as ggml's C."""

# Types that ggml has, or had, and that are not read; a message should know them.
OTHERS = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    41: "Q1_0",
}


def find_block_type(name: str) -> BlockType:
    """Look a type up by its name in either case.

    Raises
    ------
    UsageError
        If there is none of that name.

    Examples
    --------
    >>> find_block_type("q4_0").nbytes
    18
    """
    if name.upper() not in BLOCK_TYPES:
        raise UsageError(f"there is no GGUF type {name!r}; known are {', '.join(BLOCK_TYPES)}")
    return BLOCK_TYPES[name.upper()]


def type_of_number(number: int) -> BlockType:
    """Look a type up by the number in a file; InputError if it is not read."""
    if number not in BY_NUMBER:
        known = f"{OTHERS[number]}, which is not read" if number in OTHERS else "which ggml does not know"
        raise InputError(f"type {number}, {known}; read are {', '.join(BLOCK_TYPES)}")
    return BY_NUMBER[number]
