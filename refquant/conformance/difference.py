"""What two folders of vectors differ in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refquant.conformance.case import Case, array_digest
from refquant.conformance.folder import operations_in, read_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One id: whether it is only in the first folder (``removed``), only in the second (``added``), or ``changed``, and in what."""

    id: str
    kind: str
    what: tuple[str, ...] = ()


def differences_between(old: Path, new: Path) -> list[Difference]:
    """Differences by id, sorted.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """
    left, right = _everything(old), _everything(new)
    found = []
    for name in sorted(set(left) | set(right)):
        if name not in right:
            found.append(Difference(id=name, kind="removed"))
        elif name not in left:
            found.append(Difference(id=name, kind="added"))
        elif what := _changes(left[name], right[name]):
            found.append(Difference(id=name, kind="changed", what=tuple(what)))
    return found


def _everything(folder: Path) -> dict[str, Case | dict[str, object]]:
    found: dict[str, Case | dict[str, object]] = {}
    for operation in operations_in(folder):
        vectors = read_vectors(folder, operation)
        found |= dict(vectors.cases)
        found |= {name: dict(entry) for name, entry in vectors.streams.items()}
    return found


def _changes(old: Case | dict[str, object], new: Case | dict[str, object]) -> list[str]:
    if isinstance(old, Case) and isinstance(new, Case):
        left, right = old.to_json(), new.to_json()
        told = [key for key in left if key != "tensors" and left[key] != right[key]]
        return told + _tensor_changes(old, new)
    left = old.to_json() if isinstance(old, Case) else old
    right = new.to_json() if isinstance(new, Case) else new
    return sorted(key for key in set(left) | set(right) if left.get(key) != right.get(key))


def _tensor_changes(old: Case, new: Case) -> list[str]:
    left, right, found = old.tensors(), new.tensors(), []
    for name in sorted(set(left) | set(right)):
        if name not in left or name not in right:
            found.append(f"{name} {'added' if name in right else 'removed'}")
            continue
        a, b = left[name], right[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            found.append(f"{name}: {a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}")
        elif array_digest(a) != array_digest(b):
            raw = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(a.size, -1) for array in (a, b)]
            places = np.flatnonzero((raw[0] != raw[1]).any(axis=1))
            first = tuple(int(i) for i in np.unravel_index(int(places[0]), a.shape))
            found.append(f"{name}: {len(places)} of {a.size}, first at {first}: {a[first]} became {b[first]}")
    return found
