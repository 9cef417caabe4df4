"""What a law is: a statement about somebody's function, what it needs, and a check of one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from refquant.conformance.laws.traits import Traits
from refquant.core import QuantSpec
from refquant.errors import RefquantError, UsageError
from refquant.numerics.arrays import Array

Kind = Literal["quantizer", "weight_method", "statistics", "packing", "rewrite"]
Example = Mapping[str, Any]


class BrokenLawError(RefquantError, AssertionError):
    """A function does not do what a law says."""


class NotApplicableError(RefquantError):
    """A law turns out not to apply, because of what the function returned."""


class UnreadableAnswerError(UsageError):
    """A function returned something that no law can look at; that is a misunderstanding and not a broken law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The function under test, and what is known of it.

    Parameters
    ----------
    kind : str
        Which family of laws applies: ``quantizer``, ``weight_method``, ``statistics``, ``packing`` or ``rewrite``.
    call : callable
        The function, as the family takes it.
    also : callable, optional
        Its partner: the merge of statistics, the unpacking of a packing, the encoding of a quantizer on a given grid.
    spec : QuantSpec, optional
        What the function claims to compute.
    traits : Traits
    options : mapping
        What a family needs beyond that, such as bounds.
    """

    kind: Kind
    call: Callable[..., Any]
    also: Callable[..., Any] | None = None
    spec: QuantSpec | None = None
    traits: Traits
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One law.

    Parameters
    ----------
    name : str
        By which a record, a card and an expected failure call it.
    kind : str
        The family of functions it is about.
    statement : str
        What holds, in a sentence.
    draws : tuple of str
        What an example is made of; names of :mod:`refquant.conformance.laws.examples`.
    needs : callable
        Takes the subject; None if the law applies, else a reason why not.
    check : callable
        Takes subject and example; raises :class:`BrokenLawError` saying what was found.

    Examples
    --------
    >>> from refquant.conformance.laws import find_law
    >>> find_law("quantizer", "sign_symmetry").statement
    'f(-x) = -f(x)'
    """

    name: str
    kind: Kind
    statement: str
    draws: tuple[str, ...]
    needs: Callable[[Subject], str | None]
    check: Callable[[Subject, Example], None]


def always(subject: Subject) -> str | None:
    """Need nothing: the law applies to every function."""
    return None


def broken(message: str) -> NoReturn:
    """Raise :class:`BrokenLawError`."""
    raise BrokenLawError(message)


def require_same(found: Array, expected: Array, what: str) -> None:
    """Raise :class:`BrokenLawError` at the first element that differs; NaN equals NaN, and -0 equals 0.

    Examples
    --------
    >>> require_same(np.array([1.0, 2.0]), np.array([1.0, 3.0]), "f(-x) against -f(x)")
    Traceback (most recent call last):
    refquant.conformance.laws.law.BrokenLawError: f(-x) against -f(x): 2.0 instead of 3.0 at index (1,)
    """
    if found.shape != expected.shape:
        broken(f"{what}: shape {found.shape} instead of {expected.shape}")
    differs = ~((found == expected) | ((found != found) & (expected != expected)))
    if differs.any():
        at = first_index(differs)
        broken(f"{what}: {number(found[at])} instead of {number(expected[at])} at index {at}")


def require_within(found: Array, expected: Array, bound: Array | float, what: str) -> None:
    """Raise :class:`BrokenLawError` at the first element that is farther than `bound` from what is expected."""
    if found.shape != expected.shape:
        broken(f"{what}: shape {found.shape} instead of {expected.shape}")
    bounds = np.broadcast_to(bound, found.shape)
    far = ~(np.abs(found - expected) <= bounds)
    if far.any():
        at = first_index(far)
        broken(f"{what}: {number(found[at])} is farther than {float(bounds[at]):.3g} from {number(expected[at])} at index {at}")


def first_index(where: Array) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in np.argwhere(where)[0])


def number(value: Any) -> str:
    """A NumPy number as Python writes it."""
    return repr(value.item()) if isinstance(value, np.generic) else repr(value)
