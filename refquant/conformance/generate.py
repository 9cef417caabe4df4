"""Make the vectors from their declarations, and write them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.folder import MANIFEST, Vectors, manifest_text, read_vectors, root_hash
from refquant.conformance.ledger import LEDGER, published, unpublished_lines
from refquant.conformance.locate import golden_directory
from refquant.conformance.operation import Operation
from refquant.conformance.streams import Stream, running_digests
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST
from refquant.storage import digest, new_directory, read_json, write_bytes, write_tensors, write_text

KEPT = ("schema.json", "CHANGES.md", "README.md")
"""Files that people write; they are carried along."""


def make_vectors(operation: Operation) -> Vectors:
    """All cases and streams of one operation, made anew.

    Raises
    ------
    UsageError
        If a case contradicts the operation's declaration, an id is given twice, or a package that makes values is not installed.
    """
    cases = {}
    for case in operation.cases():
        if faults := operation.faults(case):
            raise UsageError(f"golden case {case.id}: {'; '.join(faults)}")
        if case.id in cases:
            raise UsageError(f"golden case {case.id}: the id is given twice")
        cases[case.id] = case
    entries = {f"{operation.name}/{stream.slug}": stream_entry(operation, stream) for stream in operation.streams}
    if both := sorted(set(entries) & set(cases)):
        raise UsageError(f"golden case {both[0]}: a stream has the same id")
    return Vectors(
        operation=operation.name,
        declaration=operation.to_json(),
        cases={name: cases[name] for name in sorted(cases)},
        streams={name: entries[name] for name in sorted(entries)},
    )


def stream_entry(operation: Operation, stream: Stream) -> dict[str, object]:
    """What is published of a stream: how it is made, and the running digest after each block."""
    run = partial(operation.reference, arithmetic=FAST)
    return {
        "id": f"{operation.name}/{stream.slug}",
        "what": stream.what,
        "parameters": dict(stream.parameters),
        "rows": stream.rows,
        "block": stream.block,
        "outputs": [part.name for part in operation.outputs],
        "digests": list(running_digests(stream, run, [part.name for part in operation.outputs])),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write_golden` did."""

    folder: Path
    root: str
    cases: int
    nbytes: int
    new: int
    changed: tuple[str, ...]
    vanished: tuple[str, ...]


def write_golden(out: Path, operations: Iterable[str] | None = None) -> Written:
    """Make vectors and write a folder of them, whole or not at all.

    Parameters
    ----------
    out : Path
        A new folder; or an existing folder of vectors, which is replaced. What people wrote into it is kept, and its ledger is continued.
    operations : iterable of str, optional
        Make these anew and take the others as they are in `out`; by default all.

    Raises
    ------
    UsageError
        If an operation is unknown.
    InputError
        If `out` exists and holds no vectors, or cannot be written.
    """
    chosen = list(OPERATIONS) if operations is None else sorted(set(operations))
    made = {name: make_vectors(find_operation(name)) for name in chosen}
    exists = out.exists()
    if exists and not (out / "schema.json").is_file():
        raise InputError(f"{out}: exists and is no folder of golden vectors; name a new folder, or one with vectors to replace")
    if operations is not None:
        made |= {name: read_vectors(out, name) for name in OPERATIONS if name not in made and (out / f"{name}.json").is_file()}
    ordered = [made[name] for name in sorted(made)]
    old = published(out) if exists else {}
    hashes = {name: value for vectors in ordered for name, value in vectors.hashes().items()}
    target = out.with_name(f"{out.name}.new") if exists else out
    with new_directory(target) as folder:
        _fill(folder, ordered, out if exists else golden_directory())
        earlier = (out / LEDGER).read_text(encoding="utf-8") if (out / LEDGER).is_file() else ""
        write_text(folder / LEDGER, earlier + "".join(unpublished_lines(old, hashes)))
        nbytes = sum(path.stat().st_size for path in folder.iterdir())
    if exists:
        _exchange(target, out)
    return Written(
        folder=out,
        root=root_hash(hashes),
        cases=sum(len(vectors.cases) for vectors in ordered),
        nbytes=nbytes,
        new=len(set(hashes) - set(old)),
        changed=tuple(sorted(name for name in set(hashes) & set(old) if hashes[name][: len(old[name][-1])] != old[name][-1])),
        vanished=tuple(sorted(set(old) - set(hashes))),
    )


def _fill(folder: Path, vectors: list[Vectors], kept: Path) -> None:
    files = {}
    for one in vectors:
        write_text(folder / f"{one.operation}.json", one.to_text())
        write_tensors(folder / f"{one.operation}.safetensors", one.tensors(), {"made_by": "refquant golden generate"})
    for path in sorted(folder.iterdir()):
        files[path.name] = digest(path.read_bytes())
    for name in KEPT:
        if (kept / name).is_file():
            write_bytes(folder / name, (kept / name).read_bytes())
    write_text(folder / MANIFEST, manifest_text(vectors, files))


def _exchange(new: Path, old: Path) -> None:
    """Two renames: whatever happens between them, one whole folder is there under one of the names."""
    aside = old.with_name(f"{old.name}.old")
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regenerated:
    """The root hash that making everything anew gives, the published one, and the ids whose hashes differ."""

    root: str
    published: str
    differing: tuple[str, ...]
    cases: int


def check_golden(folder: Path | None = None) -> Regenerated:
    """Make everything anew in memory and compare it with what a folder publishes.

    Raises
    ------
    InputError
        If the folder has no manifest.
    """
    place = folder or golden_directory()
    manifest = read_json(place / MANIFEST)
    hashes = {name: value for operation in OPERATIONS for name, value in make_vectors(find_operation(operation)).hashes().items()}
    known = manifest["hashes"]
    differing = sorted(name for name in set(hashes) | set(known) if hashes.get(name) != known.get(name))
    return Regenerated(root=root_hash(hashes), published=manifest["root"], differing=tuple(differing), cases=len(hashes))
