"""Laws of quantizers: functions ``f(x)`` of one array whose answer stands in the same places."""

from __future__ import annotations

from collections.abc import Callable

from refquant.conformance.laws import coding_checks, symmetry_checks
from refquant.conformance.laws.law import Example, Law, Subject, always
from refquant.conformance.laws.needs import needs_column_tiles, needs_free_columns, needs_free_rows, needs_separate_rows, promised
from refquant.conformance.laws.policies import policy_laws
from refquant.conformance.laws.purity import purity_laws

Check = Callable[[Subject, Example], None]
Need = Callable[[Subject], str | None]


def _law(name: str, statement: str, check: Check, needs: Need, *draws: str) -> Law:
    return Law(name=name, kind="quantizer", statement=statement, draws=draws, needs=needs, check=check)


def _needs_encode(subject: Subject) -> str | None:
    if subject.also is None:
        return "no function encodes on a given grid; give encode="
    return promised("nearest")(subject)


QUANTIZER_LAWS: tuple[Law, ...] = (
    _law("finite", "finite numbers give finite numbers in the same places", coding_checks.total, always, "x"),
    _law("codes_in_range", "codes are members of the format, scales positive", coding_checks.codes_in_range, promised(ends=True), "x"),
    _law("decoding", "numbers are scale * (code - zero)", coding_checks.decoding, always, "x"),
    _law(
        "half_step",
        "between the end codes the error is at most half a step",
        coding_checks.half_step,
        promised("nearest", ends=True),
        "x",
    ),
    _law(
        "nearest_level",
        "no level of a tile is nearer than the one taken",
        coding_checks.nearest_level,
        promised("nearest", tiling=True),
        "x",
    ),
    _law("monotone", "larger numbers of a tile have no smaller results", coding_checks.monotone, promised("monotone", tiling=True), "x"),
    _law("idempotence", "f(f(x)) = f(x) up to rounding", coding_checks.idempotent, promised("idempotent"), "ordinary"),
    _law("same_grid_idempotence", "on its grid, a decoded code has that code", coding_checks.same_grid, _needs_encode, "ordinary"),
    _law("sign_symmetry", "f(-x) = -f(x)", symmetry_checks.sign_symmetry, promised("symmetric"), "ordinary"),
    _law("scaling", "f(2^k x) = 2^k f(x), with the same codes", symmetry_checks.scaling, promised("scalable"), "ordinary", "power"),
    _law("zero_kept", "0 becomes 0", symmetry_checks.zero_kept, promised("keeps_zero"), "x"),
    _law("signed_zero", "-0 and 0 give the same", symmetry_checks.signed_zero, always, "x"),
    _law("row_permutation", "rows can be exchanged", symmetry_checks.row_permutation, needs_free_rows, "x", "row_order"),
    _law(
        "column_permutation",
        "columns can be exchanged inside a tile, and whole tiles with each other",
        symmetry_checks.column_permutation,
        needs_free_columns,
        "x",
        "column_order",
    ),
    _law(
        "batch_independence",
        "rows alone give what they give among others",
        symmetry_checks.batch_independence,
        needs_separate_rows,
        "x",
        "row_cut",
    ),
    _law(
        "chunk_independence",
        "columns cut where a tile ends give what they give together",
        symmetry_checks.chunk_independence,
        needs_column_tiles,
        "x",
        "column_cut",
    ),
    *purity_laws("quantizer", ("x",)),
    *policy_laws("quantizer", ("filled",)),
)
