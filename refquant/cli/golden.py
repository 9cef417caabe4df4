"""`refquant golden`: vectors that are the same everywhere; make them, check them, read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from refquant.cli.golden_matrix import matrix
from refquant.cli.streams import show, show_json, talk
from refquant.conformance.backend import load_backend
from refquant.conformance.case import Case
from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.compare import Mismatch
from refquant.conformance.coverage import Kills, coverage
from refquant.conformance.difference import differences_between
from refquant.conformance.element import element_forms
from refquant.conformance.flags import FLAGS
from refquant.conformance.folder import read_vectors
from refquant.conformance.generate import check_golden, write_golden
from refquant.conformance.lint import lint as lint_folder
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.catalog import all_mutants
from refquant.conformance.streams import bisect as find_departure
from refquant.conformance.verify import verify as verify_folder
from refquant.errors import UsageError
from refquant.numerics import FAST
from refquant.report.vectors import plain_table

EPILOG = """\b
Examples:
  refquant golden verify
  refquant golden show uniform.quantize/asym_incl0-b4-g16-own-ties
  refquant golden show rounding.half_even/f32-ties --part expected/y
  refquant golden coverage --operation rounding.half_even
  refquant golden bisect rounding.half_even/dyadics
  refquant golden lint
  refquant golden matrix --only plain --only simd-off
  refquant golden generate --operation rounding.half_even --out vectors
"""
FIRST = 8
"""Numbers of a tensor that `show` prints unasked."""

as_format = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
of_folder = click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder of vectors; default: the published ones.")


@click.group(name="golden", epilog=EPILOG)
def command() -> None:
    """Golden vectors: what every operation must give, and why each case exists."""


@command.command()
@click.option("--out", type=click.Path(path_type=Path), help="New folder, or one to replace; default: the published ones.")
@click.option("--operation", "operations", multiple=True, help="Make only this one anew (may be repeated); take the others as they are.")
@click.option("--check", is_flag=True, help="Write nothing: make everything anew and compare the root hash.")
@as_format
def generate(out: Path | None, operations: tuple[str, ...], check: bool, form: str) -> int:
    """Make the vectors from their declarations."""
    if check:
        if out is not None or operations:
            raise UsageError("--check makes everything anew and writes nothing; it goes with neither --out nor --operation")
        found = check_golden()
        if form == "json":
            show_json({"command": "golden generate", "check": asdict(found)})
        else:
            same = "as published" if not found.differing else f"published is {found.published}"
            show([f"root {found.root}: {same}", *(f"differs: {name}" for name in found.differing)])
        return 1 if found.differing or found.root != found.published else 0
    written = write_golden(out or golden_directory(), operations or None)
    if form == "json":
        show_json({"command": "golden generate", **asdict(written), "folder": str(written.folder)})
    else:
        show([f"{written.folder}: {written.cases} cases, {written.nbytes} bytes", f"root {written.root}"])
    for what, names in (("changed", written.changed), ("vanished", written.vanished)):
        if names:
            talk(f"{len(names)} published values {what}; golden/CHANGES.md must say why: {', '.join(names[:5])}")
    return 0


@command.command()
@of_folder
@as_format
def verify(folder: Path | None, form: str) -> int:
    """Check the files against their hashes, and this package against the vectors."""
    found = verify_folder(folder or golden_directory())
    wrong = [mismatch for mismatches in found.mismatches.values() for mismatch in mismatches]
    if form == "json":
        tree = {"root": found.root, "cases": dict(found.cases), "mismatches": [mismatch_json(m) for m in wrong], "damage": found.damage}
        show_json({"command": "golden verify", **tree})
    else:
        rows = [(name, count, len(found.mismatches.get(name, ()))) for name, count in found.cases.items()]
        show([plain_table(["operation", "cases", "mismatches"], rows, right=(1, 2)), ""])
        show([*found.damage, *map(mismatch_line, wrong), f"root {found.root}"])
    return 0 if found.ok else 1


def mismatch_json(mismatch: Mismatch) -> dict[str, Any]:
    """A mismatch as JSON values; numbers that JSON does not have become texts."""
    return {key: list(v) if isinstance(v, tuple) else v if _is_json(v) else str(v) for key, v in asdict(mismatch).items()}


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and abs(value) < float("inf"))


def mismatch_line(m: Mismatch) -> str:
    """A mismatch in one line.

    Examples
    --------
    >>> mismatch_line(Mismatch(case="a.b/c", part="y", index=(2,), expected=1, found=2, rule="bytes", why="the value differs"))
    'a.b/c y[2]: the value differs: expected 1, found 2'
    """
    where = f"{m.part}[{', '.join(map(str, m.index))}]" if m.index is not None else m.part
    values = "" if m.index is None else f": expected {m.expected}, found {m.found}"
    near = "" if m.margin is None else f" (margin {m.margin:.3g} steps)"
    more = "" if m.count == 1 else f", and {m.count - 1} more"
    return f"{m.case} {where}: {m.why}{values}{near}{more}"


@command.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@as_format
def diff(old: Path, new: Path, form: str) -> int:
    """Ids that two folders of vectors differ in, and in what."""
    found = differences_between(old, new)
    if form == "json":
        show_json({"command": "golden diff", "differences": [asdict(difference) for difference in found]})
    else:
        lines = [f"{d.kind} {d.id}{': ' if d.what else ''}{'; '.join(d.what)}" for d in found]
        show(lines or ["no difference"])
    return 1 if found else 0


@command.command(name="show")
@click.argument("name", metavar="ID")
@click.option("--part", help="Print every element of this tensor: index, decimal, hexadecimal, exact fraction. Such as expected/codes.")
@of_folder
@as_format
def show_case(name: str, part: str | None, folder: Path | None, form: str) -> None:
    """Print one case: parameters, why it exists, how it is compared, its tensors."""
    case = find_case(folder or golden_directory(), name)
    if part is not None:
        forms = part_forms(case, part)
        rows = [(list(index), *texts) for index, texts in forms]
        if form == "json":
            show_json({"command": "golden show", "id": name, "part": part, "elements": rows})
        else:
            show([plain_table(["index", "decimal", "hexadecimal", "exact"], rows)])
        return
    if form == "json":
        show_json({"command": "golden show", **case.to_json(), "sha256": case.digest()})
        return
    show(case_lines(case))


def find_case(folder: Path, name: str) -> Case:
    """The case of an id; raises UsageError with the nearest ids if there is none."""
    operation = name.partition("/")[0]
    if operation not in OPERATIONS:
        raise UsageError(f"{name!r} is no id of a case: {operation!r} is no operation; known are {', '.join(OPERATIONS)}")
    cases = read_vectors(folder, operation).cases
    if name not in cases:
        near = sorted(cases, key=lambda other: (-len(_common(other, name)), other))[:3]
        raise UsageError(f"there is no case {name!r}; {operation} has {len(cases)}, such as {', '.join(near)}")
    return cases[name]


def _common(a: str, b: str) -> str:
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]


def part_forms(case: Case, part: str) -> list[tuple[tuple[int, ...], tuple[str, str, str]]]:
    """Index and texts of every element of one tensor; raises UsageError if there is no such tensor."""
    tensors = case.tensors()
    if part not in tensors:
        raise UsageError(f"case {case.id} has no tensor {part!r}; it has {', '.join(tensors)}")
    return list(element_forms(tensors[part]))


def case_lines(case: Case) -> list[str]:
    """A case in lines of text."""
    operation = find_operation(case.operation)
    lines = [case.id, f"  {operation.doc}", f"  level {operation.level}, lane {case.lane}, values from {case.source}", f"  {case.note}"]
    lines += ["Parameters", *(f"  {key} = {value}" for key, value in case.parameters.items())] if case.parameters else []
    lines += ["Why it exists", *(f"  {flag}: {FLAGS[flag].meaning}; catches {FLAGS[flag].bug}" for flag in case.flags)]
    lines += ["Tensors"]
    for name, array in case.tensors().items():
        section, _, part = name.partition("/")
        rule = f", compared by {case.rule(part)}" if section == "expected" else ""
        first = ", ".join(str(value) for value in array.reshape(-1)[:FIRST].tolist())
        lines.append(f"  {name}: {array.dtype} {list(array.shape)}{rule}: {first}{', ...' if array.size > FIRST else ''}")
    twin = [f"twin {case.twin}"] if case.twin else []
    return [line for line in lines if line.strip()] + [*twin, f"SHA-256 {case.digest()}"]


@command.command()
@of_folder
@as_format
def lint(folder: Path | None, form: str) -> int:
    """Check that the vectors keep their own rules: schema, flags, twins, ids, changes with reasons, size."""
    found = lint_folder(folder or golden_directory())
    show_json({"command": "golden lint", "findings": found}) if form == "json" else show(found or ["no findings"])
    return 1 if found else 0


@command.command(name="coverage")
@click.option("--operation", "operations", multiple=True, help="Only mutants of this one (may be repeated); default: all.")
@of_folder
@as_format
def show_coverage(operations: tuple[str, ...], folder: Path | None, form: str) -> int:
    """Print which wrong implementations the vectors catch, and by which flags."""
    place = folder or golden_directory()
    chosen = [find_operation(name).name for name in operations or OPERATIONS]
    cases = {name: list(read_vectors(place, name).cases.values()) for name in chosen}
    found = coverage(cases, [mutant for mutant in all_mutants() if mutant.operation in chosen])
    if form == "json":
        show_json({"command": "golden coverage", "mutants": [_kills_json(kills) for kills in found]})
    else:
        rows = [(k.mutant.name, k.mutant.flag, len(k.matching), len(k.cases), k.mutant.what) for k in found]
        show([plain_table(["mutant", "flag", "killed by it", "by all", "what is wrong"], rows, right=(2, 3)), ""])
        survivors = [kills.mutant.name for kills in found if kills.survives]
        show([f"survives its flag: {name}" for name in survivors] or [f"{len(found)} mutants, all killed by a case with their flag"])
    return 1 if any(kills.survives for kills in found) else 0


def _kills_json(kills: Kills) -> Mapping[str, Any]:
    mutant = kills.mutant
    what = {"name": mutant.name, "operation": mutant.operation, "flag": mutant.flag, "what": mutant.what}
    return {**what, "survives": kills.survives, "killed_by": kills.cases, "by_flag": dict(kills.by_flag)}


@command.command()
@click.argument("name", metavar="STREAM")
@click.option("--backend", help="Whose outputs: package.module:object; default: this package's.")
@as_format
def bisect(name: str, backend: str | None, form: str) -> int:
    """Run a stream of very many inputs, and find the first output that departs from the published digests."""
    operation = find_operation(name.partition("/")[0])
    stream = next((s for s in operation.streams if f"{operation.name}/{s.slug}" == name), None)
    if stream is None:
        known = ", ".join(f"{operation.name}/{s.slug}" for s in operation.streams) or "none"
        raise UsageError(f"{operation.name} has no stream {name!r}; it has {known}")
    run = reference = partial(operation.reference, arithmetic=FAST)
    if backend is not None:
        having = load_backend(backend)
        if operation.name not in having:
            raise UsageError(f"the backend {backend!r} has no {operation.name}; it has {', '.join(having)}")
        run = having[operation.name]  # type: ignore[assignment]
    published = read_vectors(golden_directory(), operation.name).streams[name]["digests"]
    departure = find_departure(stream, published, run, reference, [part.name for part in operation.outputs])
    if form == "json":
        show_json({"command": "golden bisect", "stream": name, "departure": None if departure is None else asdict(departure)})
    elif departure is None:
        show([f"{name}: {stream.rows} rows as published, {published[-1]}"])
    elif departure.row is None:
        show([f"{name}: block {departure.block} departs, and this package departs with it: verify the installation"])
    else:
        place = f"row {departure.row} (block {departure.block}), {departure.part}{list(departure.index or ())} of its block"
        show([f"{name}: departs at {place}: expected {departure.expected}, found {departure.found}"])
    return 0 if departure is None else 1


command.add_command(matrix)
