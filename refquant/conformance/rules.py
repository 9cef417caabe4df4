"""How a found tensor is compared with the expected one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from refquant.errors import InputError, UsageError

Kind = Literal["bytes", "ulp", "scaled", "margin"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as the same. Made by :data:`BYTES`, :func:`ulp`, :func:`scaled` or :func:`margin`.

    Parameters
    ----------
    kind : {"bytes", "ulp", "scaled", "margin"}
        Equal bytes (all NaN are one, the sign of zero counts); at most `bound` representable numbers apart; off by at most `bound` times
        the largest expected magnitude; codes that may differ only where the vector's decision margin is at most `bound` steps.
    bound : float
        Not looked at by ``bytes``.

    Raises
    ------
    UsageError
        If the kind is unknown or the bound negative or not finite.
    """

    kind: Kind
    bound: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"unknown comparison rule {self.kind!r}; known are {', '.join(get_args(Kind))}")
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise UsageError(f"the bound of a comparison is a finite number of at least 0, not {self.bound!r}")

    def to_json(self) -> dict[str, Any]:
        """The rule as JSON values.

        Examples
        --------
        >>> ulp(2).to_json(), BYTES.to_json()
        ({'kind': 'ulp', 'bound': 2.0}, {'kind': 'bytes'})
        """
        return {"kind": self.kind} if self.kind == "bytes" else {"kind": self.kind, "bound": float(self.bound)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Rule:
        """Read what :meth:`to_json` gave; raises InputError for anything else."""
        try:
            return cls(**tree)
        except (TypeError, ValueError) as error:
            raise InputError(f"{tree!r} is not a comparison rule: {error}") from error

    def __str__(self) -> str:
        return self.kind if self.kind == "bytes" else f"{self.kind}({self.bound:g})"


BYTES = Rule("bytes")
"""Equal bytes."""


def ulp(count: float) -> Rule:
    """At most `count` representable numbers of the expected dtype apart."""
    return Rule("ulp", count)


def scaled(bound: float) -> Rule:
    """Every element off by at most `bound` times the largest expected magnitude of the part: for products and factors of matrices."""
    return Rule("scaled", bound)


def margin(bound: float) -> Rule:
    """Codes may differ only where the vector's decision margin is at most `bound` steps, and then by one code."""
    return Rule("margin", bound)
