"""The families of checkpoints: which one a ``config.json`` belongs to, and what each says of itself.

A family is data: a config class with the keys of its public class, and an :class:`~model.architecture.Architecture` made of it. LLaDA's
own is in :mod:`model.config` and :mod:`model.names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from model.architecture import ModelConfig
from model.config import Config
from model.families.dream import DreamConfig
from model.families.llada2 import LLaDA2Config
from model.families.llada_moe import LLaDAMoEConfig
from refquant.errors import InputError

__all__ = ["DreamConfig", "LLaDA2Config", "LLaDAMoEConfig", "read_config"]

_READERS: dict[str, Callable[[Mapping[str, Any], str], ModelConfig]] = {
    "llada": Config.read,
    "Dream": DreamConfig.read,
    "lladamoe": LLaDAMoEConfig.read,
    "llada2_moe": LLaDA2Config.read,
}
_ALIASES = {"dream": "Dream", "llada_moe": "lladamoe"}
_ARCHITECTURES = {
    "LLaDAModelLM": "llada",
    "LLaDAModel": "llada",
    "DreamModel": "Dream",
    "LLaDAMoEModelLM": "lladamoe",
    "LLaDAMoEModel": "lladamoe",
    "LLaDA2MoeModelLM": "llada2_moe",
    "LLaDA2MoeModel": "llada2_moe",
}


def read_config(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Recognise the family of a parsed ``config.json`` and read it.

    Parameters
    ----------
    values : mapping
        ``model_type`` decides, or where it is absent ``architectures``, or without both it is LLaDA. One exception: LLaDA-MoE was
        published with LLaDA's ``model_type``, so there the architecture decides.
    where : str
        What error messages call the file.

    Raises
    ------
    InputError
        If the family is unknown, the two keys name different ones, or the family's own class refuses a value.

    Examples
    --------
    >>> read_config({"model_type": "Dream", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}).kv_heads
    1
    """
    return _READERS[_family(values, where)](values, where)


def _family(values: Mapping[str, Any], where: str) -> str:
    named = values.get("architectures") or []
    built = [_ARCHITECTURES[name] for name in map(str, named) if name in _ARCHITECTURES] if isinstance(named, list) else []
    if "model_type" not in values:
        if named and not built:
            allowed = ", ".join(_ARCHITECTURES)
            raise InputError(f"{where}: architectures is {named!r} and model_type is absent; allowed: a list with one of {allowed}")
        return built[0] if built else "llada"
    given = values["model_type"]
    family = _ALIASES.get(given, given) if isinstance(given, str) else None
    if family not in _READERS:
        raise InputError(f"{where}: model_type is {given!r}; allowed: {', '.join(map(repr, [*_READERS, *_ALIASES]))}")
    if family == "llada" and built == ["lladamoe"]:
        return "lladamoe"
    if built and family not in built:
        raise InputError(f"{where}: model_type is {given!r} but architectures is {named!r}; allowed: both of one family")
    return family
