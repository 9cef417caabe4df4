"""Check JSON values against the part of JSON Schema (2020-12) that ``golden/schema.json`` uses.

Small on purpose: a keyword that is not known here is an error, so nothing is ever silently not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from refquant.errors import InputError

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "null": lambda v: v is None,
}
ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "$comment"}
Check = Callable[[Any, Any, str, Mapping[str, Any]], Iterator[str]]


def faults(value: Any, schema: Mapping[str, Any], where: str = "$", root: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Everything in which a value breaks a schema, with its place.

    Raises
    ------
    InputError
        If the schema uses a keyword that is not known here.

    Examples
    --------
    >>> list(faults({"a": 1}, {"type": "object", "required": ["b"], "properties": {"a": {"type": "string"}}}))
    ["$ has no 'b'", '$.a is 1, string is needed']
    """
    top = schema if root is None else root
    for keyword, wanted in schema.items():
        if keyword in ANNOTATIONS:
            continue
        if keyword == "additionalProperties":
            yield from _additional(value, wanted, where, top, set(schema.get("properties", {})))
        elif keyword in CHECKS:
            yield from CHECKS[keyword](value, wanted, where, top)
        else:
            raise InputError(f"the schema uses {keyword!r} at {where}; known are {', '.join(sorted([*CHECKS, *ANNOTATIONS]))}")


def _reference(value: Any, wanted: str, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    target: Any = root
    for name in wanted.removeprefix("#/").split("/"):
        if name not in target:
            raise InputError(f"the schema refers to {wanted!r}, which it does not define")
        target = target[name]
    yield from faults(value, target, where, root)


def _type(value: Any, wanted: Any, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not any(TYPES[name](value) for name in names):
        yield f"{where} is {_shown(value)}, {' or '.join(names)} is needed"


def _enum(value: Any, wanted: Any, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if value not in wanted:
        yield f"{where} is {_shown(value)}, allowed are {', '.join(map(str, wanted))}"


def _const(value: Any, wanted: Any, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if value != wanted:
        yield f"{where} is {_shown(value)}, {wanted!r} is needed"


def _pattern(value: Any, wanted: str, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, str) and re.search(wanted, value) is None:
        yield f"{where} is {_shown(value)}, which does not match {wanted}"


def _minimum(value: Any, wanted: float, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if TYPES["number"](value) and value < wanted:
        yield f"{where} is {value}, at least {wanted} is needed"


def _min_items(value: Any, wanted: int, where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, list) and len(value) < wanted:
        yield f"{where} has {len(value)} entries, at least {wanted} are needed"


def _required(value: Any, wanted: list[str], where: str, root: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{where} has no {name!r}" for name in wanted if name not in value)


def _properties(value: Any, wanted: Mapping[str, Any], where: str, root: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(value) & set(wanted)) if isinstance(value, dict) else ():
        yield from faults(value[name], wanted[name], f"{where}.{name}", root)


def _additional(value: Any, wanted: Any, where: str, root: Mapping[str, Any], named: set[str]) -> Iterator[str]:
    others = sorted(set(value) - named) if isinstance(value, dict) else []
    for name in others:
        if wanted is False:
            yield f"{where} has {name!r}, which the schema does not know"
        elif wanted is not True:
            yield from faults(value[name], wanted, f"{where}.{name}", root)


def _names(value: Any, wanted: Mapping[str, Any], where: str, root: Mapping[str, Any]) -> Iterator[str]:
    for name in value if isinstance(value, dict) else ():
        yield from faults(name, wanted, f"{where}'s key {name!r}", root)


def _items(value: Any, wanted: Mapping[str, Any], where: str, root: Mapping[str, Any]) -> Iterator[str]:
    for i, item in enumerate(value if isinstance(value, list) else ()):
        yield from faults(item, wanted, f"{where}[{i}]", root)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


CHECKS: dict[str, Check] = {
    "$ref": _reference,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "minimum": _minimum,
    "minItems": _min_items,
    "required": _required,
    "properties": _properties,
    "propertyNames": _names,
    "items": _items,
}
