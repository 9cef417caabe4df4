"""What a value in ``config.json`` may be. A check returns None when the value is good, else the values that are allowed, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from refquant.errors import InputError

Check = Callable[[Any], str | None]


def is_int(value: Any) -> bool:
    """Whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def count(value: Any) -> str | None:
    """1, 2, 3, ..."""
    return None if is_int(value) and value >= 1 else "an integer of at least 1"


def count_or_zero(value: Any) -> str | None:
    """0, 1, 2, ..."""
    return None if is_int(value) and value >= 0 else "an integer of at least 0"


def token(value: Any) -> str | None:
    """A token id, or null."""
    return None if value is None or (is_int(value) and value >= 0) else "null or a token id (an integer of at least 0)"


def positive(value: Any) -> str | None:
    """A finite number above 0."""
    good = (is_int(value) or isinstance(value, float)) and math.isfinite(value) and value > 0
    return None if good else "a finite number above 0"


def fraction(value: Any) -> str | None:
    """A number above 0 and at most 1."""
    return None if positive(value) is None and value <= 1 else "a number above 0 and at most 1"


def flag(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def only(wanted: bool) -> Check:
    """One of the two truth values."""
    return lambda value: None if value is wanted else f"{str(wanted).lower()} only"


def one_of(choices: tuple[str, ...]) -> Check:
    """One of several words."""
    return lambda value: None if isinstance(value, str) and value in choices else ", ".join(choices)


def nullable(check: Check) -> Check:
    """Null, or what `check` allows."""

    def allow_null(value: Any) -> str | None:
        allowed = None if value is None else check(value)
        return None if allowed is None else f"null or {allowed}"

    return allow_null


def plain_rope(value: Any) -> str | None:
    """No scaling of rotary frequencies, said in either of the two ways."""
    if value is None:
        return None
    kind = value.get("rope_type", value.get("type")) if isinstance(value, dict) else value
    return None if kind == "default" else "null or {'rope_type': 'default'}: scaled rotary frequencies are not implemented"


def flags_per_layer(value: Any) -> str | None:
    """A list of 0 and 1."""
    good = isinstance(value, list) and all(is_int(item) and item in (0, 1) for item in value)
    return None if good else "a list of 0 and 1, one a layer"


def pick(values: Mapping[str, Any], checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    """Check the keys that matter and return them.

    Raises
    ------
    InputError
        For the first value that is not allowed: where, key, value found, values allowed.
    """
    picked: dict[str, Any] = {}
    for name, check in checks.items():
        if name in values:
            allowed = check(values[name])
            if allowed is not None:
                raise InputError(f"{where}: {name} is {values[name]!r}; allowed: {allowed}")
            picked[name] = values[name]
    return picked


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str], family: str, where: str) -> None:
    """Stop at keys that nobody here knows the meaning of: they might change the arithmetic.

    Raises
    ------
    InputError
        Naming a few of them.
    """
    unknown = sorted(set(values) - set(known))
    if unknown:
        some = ", ".join(f"{name} ({values[name]!r})" for name in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise InputError(f"{where}: not understood in a {family} model: {some}; allowed: keys of its config class, inert ones included")


def require(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Stop at absent keys that have no usable default; ``InputError`` names them."""
    absent = [name for name in names if name not in values]
    if absent:
        raise InputError(f"{where}: {', '.join(absent)} absent; allowed: a value, as the class has no usable default")
