"""A method's card: what an auditor wants to know before reading the code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equation:
    """A numbered statement of a paper, in our words. The label stands at the line of code and at the test that hold it.

    Parameters
    ----------
    label : str
        Such as ``GPTQ-3``.
    text : str
    """

    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a method is, needs, promises and costs.

    Parameters
    ----------
    name, title, paper : str
    inputs : tuple of str
    equations : tuple of Equation
    departures : tuple of str
        Where we differ from the authors' code, and where the paper is silent and we chose a reading (then the option that switches it).
    guarantees : tuple of str
    lane : str
        ``exact``, ``ordered`` or ``bounded``.
    cost : str
    oracle : str
        What the results are held against.
    laws : tuple of str
        Names of the laws (:mod:`refquant.conformance.laws`) that a test holds it to; which kind of function it is, is known there.
    """

    name: str
    title: str
    paper: str
    inputs: tuple[str, ...]
    equations: tuple[Equation, ...]
    departures: tuple[str, ...]
    guarantees: tuple[str, ...]
    lane: str
    cost: str
    oracle: str
    laws: tuple[str, ...] = ()
