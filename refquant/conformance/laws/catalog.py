"""All laws, by the kind of function that they are about."""

from __future__ import annotations

from refquant.conformance.laws.law import Law
from refquant.conformance.laws.packing import PACKING_LAWS
from refquant.conformance.laws.quantizer import QUANTIZER_LAWS
from refquant.conformance.laws.rewrite import REWRITE_LAWS
from refquant.conformance.laws.statistics import STATISTICS_LAWS
from refquant.conformance.laws.weight_method import WEIGHT_METHOD_LAWS
from refquant.errors import UsageError

LAWS: dict[str, tuple[Law, ...]] = {
    "quantizer": QUANTIZER_LAWS,
    "weight_method": WEIGHT_METHOD_LAWS,
    "statistics": STATISTICS_LAWS,
    "packing": PACKING_LAWS,
    "rewrite": REWRITE_LAWS,
}


def find_law(kind: str, name: str) -> Law:
    """Look a law up.

    Raises
    ------
    UsageError
        If there is no such kind of function, or it has no such law.

    Examples
    --------
    >>> find_law("statistics", "merge_commutativity").statement
    'a + b = b + a'
    """
    if kind not in LAWS:
        raise UsageError(f"laws are about {', '.join(LAWS)}, not {kind!r}")
    found = next((law for law in LAWS[kind] if law.name == name), None)
    if found is None:
        raise UsageError(f"there is no law {name!r} of a {kind}; known are {', '.join(law.name for law in LAWS[kind])}")
    return found
