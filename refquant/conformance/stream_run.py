"""Accumulated digests over a backend: a million inputs, one hash, and the first element that departs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refquant.conformance.backends.session import Backend, BackendTrouble, NotOfferedError, Question
from refquant.conformance.folder import read_vectors
from refquant.conformance.operation import Operation
from refquant.conformance.streams import Departure, Stream, bisect
from refquant.errors import UsageError
from refquant.numerics import FAST
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamVerdict:
    """What became of one stream: the published digest, a departure, a trouble, or skipped."""

    id: str
    rows: int
    digest: str
    departure: Departure | None = None
    trouble: str = ""
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Whether the digest is the published one, or the backend does not have these parameters."""
        return self.skipped or (self.departure is None and not self.trouble)

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.id}: {'skipped: ' if self.skipped else ''}{self.trouble}"
        if self.departure is None:
            return f"{self.id}: {self.rows} rows as published, {self.digest}"
        d = self.departure
        if d.row is None:
            return f"{self.id}: block {d.block} departs, and this package departs with it: run `refquant golden verify`"
        return (
            f"{self.id}: departs at row {d.row} (block {d.block}), {d.part}{list(d.index or ())} of its block: "
            f"expected {d.expected}, found {d.found}"
        )


def run_streams(
    backend: Backend, folder: Path, operations: Sequence[Operation], tell: Callable[[str, int, int], object]
) -> Iterator[StreamVerdict]:
    """Run every stream of these operations, block by block, until it departs."""
    for operation in operations:
        published = read_vectors(folder, operation.name).streams if operation.streams else {}
        for stream in operation.streams:
            name = f"{operation.name}/{stream.slug}"
            if name in published:
                tell(name, 0, 1)
                yield _run(backend, operation, stream, name, published[name]["digests"])


def _run(backend: Backend, operation: Operation, stream: Stream, name: str, digests: Sequence[str]) -> StreamVerdict:
    parts = [part.name for part in operation.outputs]
    dtypes = {part: array.dtype for part, array in operation.reference(stream.make(0, 1), stream.parameters, arithmetic=FAST).items()}

    def run(inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Mapping[str, Array]:
        found = backend.answer(Question(id=name, operation=operation.name, parameters=parameters, inputs=inputs))
        if absent := [part for part in parts if part not in found]:
            raise BackendTrouble("garbage", f"the output {absent[0]!r} is missing")
        return {part: _fitting(part, np.asarray(found[part]), dtypes[part]) for part in parts}

    verdict = partial(StreamVerdict, id=name, rows=stream.rows, digest=digests[-1])
    try:
        return verdict(departure=bisect(stream, digests, run, partial(operation.reference, arithmetic=FAST), parts))
    except NotOfferedError as reason:
        return verdict(trouble=str(reason), skipped=True)
    except (BackendTrouble, UsageError) as trouble:
        return verdict(trouble=str(trouble))


def _fitting(part: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """An output in the dtype that is hashed; as in cases, any integer dtype will do that holds the codes."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        cast = array.astype(dtype)
        if np.array_equal(cast.astype(array.dtype), array):
            return cast
    raise BackendTrouble("garbage", f"the output {part!r} is {array.dtype}, and holds values that {dtype} does not or is of another kind")
