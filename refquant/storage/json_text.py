"""JSON that means one thing: no duplicate keys, no NaN, one canonical form to hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from refquant.errors import InputError
from refquant.storage.border import PathLike, quoted, regular_file, telling

MAX_JSON_BYTES = 100_000_000
"""Longest document, or line of a ``.jsonl`` file, that is read: the limit that safetensors sets for its headers."""


class _RefusedError(ValueError):
    """What the JSON standard allows or Python accepts, and we do not."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"the key {quoted(key)} occurs twice in one object, keys must be unique")
            seen.add(key)
    return found


def _no_constant(name: str) -> float:
    raise _RefusedError(f"the number {name} is not JSON, finite numbers are needed")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError(f"the number {quoted(text, 40)} is beyond the range of float64")
    return number


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse UTF-8 bytes as one JSON object.

    Parameters
    ----------
    data : bytes
        The content.
    where : str
        Begins every message: the file, and the line if there is one.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the bytes are not UTF-8, not JSON, not an object, nested too deep to parse, or hold a duplicate key, a
        number that is not finite, or a lone surrogate.

    Examples
    --------
    >>> parse_object(b'{"a": [1, 2.5]}', "here")
    {'a': [1, 2.5]}
    >>> parse_object(b'{"a": 1, "a": 2}', "here")
    Traceback (most recent call last):
        ...
    refquant.errors.InputError: here: the key 'a' occurs twice in one object, keys must be unique
    """
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if b"\\ud" in data.lower():  # only an escape can smuggle half a surrogate pair into valid UTF-8
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not valid UTF-8, JSON must be UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: a string holds a lone surrogate, strings must be valid Unicode") from error
    except _RefusedError as error:
        raise InputError(f"{where}: {error}") from error
    except ValueError as error:  # JSONDecodeError, and integers with more digits than Python converts
        raise InputError(f"{where}: not valid JSON: {quoted(str(error), 120)[1:-1]}") from error
    except RecursionError as error:
        raise InputError(f"{where}: the JSON is nested too deep to be parsed") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: the JSON is {_kind(found)}, an object is needed")
    return found


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def read_json(path: PathLike) -> dict[str, Any]:
    """Read a JSON file whose value is an object.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file cannot be read, is longer than `MAX_JSON_BYTES`, or is refused by :func:`parse_object`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.json").write_text('{"bits": 4}')
    ...     read_json(f"{folder}/a.json")
    {'bits': 4}
    """
    with regular_file(path) as (file, size):
        if size > MAX_JSON_BYTES:
            raise InputError(f"{path}: {size} bytes of JSON, at most {MAX_JSON_BYTES} are read")
        return parse_object(file.read(size), str(path))


def read_json_lines(path: PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate over a file that holds one JSON object per line.

    Blank lines are refused: a count of lines is then a count of records.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    tuple of (int, dict)
        Line number, from 1, and the object.

    Raises
    ------
    InputError
        Naming the file and the line that cannot be used. The file is opened when the first line is asked for.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.jsonl").write_text('{"a": 1}\\n{"a": 2}\\n')
    ...     list(read_json_lines(f"{folder}/a.jsonl"))
    [(1, {'a': 1}), (2, {'a': 2})]
    """
    with regular_file(path) as (file, _):
        number = 0
        while True:
            # Told apart from the caller's own errors: the block that consumes the lines is not inside.
            with telling(path, "read"):
                line = file.readline(MAX_JSON_BYTES + 1)
            if not line:
                return
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_JSON_BYTES:
                raise InputError(f"{where}: longer than {MAX_JSON_BYTES} bytes")
            if not line.strip():
                raise InputError(f"{where}: the line is blank, every line must hold one JSON object")
            yield number, parse_object(line, where)


def canonical_json(value: Any) -> str:
    """Write a value as the one JSON text that stands for it.

    Keys sorted by code point, no spaces, ASCII only, floats as the shortest text that reads back to the same float64
    (``repr``). Tuples are written as arrays. The text is stable under reading and writing again.

    Parameters
    ----------
    value : None, bool, int, float, str, or lists, tuples and dicts of them
        Dict keys must be strings.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If a float is NaN or infinite, a key is not a string, or a value has no JSON form; the message says where.

    Examples
    --------
    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    >>> canonical_json({"a": [0.0, float("nan")]})
    Traceback (most recent call last):
        ...
    refquant.errors.InputError: canonical JSON: $['a'][1] is nan, finite numbers are needed
    """
    try:
        _check_canonical(value, "$")
    except RecursionError as error:
        raise InputError("canonical JSON: the value is nested too deep or contains itself") from error
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_canonical(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"canonical JSON: {where} has the key {quoted(key)}, keys must be strings")
            _check_canonical(item, f"{where}[{quoted(key)}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_canonical(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"canonical JSON: {where} is {float(value)}, finite numbers are needed")
    elif value is not None and not isinstance(value, int | str):
        raise InputError(
            f"canonical JSON: {where} is a {type(value).__name__}, allowed are None, bool, int, float, str, list, tuple and dict"
        )


def digest(data: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of the UTF-8 of a text, as 64 hex digits.

    Parameters
    ----------
    data : bytes or str
        What is hashed.

    Returns
    -------
    str

    Examples
    --------
    >>> digest("abc")[:16]
    'ba7816bf8f01cfea'
    """
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
