"""The lines that a command behind a pipe, and the files of a folder, speak. Version 1; see docs/conformance.md.

Every line is one JSON object. The command begins with a hello,

    {"protocol": 1, "operations": ["uniform.quantize"], "name": "my kernel", "arrays": "base64"}

of which `name` and `arrays` (``base64``, the default, or ``files``: how it wants its inputs) may be absent. Then, for every question

    {"id": "...", "inputs": {"x": ARRAY}, "operation": "uniform.quantize", "parameters": {...}}

it writes one answer: ``{"id": "...", "outputs": {"codes": ARRAY}}``, ``{"id": "...", "skip": "why"}`` where it does not have these
parameters, or ``{"id": "...", "error": "what went wrong"}``. An ARRAY is ``{"dtype": "float32", "shape": [3, 40], "data": BASE64}``
or, with ``"file": PATH`` in the place of `data`, a file of the same bytes: little-endian, C order. Questions are canonical JSON (keys
sorted, no spaces), which a program of few lines can scan.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from refquant.conformance.backends.session import BackendTrouble, NotOfferedError, Question
from refquant.conformance.case import little_endian
from refquant.conformance.catalog import OPERATIONS
from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.storage import canonical_json

PROTOCOL = 1
MAX_LINE = 256_000_000
"""Bytes of the longest line that is read."""
NUMPY_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a command says of itself."""

    operations: tuple[str, ...]
    name: str
    arrays: str


def clipped(text: str) -> str:
    """A line as it may stand in a message: short, in quotes.

    Examples
    --------
    >>> clipped("loading weights\\n")
    "'loading weights'"
    """
    text = text.strip()
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def object_of(line: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises
    ------
    BackendTrouble
        If it is none.
    """
    text = line.decode("utf-8", errors="replace")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackendTrouble("garbage", f"a line that is no JSON: {clipped(text)}") from error
    if not isinstance(tree, dict):
        raise BackendTrouble("garbage", f"a line that is no JSON object: {clipped(text)}")
    return tree


def read_hello(line: bytes, where: str) -> Hello:
    """The first line of a command.

    Raises
    ------
    InputError
        If it is no hello of this version, or names operations that do not exist.

    Examples
    --------
    >>> read_hello(b'{"protocol": 1, "operations": ["rounding.floor"]}', "./kernel")
    Hello(operations=('rounding.floor',), name='./kernel', arrays='base64')
    """
    wanted = '{"protocol": 1, "operations": [...]} is needed first'
    try:
        tree = object_of(line)
    except BackendTrouble as trouble:
        raise InputError(f"{where}: the first line is {trouble}; {wanted}") from trouble
    if tree.get("protocol") != PROTOCOL:
        raise InputError(f"{where}: the hello says protocol {tree.get('protocol')!r}; this release speaks {PROTOCOL}; {wanted}")
    operations, arrays = tree.get("operations"), tree.get("arrays", "base64")
    if not isinstance(operations, list) or not operations or not all(isinstance(name, str) for name in operations):
        raise InputError(f"{where}: the hello names no operations; {wanted}")
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown:
        raise InputError(f"{where}: the hello names {unknown[0]!r}; known operations are {', '.join(OPERATIONS)}")
    if arrays not in ("base64", "files"):
        raise InputError(f"{where}: the hello asks for arrays as {arrays!r}; base64 and files are there")
    return Hello(operations=tuple(name for name in OPERATIONS if name in operations), name=str(tree.get("name", where)), arrays=arrays)


def dtype_named(name: object) -> np.dtype[Any] | None:
    """The dtype of a name: NumPy's, or one of ml_dtypes; None if there is none.

    Examples
    --------
    >>> dtype_named("bfloat16").itemsize, dtype_named("object")
    (2, None)
    """
    if name in NUMPY_DTYPES:
        return np.dtype(str(name))
    if isinstance(name, str) and name.startswith(("bfloat", "float4_", "float6_", "float8_", "int2", "int4", "uint2", "uint4")):
        found = getattr(ml_dtypes, name, None)
        return None if found is None else np.dtype(found)
    return None


def array_tree(array: Array, file: Path | None = None) -> dict[str, Any]:
    """An array as JSON values; with `file`, its bytes go there.

    Examples
    --------
    >>> array_tree(np.array([1, 2], dtype=np.int16))
    {'dtype': 'int16', 'shape': [2], 'data': 'AQACAA=='}
    """
    head = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if file is None:
        return {**head, "data": base64.b64encode(little_endian(array)).decode("ascii")}
    file.write_bytes(little_endian(array))
    return {**head, "file": str(file)}


def read_array(tree: object, part: str, folder: Path) -> Array:
    """An array from JSON values; paths are relative to `folder`.

    Raises
    ------
    BackendTrouble
        If it is none.

    Examples
    --------
    >>> read_array({"dtype": "int16", "shape": [2], "data": "AQACAA=="}, "y", Path())
    array([1, 2], dtype=int16)
    """
    where = f"the output {part!r}"
    if not isinstance(tree, dict):
        raise BackendTrouble("garbage", f"{where} is no object with dtype, shape and data or file")
    dtype, shape = dtype_named(tree.get("dtype")), tree.get("shape")
    if dtype is None:
        raise BackendTrouble("garbage", f"{where} has the dtype {tree.get('dtype')!r}; NumPy's and ml_dtypes' names are understood")
    if not isinstance(shape, list) or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise BackendTrouble("garbage", f"{where} has the shape {shape!r}; a list of whole numbers is needed")
    raw = _raw(tree, where, folder)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        needed = f"{dtype.name} of shape {shape} takes {math.prod(shape) * dtype.itemsize}"
        raise BackendTrouble("garbage", f"{where} has {len(raw)} bytes; {needed}")
    words = np.frombuffer(raw, dtype=f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}")
    return words.view(dtype).reshape(shape)


def _raw(tree: Mapping[str, Any], where: str, folder: Path) -> bytes:
    data, file = tree.get("data"), tree.get("file")
    if (data is None) == (file is None):
        raise BackendTrouble("garbage", f"{where} needs either data or file")
    if not isinstance(data if file is None else file, str):
        raise BackendTrouble("garbage", f"{where} has data or file that is no text")
    if file is not None:
        try:
            return (folder / str(file)).read_bytes()
        except (OSError, ValueError) as error:
            raise BackendTrouble("garbage", f"{where} is said to be in {file}, which cannot be read: {error}") from error
    try:
        return base64.b64decode(str(data), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BackendTrouble("garbage", f"{where} has data that is no base64: {error}") from error


def question_line(question: Question, folder: Path | None = None) -> bytes:
    """The line that asks; with `folder`, the arrays are written there."""
    slug = question.id.replace("/", ".")
    inputs = {part: array_tree(array, None if folder is None else folder / f"{slug}.{part}.bin") for part, array in question.inputs.items()}
    tree = {"id": question.id, "operation": question.operation, "parameters": dict(question.parameters), "inputs": inputs}
    return canonical_json(tree).encode() + b"\n"


def read_outputs(tree: Mapping[str, Any], folder: Path) -> dict[str, Array]:
    """The outputs of an answer.

    Raises
    ------
    BackendTrouble
        If the answer is an error, or its outputs are none.
    NotOfferedError
        If the backend does not have these parameters.
    """
    if "skip" in tree:
        raise NotOfferedError(str(tree["skip"]))
    if "error" in tree:
        raise BackendTrouble("raised", f"the backend says: {tree['error']}")
    outputs = tree.get("outputs")
    if not isinstance(outputs, dict):
        raise BackendTrouble("garbage", f"an answer without outputs, skip or error: its keys are {sorted(tree)}")
    return {part: read_array(array, part, folder) for part, array in outputs.items()}
