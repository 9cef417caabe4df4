"""Counterexamples as code: a snippet that anybody can paste, and the function that it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refquant.conformance.laws.catalog import find_law
from refquant.conformance.laws.law import Example, Kind, Law, Subject
from refquant.conformance.laws.traits import Traits
from refquant.core import QuantSpec
from refquant.numerics.arrays import Array

IMPORTS = ("import numpy as np", "from refquant.conformance.laws import Traits, replay", "from refquant.core import QuantSpec, Tiling")
DRAWING = ("values", "nasty", "dtypes", "widths")  # options that say how examples are drawn, which a replay does not


def replay(
    kind: Kind,
    law: str,
    f: Callable[..., Any],
    example: Example,
    *,
    also: Callable[..., Any] | None = None,
    spec: QuantSpec | None = None,
    traits: Traits | None = None,
    **options: Any,
) -> None:
    """Check one law on one example, without hypothesis.

    Parameters
    ----------
    kind : {"quantizer", "weight_method", "statistics", "packing", "rewrite"}
    law : str
    f : callable
    example : mapping
        The counterexample of a record.
    also : callable, optional
        What was given as `encode`, `merge` or `unpack`.
    spec, traits
        As they were given to the check.
    **options
        Bounds and ends that the check's records name.

    Raises
    ------
    BrokenLawError
        If the law is broken by the example.
    UsageError
        If there is no such law.

    Examples
    --------
    >>> replay("quantizer", "sign_symmetry", np.ceil, {"x": np.array([[0.5]])})
    Traceback (most recent call last):
    refquant.conformance.laws.law.BrokenLawError: f(-x) against -f(x): -0.0 instead of -1.0 at index (0, 0)
    """
    subject = Subject(kind=kind, call=f, also=also, spec=spec, traits=_traits(spec, traits), options=options)
    find_law(kind, law).check(subject, example)


def _traits(spec: QuantSpec | None, traits: Traits | None) -> Traits:
    return traits if traits is not None else Traits.of(spec) if spec is not None else Traits()


def snippet(law: Law, subject: Subject, example: Mapping[str, Any]) -> str:
    """Python code that calls :func:`replay` on an example, for a function called ``f`` (and its partner ``also``)."""
    lines = [*IMPORTS, ""]
    if any(isinstance(part, np.ndarray) and part.dtype.name == "bfloat16" for part in example.values()):
        lines.insert(1, "import ml_dtypes")
    lines += ["replay(", f"    {law.kind!r},", f"    {law.name!r},", "    f,", "    {"]
    lines += [f"        {name!r}: {_literal(part)}," for name, part in example.items()]
    lines.append("    },")
    if subject.also is not None:
        lines.append("    also=also,")
    if subject.spec is not None:
        lines.append(f"    spec=QuantSpec.from_json({subject.spec.to_json()!r}),")
    if subject.traits != _traits(subject.spec, None):
        lines.append(f"    traits={subject.traits!r},")
    lines += [f"    {name}={option!r}," for name, option in subject.options.items() if name not in DRAWING]
    return "\n".join([*lines, ")"])


def _literal(part: Any) -> str:
    if isinstance(part, np.ndarray):
        return _array_literal(part)
    text = repr(part.item() if isinstance(part, np.generic) else part)
    return f"float({text!r})" if text in ("inf", "-inf", "nan") else text


def _array_literal(array: Array) -> str:
    """Numbers as Python prints them, which is enough digits to get them back; NaN and infinities by their NumPy names."""
    dtype = "ml_dtypes.bfloat16" if array.dtype.name == "bfloat16" else repr(array.dtype.name)
    if not array.size:
        return f"np.zeros({array.shape}, dtype={dtype})"
    wide = array.astype(np.float64) if array.dtype.kind not in "iub" else array
    text = repr(wide.tolist()).replace("inf", "np.inf").replace("nan", "np.nan")
    return f"np.array({text}, dtype={dtype})"
