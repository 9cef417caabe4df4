"""Do the files hold what the manifest says, and does this package give what they expect?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.compare import Mismatch, compare
from refquant.conformance.folder import MANIFEST, Vectors, operations_in, read_vectors, root_hash
from refquant.conformance.operation import Operation
from refquant.errors import InputError, RefquantError
from refquant.numerics import FAST, Arithmetic
from refquant.storage import digest, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Cases checked and mismatches, by operation; and what is wrong with the files."""

    root: str
    cases: Mapping[str, int]
    mismatches: Mapping[str, list[Mismatch]]
    damage: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.damage and not any(self.mismatches.values())


def verify(folder: Path, arithmetic: Arithmetic = FAST) -> Verified:
    """Check a folder of vectors, and this package against it.

    Parameters
    ----------
    folder : Path
    arithmetic : Arithmetic
        What our own operations compute in.

    Raises
    ------
    InputError
        If a file cannot be read at all.
    """
    damage = list(file_damage(folder))
    hashes: dict[str, str] = {}
    cases: dict[str, int] = {}
    mismatches: dict[str, list[Mismatch]] = {}
    for name in operations_in(folder):
        vectors = read_vectors(folder, name)
        hashes |= vectors.hashes()
        cases[name] = len(vectors.cases)
        if name not in OPERATIONS:
            damage.append(f"{name}: this release knows no such operation")
            continue
        mismatches[name] = check_vectors(find_operation(name), vectors, arithmetic)
    manifest = read_json(folder / MANIFEST)
    known = manifest["hashes"]
    damage += [f"{name}: the manifest has another hash" for name in sorted(hashes) if hashes[name] != known.get(name)]
    damage += [f"{name}: in the manifest, and in no file" for name in sorted(set(known) - set(hashes))]
    if root_hash(hashes) != manifest["root"]:
        damage.append(f"the root hash is {root_hash(hashes)}, the manifest says {manifest['root']}")
    return Verified(root=root_hash(hashes), cases=cases, mismatches=mismatches, damage=tuple(damage))


def check_vectors(operation: Operation, vectors: Vectors, arithmetic: Arithmetic = FAST) -> list[Mismatch]:
    """Mismatches of this package in one operation's cases; an error counts as one."""
    found: list[Mismatch] = []
    for case in vectors.cases.values():
        try:
            outputs = operation.reference(case.inputs, case.parameters, arithmetic=arithmetic)
        except RefquantError as error:
            why = f"{type(error).__name__}: {error}"
            found.append(Mismatch(case=case.id, part="", index=None, expected=None, found=None, rule="", why=why))
            continue
        found += compare(operation, case, outputs)
    return found


def file_damage(folder: Path) -> list[str]:
    """Files that are not what the manifest says, or absent."""
    found = []
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict):
        raise InputError(f"{folder / MANIFEST}: it names no files")
    for name, expected in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            found.append(f"{name}: absent")
        elif digest(path.read_bytes()) != expected:
            found.append(f"{name}: its SHA-256 is not the manifest's")
    return found
