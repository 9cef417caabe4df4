"""The matrix of hashes: rows, processes, and what is made of them."""

import json
import os
import sys

import numpy as np
import pytest

from refquant.cli.golden_matrix import ends, table_rows
from refquant.conformance import matrix as matrices
from refquant.conformance.digests import SUBSET, golden_root, subset_root
from refquant.conformance.folder import MANIFEST, root_hash
from refquant.conformance.locate import golden_directory
from refquant.conformance.matrix import Matrix, Result, Row, all_rows, choose, needed_packages, run_matrix
from refquant.conformance.settings import Setting, run_under
from refquant.errors import NumericalError, UsageError
from refquant.storage import canonical_json, read_json

PUBLISHED = read_json(golden_directory() / MANIFEST)
SMALL = "rounding.floor"


def stub(workers):
    """What a child runs in these tests: the published root, and a digest that tells what it was asked."""
    return canonical_json({"golden": PUBLISHED["root"], "quantized": "the same"})


def differing(workers):
    return canonical_json({"golden": PUBLISHED["root"], "quantized": os.environ.get("OPENBLAS_NUM_THREADS", "none")})


def failing(workers):
    raise ValueError("on purpose")


def test_every_factor_has_its_rows():
    rows = {row.name: row for row in all_rows()}
    assert {f"kernel-{name}" for name in ("haswell", "skylakex", "zen", "prescott", "nehalem")} < set(rows)
    assert {row.setting.blas_threads for name, row in rows.items() if name.startswith("threads")} == {1, 2}
    assert not rows["simd-off"].setting.simd
    assert rows["workers"].workers > 1
    assert (rows["numpy-oldest"].made, rows["numpy-newest"].made) == ("2.0.*", "")
    assert [row.name for row in all_rows(["/a/python"])][-1] == "python-1"
    assert "numpy-oldest" not in [row.name for row in all_rows(["/a/python"])]
    assert len(rows) == 12


def test_rows_are_chosen_by_name():
    assert [row.name for row in choose(all_rows(), ["simd-off", "plain"], ["plain"])] == ["simd-off"]
    with pytest.raises(UsageError, match="no row 'simd'; its rows are plain, kernel-haswell"):
        choose(all_rows(), ["simd"], [])
    with pytest.raises(UsageError, match="leave no row"):
        choose(all_rows(), ["plain"], ["plain"])


def test_each_row_is_a_process_and_one_hash_is_well():
    rows = choose(all_rows(), ["plain", "threads-1", "simd-off"], [])
    heard = []
    found = run_matrix(rows, heard.append, f"{__name__}:stub")
    assert found.ok
    assert [result.name for result in heard] == ["plain", "threads-1", "simd-off"]
    given = {result.name: result.surroundings for result in found.results if result.counts}
    assert set(given["threads-1"].blas_threads) <= {1}
    assert "simd-off" not in given or given["simd-off"].simd == ()


def test_a_hash_that_differs_is_a_finding():
    found = run_matrix(
        [Row(setting=Setting(name="a", blas_threads=1)), Row(setting=Setting(name="b"))], lambda _: None, f"{__name__}:differing"
    )
    assert not found.ok or os.environ.get("OPENBLAS_NUM_THREADS") == "1"
    two = tuple(Result(name=name, golden=PUBLISHED["root"], quantized=name) for name in "ab")
    other = tuple(Result(name=name, golden="0" * 64, quantized="q") for name in "ab")
    assert not Matrix(results=two, published=PUBLISHED["root"]).ok
    assert not Matrix(results=other, published=PUBLISHED["root"]).ok
    assert not Matrix(results=(), published=PUBLISHED["root"]).ok
    assert ends(Matrix(results=two, published="p"))[-2:] == ["quantized a: 1 of 2 rows (a)", "quantized b: 1 of 2 rows (b)"]


def test_a_setting_that_did_not_take_hold_counts_for_nothing():
    row = Row(setting=Setting(name="odd", blas_kernel="NoSuchKernel"))
    found = run_matrix([row, Row(setting=Setting(name="plain"))], lambda _: None, f"{__name__}:stub")
    assert not found.results[0].counts
    assert found.ok
    assert table_rows(found)[0][1:3] == ("-", "-")
    assert ends(found)[-1] == "not given by this machine: odd"


def test_a_row_that_breaks_is_a_finding():
    found = run_matrix([Row(setting=Setting(name="plain"))], lambda _: None, f"{__name__}:failing")
    assert not found.ok
    assert "on purpose" in found.results[0].golden


def test_another_interpreter_brings_its_own_packages(tmp_path):
    outcome = run_under(
        Setting(name="same", python=sys.executable, numpy=np.__version__[:3]), "refquant.conformance.settings:active_simd_names"
    )
    assert outcome.missing is None
    assert outcome.result.split() == list(outcome.surroundings.simd)
    older = run_under(Setting(name="older", python=sys.executable, numpy="1.0."), "refquant.conformance.settings:active_simd_names")
    assert "NumPy 1.0. was asked for" in older.missing
    off = run_under(Setting(name="off", python=sys.executable, simd=False), "refquant.conformance.settings:active_simd_names")
    assert off.missing is None
    assert off.result == ""
    with pytest.raises(UsageError, match="cannot be run"):
        run_under(Setting(name="none", python=str(tmp_path / "python")), "os.path:basename", ["x"])


def test_an_environment_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "needed_packages", lambda: iter(()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python, why = matrices.make_environment(tmp_path / "made", "0.0.*")
    assert python.exists()
    assert "NumPy 0.0.*" in why


def test_needed_packages_are_those_that_run_here():
    lines = list(needed_packages())
    assert f"scipy=={__import__('scipy').__version__}" in lines
    assert not any(line.startswith(("numpy=", "pytest", "ruff")) for line in lines)


def test_a_root_is_that_of_the_published_hashes():
    own = {name: value for name, value in PUBLISHED["hashes"].items() if name.partition("/")[0] == SMALL}
    assert golden_root("1", SMALL) == root_hash(own) == subset_root(SMALL)
    assert golden_root("2", SMALL) == root_hash(own)
    assert set(SUBSET) <= {name.partition("/")[0] for name in PUBLISHED["hashes"]}


def test_the_command_tells_rows_and_hashes(run, monkeypatch):
    def one(row, function):
        if row.name == "plain":
            return Result(name="plain", golden=PUBLISHED["root"], quantized="ab" * 32, seconds=2.0)
        return Result(name=row.name, missing="not here")

    monkeypatch.setattr(matrices, "_run", one)
    ran = run("golden", "matrix", "--only", "plain", "--only", "kernel-zen")
    assert ran.code == 0
    assert f"golden {PUBLISHED['root']}: 1 of 1 rows" in ran.out
    assert "not given by this machine: kernel-zen" in ran.out
    assert "refquant: kernel-zen: this machine cannot give it: not here" in ran.err
    tree = json.loads(run("golden", "matrix", "--only", "plain", "--format", "json").out)
    assert (tree["ok"], tree["rows"][0]["quantized"]) == (True, "ab" * 32)
    ran = run("golden", "matrix", "--only", "nothing")
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.slow
def test_one_hash_of_everything_without_simd_and_with_workers():
    rows = choose(all_rows(), ["plain", "simd-off", "workers"], [])
    found = run_matrix(rows, lambda _: None)
    assert found.ok, "\n".join(ends(found))


def test_a_child_that_fails_is_told():
    with pytest.raises(NumericalError, match="on purpose"):
        run_under(Setting(name="plain"), f"{__name__}:failing", ["1"])
