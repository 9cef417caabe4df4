"""All mutants, and the right programs that they were made of."""

from __future__ import annotations

import importlib

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Run
from refquant.errors import UsageError

FOLDER = "refquant.conformance.mutants"
MODULES = tuple(
    f"{FOLDER}.{name}"
    for name in (
        "rounding",
        "formats",
        "codebooks",
        "block_mx",
        "block_nvfp4",
        "block_double",
        "packing_streams",
        "packing_words",
        "uniform_quantize",
        "uniform_dequantize",
        "clip_search",
        "per_token",
        "gptq",
        "elementary",
        "model",
        "sampler",
        "hessian",
        "tmas",
        "ia_aq",
        "static_activation",
        "rewrites",
        "quantized_model",
        "integer_linear",
        "awq",
    )
)
"""Each has ``MUTANTS``, a tuple, and ``RIGHT``: by name of operation, the program without a fault."""


def all_mutants() -> list[Mutant]:
    """Every mutant, in the order of the modules.

    Raises
    ------
    UsageError
        If two have one name.
    """
    found: dict[str, Mutant] = {}
    for module in MODULES:
        for mutant in importlib.import_module(module).MUTANTS:
            if mutant.name in found:
                raise UsageError(f"two mutants are called {mutant.name!r}: of {found[mutant.name].operation} and of {mutant.operation}")
            found[mutant.name] = mutant
    return list(found.values())


def right_programs() -> dict[str, Run]:
    """By name of operation, the programs that mutants were made of, without a fault."""
    return {name: run for module in MODULES for name, run in importlib.import_module(module).RIGHT.items()}
