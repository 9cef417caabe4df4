"""What a folder of vectors must hold besides being undamaged: its own rules, all of them, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from refquant.conformance.case import Case
from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.flags import FLAGS
from refquant.conformance.folder import MANIFEST, Vectors, operations_in, read_vectors
from refquant.conformance.ledger import unexplained
from refquant.conformance.locate import golden_directory
from refquant.conformance.schema import faults
from refquant.conformance.verify import file_damage
from refquant.storage import read_json

MOST_BYTES = 8_000_000


def lint(folder: Path | None = None) -> list[str]:
    """Everything that a folder of vectors breaks, one line each; nothing if all is well.

    Checked: files against the manifest; JSON against the schema; names of operations against the catalogue and declarations against the
    code; inputs, outputs and parameters of each case; twins; flags that no case carries; the ledger and its changes; the size.

    Raises
    ------
    InputError
        If a file cannot be read at all.
    """
    place = folder or golden_directory()
    found = list(file_damage(place))
    schema = read_json(place / "schema.json")
    known = operations_in(place)
    found += [f"{name}: in the catalogue, and has no file; run `refquant golden generate`" for name in OPERATIONS if name not in known]
    found += [f"{name}: a file of no operation in the catalogue" for name in known if name not in OPERATIONS]
    everything: list[Vectors] = []
    for name in known:
        broken = [f"{name}.json: {fault}" for fault in faults(read_json(place / f"{name}.json"), schema)]
        found += broken
        if not broken:
            everything.append(read_vectors(place, name))
    cases = {case.id: case for vectors in everything for case in vectors.cases.values()}
    for vectors in everything:
        if vectors.operation in OPERATIONS:
            found += _declared(vectors)
    found += [fault for case in cases.values() for fault in _twin(case, cases)]
    carried = {flag for case in cases.values() for flag in case.flags}
    found += [f"flag {flag!r}: no case carries it" for flag in FLAGS if flag not in carried]
    found += unexplained(place, read_json(place / MANIFEST)["hashes"])
    nbytes = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
    if nbytes > MOST_BYTES:
        found.append(f"{nbytes} bytes of vectors, at most {MOST_BYTES} are allowed; make a stream of it")
    return found


def _declared(vectors: Vectors) -> Iterator[str]:
    operation = find_operation(vectors.operation)
    if dict(vectors.declaration) != operation.to_json():
        yield f"{vectors.operation}: its declaration changed; run `refquant golden generate`"
    for case in vectors.cases.values():
        yield from (f"{case.id}: {fault}" for fault in operation.faults(case))
    slugs = {f"{operation.name}/{stream.slug}" for stream in operation.streams}
    if slugs != set(vectors.streams):
        yield f"{vectors.operation}: streams {sorted(vectors.streams)}, declared are {sorted(slugs)}"


def _twin(case: Case, cases: dict[str, Case]) -> Iterator[str]:
    if case.twin is None:
        return
    twin = cases.get(case.twin)
    if twin is None:
        yield f"{case.id}: its twin {case.twin} does not exist"
    elif twin.source != "oracle" or twin.operation != case.operation:
        yield f"{case.id}: its twin {case.twin} is no case of {case.operation} whose values come from the oracle"
