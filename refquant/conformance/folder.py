"""A folder of vectors: one JSON and one safetensors file an operation, and a manifest over all.

The JSON file of an operation holds its declaration, its streams and its cases, one case a line, each canonical; tensors are called
``id/section/part`` in the safetensors file beside it. The manifest holds the SHA-256 of every case (see `Case.digest`) and of every
file, and the root hash: the SHA-256 of the lines ``id, space, hash`` of all cases and streams in the order of their ids, each ended by a
line feed. The hash of a stream is that of the canonical JSON of its entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refquant.conformance.case import SECTIONS, Case
from refquant.conformance.rules import Rule
from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.storage import canonical_json, digest, read_json, read_tensors

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """The vectors of one operation: its declaration as JSON values, its cases by id, and its streams' published digests by id."""

    operation: str
    declaration: Mapping[str, Any]
    cases: Mapping[str, Case]
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every case and stream, by id."""
        streams = {name: digest(canonical_json(dict(entry))) for name, entry in self.streams.items()}
        return {name: case.digest() for name, case in self.cases.items()} | streams

    def to_text(self) -> str:
        """The JSON file: one line a case or stream, so that a changed case is a changed line."""
        head = {"schema": SCHEMA_VERSION, "operation": dict(self.declaration)}
        lines = [canonical_json({**case.to_json(), "sha256": case.digest()}) for case in self.cases.values()]
        streams = [canonical_json(dict(entry)) for entry in self.streams.values()]
        parts = [f'"cases":[\n{_joined(lines)}]']
        parts += [f'"{name}":{canonical_json(value)}' for name, value in sorted(head.items())]
        return "{" + ",\n".join([*parts, f'"streams":[\n{_joined(streams)}]']) + "}\n"

    def tensors(self) -> dict[str, Array]:
        """All arrays by ``id/section/part``."""
        return {f"{name}/{part}": array for name, case in self.cases.items() for part, array in case.tensors().items()}


def _joined(lines: list[str]) -> str:
    return "".join(line + (",\n" if i < len(lines) - 1 else "\n") for i, line in enumerate(lines))


def root_hash(hashes: Mapping[str, str]) -> str:
    """One hash over all cases and streams.

    Examples
    --------
    >>> root_hash({"b": "01", "a": "02"}) == digest("a 02\\nb 01\\n")
    True
    """
    return digest("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)))


def manifest_text(vectors: Iterable[Vectors], files: Mapping[str, str]) -> str:
    """The manifest of these vectors; `files` are the SHA-256 of the files by name."""
    hashes = {name: value for one in vectors for name, value in one.hashes().items()}
    head = [f'"root":"{root_hash(hashes)}"', f'"schema":{SCHEMA_VERSION}']
    tables = {"files": files, "hashes": hashes}
    parts = [
        f'"{name}":{{\n' + ",\n".join(f"{canonical_json(key)}:{canonical_json(table[key])}" for key in sorted(table)) + "}"
        for name, table in tables.items()
    ]
    return "{" + ",\n".join([*parts, *head]) + "}\n"


def read_vectors(folder: Path, operation: str) -> Vectors:
    """Read the vectors of one operation.

    Raises
    ------
    InputError
        If a file is absent or damaged, or a tensor or field of a case is.
    """
    path = folder / f"{operation}.json"
    tree = read_json(path)
    if tree.get("schema") != SCHEMA_VERSION:
        raise InputError(f"{path}: schema {tree.get('schema')!r}; this release reads schema {SCHEMA_VERSION}")
    tensors = read_tensors(folder / f"{operation}.safetensors")
    by_case: dict[str, dict[str, dict[str, Array]]] = {}
    for name, array in tensors.items():
        owner, _, rest = name.rpartition("/")
        owner, _, section = owner.rpartition("/")
        if section not in SECTIONS:
            raise InputError(f"{path.with_suffix('.safetensors')}: tensor {name!r}; names are id/section/part")
        by_case.setdefault(owner, {}).setdefault(section, {})[rest] = array
    try:
        cases = {entry["id"]: _read_case(entry, by_case.pop(entry["id"], {})) for entry in tree["cases"]}
        streams = {entry["id"]: entry for entry in tree["streams"]}
        found = Vectors(operation=operation, declaration=tree["operation"], cases=cases, streams=streams)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not a file of golden vectors: {type(error).__name__} {error}") from error
    if by_case:
        raise InputError(f"{path.with_suffix('.safetensors')}: tensors of cases that {path.name} does not have: {sorted(by_case)[:3]}")
    return found


def _read_case(entry: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Array]]) -> Case:
    operation, _, slug = entry["id"].partition("/")
    case = Case(
        operation=operation,
        slug=slug,
        parameters=entry["parameters"],
        flags=tuple(entry["flags"]),
        note=entry["note"],
        lane=entry["lane"],
        source=entry["source"],
        twin=entry["twin"],
        rules={part: Rule.from_json(rule) for part, rule in entry["rules"].items()},
        inputs=tensors.get("inputs", {}),
        expected=tensors.get("expected", {}),
        margins=tensors.get("margins", {}),
    )
    if case.to_json()["tensors"] != entry["tensors"]:
        raise InputError(f"case {case.id}: its tensors are not those that its entry describes")
    return case


def operations_in(folder: Path) -> list[str]:
    """Names of the operations that a folder has vectors of, sorted.

    Raises
    ------
    InputError
        If the folder has no manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no golden vectors: there is no {MANIFEST}")
    return sorted(name.removesuffix(".json") for name in read_json(folder / MANIFEST)["files"] if name.endswith(".json"))
