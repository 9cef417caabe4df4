"""This package as a backend for itself: what `refquant conform --backend refquant.conformance.own:backend` runs."""

from __future__ import annotations

from functools import partial

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.operation import Run
from refquant.numerics import FAST, ORDERED, Arithmetic


def _all(arithmetic: Arithmetic) -> dict[str, Run]:
    return {name: partial(find_operation(name).reference, arithmetic=arithmetic) for name in OPERATIONS}


backend: dict[str, Run] = _all(FAST)
"""Every operation, in the arithmetic of everyday use."""
ordered: dict[str, Run] = _all(ORDERED)
"""The same in the ordered arithmetic."""
