"""`refquant golden`, as typed."""

import numpy as np
import pytest

from refquant.cli import golden
from refquant.conformance.generate import write_golden
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.catalog import right_programs
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operations import rounding
from refquant.conformance.streams import dyadics, words

FLOOR = "rounding.floor"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_golden(tmp_path_factory.mktemp("vectors") / "small", [FLOOR]).folder


def test_verify_counts_cases_and_prints_the_root(run, small):
    ran = run("golden", "verify", "--dir", small)
    assert ran.code == 0
    tree = run("golden", "verify", "--dir", small, "--format", "json").json
    assert tree["cases"] == {FLOOR: 12}
    assert tree["mismatches"] == tree["damage"] == []
    assert f"root {tree['root']}" in ran.out


def test_a_wrong_package_is_told(run, small, monkeypatch):
    monkeypatch.setattr(rounding, "round_to_integer", lambda x, mode: np.trunc(x))
    ran = run("golden", "verify", "--dir", small)
    assert ran.code == 1
    assert f"{FLOOR}/f32-ties y[0]: the value differs: expected -9.0, found -8.0, and 8 more" in ran.out


def test_show_says_why_and_shows_every_element(run):
    text = run("golden", "show", f"{FLOOR}/f32-ties").out
    assert "tie: numbers exactly halfway between two codes; catches rounding half away" in text
    assert "expected/y: float32 [19], compared by bytes: -9.0, -8.0" in text
    tree = run("golden", "show", f"{FLOOR}/f32-ties", "--part", "inputs/x", "--format", "json").json
    assert tree["elements"][0] == [[0], "-8.5", "-0x1.1000000000000p+3", "-17/2"]


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        (["show", "rounding.nowhere/x"], 2, "is no operation"),
        (["show", f"{FLOOR}/f32-tiez"], 2, f"such as {FLOOR}/f32-ties"),
        (["show", f"{FLOOR}/f32-ties", "--part", "x"], 2, "it has inputs/x, expected/y"),
        (["bisect", f"{FLOOR}/nothing"], 2, "it has rounding.floor/dyadics"),
        (["bisect", f"{FLOOR}/dyadics", "--backend", "nowhere"], 2, "package.module:object"),
        (["bisect", f"{FLOOR}/dyadics", "--backend", "no.where:x"], 2, "cannot be loaded"),
        (["bisect", f"{FLOOR}/dyadics", "--backend", "json:dumps"], 2, "none of the operations"),
        (["generate", "--check", "--out", "x"], 2, "--check"),
        (["verify", "--dir", "nothing"], 3, "nothing/manifest.json: cannot read"),
        (["generate", "--operation", "a.b", "--out", "x"], 2, "unknown operation 'a.b'"),
    ],
)
def test_errors_are_one_line(run, typed, code, told):
    ran = run("golden", *typed)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert ran.err.count("\n") == 1


def test_bisect_finds_where_somebody_departs(run):
    backend = "refquant.conformance.mutants.catalog:right_programs"
    ran = run("golden", "bisect", f"{FLOOR}/dyadics", "--backend", "tests.cli.wrong_backend:BACKEND")
    assert ran.code == 1
    first = next(i for i, x in enumerate(dyadics(words(1, 0, 100), 25)) if x < 0 and x != np.trunc(x))
    assert f"departs at row {first} (block 0)" in ran.out
    assert run("golden", "bisect", f"{FLOOR}/dyadics", "--backend", backend).code == 2  # a function has no operations
    assert run("golden", "bisect", f"{FLOOR}/dyadics", "--backend", "refquant.conformance.mutants.rounding:RIGHT").code == 0


def test_generate_writes_a_folder_that_lint_reads(run, tmp_path, small):
    out = tmp_path / "new"
    ran = run("golden", "generate", "--out", out, "--operation", FLOOR)
    assert ran.code == 0, ran.err
    assert (out / "manifest.json").read_bytes() == (small / "manifest.json").read_bytes()
    assert run("golden", "diff", out, small).out == "no difference\n"
    findings = run("golden", "lint", "--dir", out, "--format", "json").json["findings"]
    assert all("has no file" in finding or "no case carries" in finding for finding in findings)


def test_diff_of_other_vectors_is_a_finding(run, small):
    ran = run("golden", "diff", small, golden_directory(), "--format", "json")
    assert ran.code == 1
    assert {entry["kind"] for entry in ran.json["differences"]} == {"added"}


def test_coverage_ends_with_a_count(run):
    ran = run("golden", "coverage", "--operation", FLOOR)
    assert ran.code == 0
    assert ran.out.rstrip().endswith("1 mutants, all killed by a case with their flag")
    tree = run("golden", "coverage", "--operation", FLOOR, "--format", "json").json
    assert [(mutant["name"], mutant["survives"]) for mutant in tree["mutants"]] == [("floor-truncates", False)]


def test_a_mutant_that_survives_is_a_finding(run, monkeypatch):
    harmless = Mutant(name="floor-right", operation=FLOOR, flag="tie", what="nothing", run=right_programs()[FLOOR])
    monkeypatch.setattr(golden, "all_mutants", lambda: [harmless])
    ran = run("golden", "coverage", "--operation", FLOOR)
    assert ran.code == 1
    assert "survives its flag: floor-right" in ran.out
