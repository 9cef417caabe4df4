"""All methods by name, resolved when asked for.

Third parties add theirs through the entry-point group ``refquant.methods``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from refquant.errors import UsageError
from refquant.methods.card import Card

METHODS: dict[str, str] = {
    "rtn": "refquant.methods.grid.rtn:rtn",
    "gptq": "refquant.methods.compensate.gptq:gptq",
    "obq": "refquant.methods.compensate.obq:obq",
    "optimum": "refquant.methods.compensate.optimum:optimum",
    "cgq": "refquant.methods.diffusion.cgq:certainty_weights",
    "tmas": "refquant.methods.diffusion.tmas:tmas",
    "ia_aq": "refquant.methods.diffusion.ia_aq:ia_aq",
    "smoothquant": "refquant.methods.scale.smoothquant:smoothquant",
    "awq": "refquant.methods.scale.awq:awq",
    "per_token": "refquant.methods.activation.per_token:quantize_per_token",
    "static": "refquant.methods.activation.static:static_grid",
    "probabilities": "refquant.methods.activation.probabilities:quantize_probabilities",
    "quarot": "refquant.methods.rotate.quarot:quarot",
    "duquant": "refquant.methods.rotate.duquant:duquant",
    "dash_q": "refquant.methods.grid.dash_q:dash_q",
    "hqq": "refquant.methods.grid.hqq:hqq",
    "offset": "refquant.methods.grid.offset:offset_rtn",
    "quant_dllm": "refquant.methods.binary.quant_dllm:quant_dllm",
    "abmp": "refquant.methods.allocate.abmp:allocate_orders",
    "lloyd_max": "refquant.methods.codebook.lloyd_max:lloyd_max",
    "soloq": "refquant.methods.rotate.soloq:soloq",
    "tac": "refquant.methods.activation.tac:tac",
    "log2_softmax": "refquant.methods.activation.log2_softmax:quantize_log2",
    "fair_adaptation": "refquant.methods.diffusion.fair_weights:fair_weights",
    "integer_linear": "refquant.methods.kernels.integer_linear:integer_linear",
}
ENTRY_POINT_GROUP = "refquant.methods"


def method_targets() -> dict[str, str]:
    """Every method's ``name -> "module:function"``: ours, then those of installed packages.

    Raises
    ------
    UsageError
        If an installed package claims a name that is taken.
    """
    found = dict(METHODS)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            raise UsageError(f"the method name {entry.name!r} of {entry.value} is already taken by {found[entry.name]}")
        found[entry.name] = entry.value
    return found


def find_method(name: str) -> Callable[..., Any]:
    """The function of a method.

    Raises
    ------
    UsageError
        If there is no such method.

    Examples
    --------
    >>> find_method("rtn").__name__
    'rtn'
    """
    module, function = _target(name)
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def find_card(name: str) -> Card:
    """The card of a method, the ``CARD`` of its module.

    Raises
    ------
    UsageError
        If there is no such method, or a third party's module has no card.
    """
    module, _ = _target(name)
    card = getattr(importlib.import_module(module), "CARD", None)
    if not isinstance(card, Card):
        raise UsageError(f"the module {module} of method {name!r} has no CARD")
    return card


def _target(name: str) -> tuple[str, str]:
    targets = method_targets()
    if name not in targets:
        raise UsageError(f"unknown method {name!r}; known are {', '.join(targets)}")
    module, _, function = targets[name].partition(":")
    return module, function
