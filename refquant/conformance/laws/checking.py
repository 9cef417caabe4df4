"""Run the laws against anybody's function: ``check_quantizer``, ``check_weight_method``, ``check_statistics``, ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from refquant.conformance.laws.catalog import LAWS, find_law
from refquant.conformance.laws.law import Law, Subject
from refquant.conformance.laws.records import LawRecord, LawReport, Verdict
from refquant.conformance.laws.reproduction import snippet
from refquant.conformance.laws.traits import Traits
from refquant.core import QuantSpec
from refquant.errors import UsageError
from refquant.formats import IntFormat, find_format

Refusals = tuple[type[Exception], ...]


def check_quantizer(
    f: Callable[..., Any],
    *,
    spec: QuantSpec | None = None,
    traits: Traits | None = None,
    encode: Callable[..., Any] | None = None,
    values: Any = None,
    dtypes: Sequence[str] = ("float32", "float64"),
    nasty: bool = True,
    refusals: Refusals = (),
    laws: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 100,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> LawReport:
    """Check a quantizer of matrices ``f(x)`` against the laws that apply to it.

    Parameters
    ----------
    f : callable
        Takes a matrix and returns one of: the numbers after quantization; ``(codes, scale)`` or ``(codes, scale, zero)``, decoded as
        ``scale * (codes - zero)``, with one scale a tile or any shape that broadcasts; an object with ``dequantize()`` and perhaps
        ``codes``, ``scale``, ``zero``.
    spec : QuantSpec, optional
        What it claims to do; its promises follow from that. Without `spec` and `traits` only laws that need no promise are checked.
    traits : Traits, optional
        Its promises one by one, instead of those that follow from `spec`.
    encode : callable, optional
        ``encode(x, scale, zero)`` gives codes on a grid, which is expanded to the shape of `x`.
    values : hypothesis strategy of matrices, optional
        The matrices it is made for; by default :func:`refquant.conformance.strategies.weights`.
    dtypes : sequence of str
        Of the matrices.
    nasty : bool
        Include subnormal numbers, numbers near overflow and arbitrary ones where a law does not exclude them.
    refusals : tuple of exception types
        Errors that it may raise for finite numbers; such an example does not count.
    laws : sequence of str, optional
        Only these.
    expected_failures : mapping of str to str, optional
        Laws that it is known to break, and why. One that holds, or does not exist, is reported.
    examples, seed : int
        Examples a law, and what they are drawn from; the same numbers give the same examples.
    raise_on_failure : bool
        Raise :class:`BrokenLawError` with everything that needs attention, instead of only returning it.

    Returns
    -------
    LawReport

    Raises
    ------
    UsageError
        If hypothesis is not installed, a law is unknown, or `f` returns something that cannot be read.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> how = spec("int4", scheme="sym_narrow")
    >>> report = check_quantizer(lambda x: rtn(x, how), spec=how, laws=["sign_symmetry", "zero_kept"], nasty=False)
    >>> print(report)
    held             sign_symmetry: f(-x) = -f(x)
    held             zero_kept: 0 becomes 0
    """
    options = {"values": values, "dtypes": tuple(dtypes), "nasty": nasty}
    subject = Subject(kind="quantizer", call=f, also=encode, spec=spec, traits=_promises(spec, traits), options=options)
    return _run(subject, laws, expected_failures, examples, seed, refusals, raise_on_failure)


def check_weight_method(
    f: Callable[..., Any],
    *,
    spec: QuantSpec | None = None,
    traits: Traits | None = None,
    values: Any = None,
    dtypes: Sequence[str] = ("float64", "float32"),
    refusals: Refusals = (),
    laws: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 100,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> LawReport:
    """Check a weight method ``f(weight, hessian)`` against the laws that apply to it.

    Parameters
    ----------
    f : callable
        Takes ``[out, in]`` and ``[in, in]``; its answer is read as in :func:`check_quantizer`.
    spec : QuantSpec, optional
        What it quantizes to.
    traits : Traits, optional
        Its promises; ``dead_inputs`` and ``hessian_scalable`` do not follow from a spec and have to be given here.
    values, dtypes, refusals, laws, expected_failures, examples, seed, raise_on_failure
        As in :func:`check_quantizer`. Hessians are drawn by :func:`refquant.conformance.strategies.hessians`: any rank, any conditioning.

    Returns
    -------
    LawReport

    Raises
    ------
    UsageError
        As :func:`check_quantizer`.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.compensate.gptq import gptq
    >>> how = spec("int4")
    >>> check_weight_method(lambda w, h: gptq(w, h, how), spec=how, laws=["zero_kept"], examples=20).laws("held")
    ('zero_kept',)
    """
    options = {"values": values, "dtypes": tuple(dtypes), "nasty": False}
    subject = Subject(kind="weight_method", call=f, spec=spec, traits=_promises(spec, traits), options=options)
    return _run(subject, laws, expected_failures, examples, seed, refusals, raise_on_failure)


def check_statistics(
    collect: Callable[..., Any],
    merge: Callable[..., Any] | None = None,
    *,
    relative: float = 0.0,
    refusals: Refusals = (),
    laws: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 100,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> LawReport:
    """Check statistics ``collect(x)`` of ``[tokens, features]`` and their ``merge(a, b)``.

    Parameters
    ----------
    collect, merge : callable
        Whatever they return is compared array by array: tuples, mappings, dataclasses and objects with attributes are looked into.
    relative : float
        Allowed difference, relative to the largest number of an array. At 0 everything has to be equal; the inputs are multiples of
        1/8 below 2^18, so that sums of their squares are exact in float64.
    refusals, laws, expected_failures, examples, seed, raise_on_failure
        As in :func:`check_quantizer`.

    Examples
    --------
    >>> from refquant.core import Stats
    >>> check_statistics(Stats.of, Stats.merge, examples=20).ok
    True
    """
    subject = Subject(kind="statistics", call=collect, also=merge, traits=Traits(), options={"relative": relative})
    return _run(subject, laws, expected_failures, examples, seed, refusals, raise_on_failure)


def check_packing(
    pack: Callable[..., Any],
    unpack: Callable[..., Any],
    *,
    format: str | IntFormat,
    refusals: Refusals = (),
    laws: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 100,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> LawReport:
    """Check that ``unpack(pack(codes), shape)`` gives codes back, and what follows from that.

    Parameters
    ----------
    pack, unpack : callable
        ``pack`` takes a matrix of codes in the format's own dtype and returns bytes, an array, or several.
    format : str or IntFormat
        Which codes there are.
    refusals, laws, expected_failures, examples, seed, raise_on_failure
        As in :func:`check_quantizer`; shapes that a layout cannot hold may be refused.

    Examples
    --------
    >>> import numpy as np
    >>> unpack = lambda packed, shape: np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape)
    >>> check_packing(np.packbits, unpack, format="uint1", examples=20).ok
    True
    """
    members = find_format(format) if isinstance(format, str) else format
    options = {"ends": (members.lo, members.hi), "bits": members.bits, "dtype": members.dtype.name}
    subject = Subject(kind="packing", call=pack, also=unpack, traits=Traits(), options=options)
    return _run(subject, laws, expected_failures, examples, seed, refusals, raise_on_failure)


def check_rewrite(
    f: Callable[..., Any],
    *,
    relative: float = 1e-10,
    widths: Sequence[int] = (1, 2, 3, 4, 8),
    dtypes: Sequence[str] = ("float64",),
    refusals: Refusals = (),
    laws: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 100,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> LawReport:
    """Check that a rewrite of a linear keeps the linear's function.

    Parameters
    ----------
    f : callable
        Takes a weight ``[out, in]`` and inputs ``[tokens, in]``, some with outlier features and tokens, some with features of zeros;
        returns both rewritten, or an object with ``undo(weight)`` and ``apply(x)`` such as :class:`refquant.core.transform.Transform`.
    relative : float
        Allowed change of an output, relative to the largest ``sum |x| |w|`` of the layer; products are taken in float64.
    widths : sequence of int
        Numbers of input features.
    dtypes, refusals, laws, expected_failures, examples, seed, raise_on_failure
        As in :func:`check_quantizer`.

    Examples
    --------
    >>> check_rewrite(lambda w, x: (w * 4, x / 4), examples=20).ok
    True
    >>> check_rewrite(lambda w, x: (w * 4, x / 2), examples=20).laws("broken")
    ('function_preserved',)
    """
    options = {"relative": relative, "widths": tuple(widths), "dtypes": tuple(dtypes)}
    subject = Subject(kind="rewrite", call=f, traits=Traits(), options=options)
    return _run(subject, laws, expected_failures, examples, seed, refusals, raise_on_failure)


def _promises(spec: QuantSpec | None, traits: Traits | None) -> Traits:
    return traits if traits is not None else Traits.of(spec) if spec is not None else Traits()


def _run(
    subject: Subject,
    names: Sequence[str] | None,
    expected_failures: Mapping[str, str] | None,
    examples: int,
    seed: int,
    refusals: Refusals,
    raise_on_failure: bool,
) -> LawReport:
    if find_spec("hypothesis") is None:
        raise UsageError("laws are checked with hypothesis, which is not installed; pip install 'refquant[testing]'")
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise UsageError(f"the number of examples is a positive integer, not {examples!r}")
    expected = dict(expected_failures or {})
    chosen = LAWS[subject.kind] if names is None else tuple(find_law(subject.kind, name) for name in names)
    records = [_record(law, subject, expected.pop(law.name, None), examples, seed, refusals) for law in chosen]
    known = {law.name for law in LAWS[subject.kind]}
    for name, reason in expected.items():
        if name not in known:
            said = f"a failure was announced ({reason}); known are {', '.join(sorted(known))}"
            records.append(LawRecord(law=name, statement="", verdict="no such law", reason=said))
    report = LawReport(tuple(records))
    if raise_on_failure:
        report.raise_if_broken()
    return report


def _record(law: Law, subject: Subject, announced: str | None, examples: int, seed: int, refusals: Refusals) -> LawRecord:
    from refquant.conformance.laws.search import search  # imports hypothesis

    reason = law.needs(subject)
    found = None if reason is not None else search(law, subject, examples=examples, seed=seed, refusals=refusals)
    reason = reason if found is None else found.not_applicable
    calls = 0 if found is None else found.calls
    if found is None or reason is not None:
        if announced is None:
            return LawRecord(law=law.name, statement=law.statement, verdict="not applicable", reason=reason or "", calls=calls)
        said = f"{announced}; but the law does not apply: {reason}"
        return LawRecord(law=law.name, statement=law.statement, verdict="expected failure but passed", reason=said, calls=calls)
    if found.failure is None:
        verdict: Verdict = "held" if announced is None else "expected failure but passed"
        return LawRecord(law=law.name, statement=law.statement, verdict=verdict, reason=announced or "", calls=calls)
    example = found.example or {}
    return LawRecord(
        law=law.name,
        statement=law.statement,
        verdict="broken" if announced is None else "expected failure",
        reason=announced or "",
        calls=calls,
        found=found.failure,
        counterexample=example,
        reproduction=snippet(law, subject, example),
    )
