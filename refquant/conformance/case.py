"""One golden vector: what goes in, what must come out, how it is compared, and why it exists."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from refquant.conformance.flags import FLAGS
from refquant.conformance.rules import BYTES, Rule
from refquant.errors import UsageError
from refquant.numerics.arrays import Array, read_only
from refquant.storage import canonical_json, digest

Lane = Literal["exact", "ordered", "bounded"]
Source = Literal["oracle", "ordered"]
ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+/[a-z0-9_.-]+")
SECTIONS = ("inputs", "expected", "margins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A vector of one operation.

    Parameters
    ----------
    operation : str
        Dotted name, such as ``uniform.quantize``.
    slug : str
        The rest of the permanent id ``operation/slug``: lower case, digits, ``_ . -``. It is never given to another case.
    parameters : mapping of str to JSON values
        The operation's, without anything that would have to be inferred.
    inputs, expected : mapping of str to ndarray
    flags : tuple of str
        Names of :data:`refquant.conformance.flags.FLAGS`, at least one.
    note : str
        What is particular about this case beyond its flags; may be empty.
    lane : {"exact", "ordered", "bounded"}
        What an implementation can promise: the same bytes by IEEE operations alone; the same bytes in the ordered arithmetic; a bound.
    source : {"oracle", "ordered"}
        Where the expected values come from: `refquant.oracle`, mpmath or brute force; or the ordered arithmetic of this package, because
        an oracle of that size is out of reach.
    twin : str, optional
        With source ``ordered``: the id of a smaller case of the same operation whose values come from the oracle.
    rules : mapping of str to Rule
        By name of the expected part; equal bytes where there is none.
    margins : mapping of str to float ndarray
        By name of the expected part of codes: distance of each decision from the nearest value with another code, in steps.

    Raises
    ------
    UsageError
        If anything contradicts this.

    Examples
    --------
    >>> case = Case(operation="rounding.floor", slug="one", parameters={}, inputs={"x": np.ones(1)}, expected={"y": np.ones(1)},
    ...             flags=("ordinary",), lane="exact")
    >>> case.id, case.rule("y").kind, case.digest()[:8]
    ('rounding.floor/one', 'bytes', '88d4b087')
    """

    operation: str
    slug: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    flags: tuple[str, ...]
    note: str = ""
    lane: Lane
    source: Source = "oracle"
    twin: str | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict)
    margins: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SECTIONS:
            arrays = {part: read_only(np.asarray(array)) for part, array in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, MappingProxyType(arrays))
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))
        object.__setattr__(self, "flags", tuple(self.flags))
        for fault in self._faults():
            raise UsageError(f"golden case {self.id}: {fault}")

    def _faults(self) -> list[str]:
        faults = []
        if not ID.fullmatch(self.id):
            faults.append("an id is operation.name/slug in lower case, digits, '_', '.' and '-'")
        unknown = [flag for flag in self.flags if flag not in FLAGS]
        if unknown:
            faults.append(f"unknown flags {unknown}; known are {', '.join(FLAGS)}")
        if not self.flags:
            faults.append("a case needs a flag: why does it exist?")
        if self.lane not in get_args(Lane) or self.source not in get_args(Source):
            faults.append(f"lane {self.lane!r} of {get_args(Lane)}, source {self.source!r} of {get_args(Source)}")
        if (self.source == "ordered") != (self.twin is not None):
            faults.append("a case from the ordered arithmetic names its twin from the oracle, and no other case does")
        for what, names in (("rules", self.rules), ("margins", self.margins)):
            if stray := sorted(set(names) - set(self.expected)):
                faults.append(f"{what} for {stray}, which are no expected parts")
        for name, array in self.margins.items():
            if name in self.expected and array.shape != self.expected[name].shape:
                faults.append(f"margins of {name!r} have shape {array.shape}, the part has {self.expected[name].shape}")
        missing = [name for name, rule in self.rules.items() if rule.kind == "margin" and name not in self.margins]
        return faults + [f"part {name!r} is compared by margins and has none" for name in missing]

    @property
    def id(self) -> str:
        """The permanent name."""
        return f"{self.operation}/{self.slug}"

    def rule(self, part: str) -> Rule:
        """How an expected part is compared."""
        return self.rules.get(part, BYTES)

    def tensors(self) -> dict[str, Array]:
        """Every array by ``section/part``: ``inputs/x``, ``expected/codes``, ``margins/codes``."""
        return {f"{section}/{part}": array for section in SECTIONS for part, array in getattr(self, section).items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values; what they are called, their dtypes, shapes and hashes stand in for them."""
        tensors = {name: [array.dtype.name, list(array.shape), array_digest(array)] for name, array in self.tensors().items()}
        return {
            "id": self.id,
            "parameters": dict(self.parameters),
            "flags": list(self.flags),
            "note": self.note,
            "lane": self.lane,
            "source": self.source,
            "twin": self.twin,
            "rules": {part: self.rule(part).to_json() for part in self.expected},
            "tensors": tensors,
        }

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of :meth:`to_json`: independent of file layouts and of this package."""
        return digest(canonical_json(self.to_json()))


def array_digest(array: Array) -> str:
    """SHA-256 over an array's bytes, little-endian in C order.

    Examples
    --------
    >>> array_digest(np.zeros(3, np.uint8))[:8]
    '709e80c8'
    """
    return hashlib.sha256(little_endian(array)).hexdigest()


def little_endian(array: Array) -> bytes:
    """The bytes of an array in C order, every number little-endian.

    Examples
    --------
    >>> little_endian(np.array([258], dtype=">u2"))
    b'\\x02\\x01'
    """
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # By way of unsigned integers: the formats of ml_dtypes have no byte order of their own.
    return native.reshape(-1).view(f"u{native.dtype.itemsize}").astype(f"<u{native.dtype.itemsize}", copy=False).tobytes()
