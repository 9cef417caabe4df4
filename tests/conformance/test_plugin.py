"""The pytest plugin: every case a test, and nothing at all where it is not asked for."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "refquant.conformance.plugin"
BACKEND = """
import numpy as np

def even(inputs, parameters):
    x = inputs["x"]
    if x.dtype == np.float32:
        raise NotImplementedError("no float32")
    return {"y": np.floor(x + 0.5)}

def ceil(inputs, parameters):
    return {"y": np.ceil(inputs["x"])}

it = {"rounding.half_even": even, "rounding.ceil": ceil}
"""


@pytest.fixture
def pytester_like(tmp_path):
    """Run pytest in a folder of somebody else's, with settings as strict as ours."""
    (tmp_path / "somebodys.py").write_text(BACKEND)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n")

    def run(*words):
        line = [sys.executable, "-m", "pytest", "-p", NAME, "-p", "no:cacheprovider", "-q", "-rsxf", *words]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        environment = kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run


PYARGS = ("--pyargs", "refquant.conformance")


def test_each_case_is_a_test(pytester_like):
    found = pytester_like(*PYARGS, "--refquant-backend", "somebodys:it")
    last = found.stdout.strip().splitlines()[-1]
    assert found.returncode == 1, found.stdout + found.stderr
    assert "4 failed, 14 passed, 6 skipped" in last
    assert "plugin.py::rounding.half_even/f64-ties" in found.stdout
    assert "this is what half_even-floor_plus_half: floor(x + 0.5): ties go up gives" in found.stdout
    assert "refquant conform --backend somebodys:it --case rounding.half_even/f64-ties" in found.stdout
    assert "no float32" in found.stdout
    assert "Traceback" not in found.stdout


def test_filters_and_selection_by_name(pytester_like):
    found = pytester_like(*PYARGS, "--refquant-backend", "somebodys:it", "--refquant-operation", "rounding.ceil", "--refquant-flag", "tie")
    assert found.stdout.strip().splitlines()[-1].startswith("2 passed")
    found = pytester_like(*PYARGS, "--refquant-backend", "somebodys:it", "-k", "ceil and f32")
    assert found.stdout.strip().splitlines()[-1].startswith("6 passed, 18 deselected")


def test_expected_failures_are_xfail_and_fail_strictly_once_they_conform(pytester_like, tmp_path):
    (tmp_path / "known.toml").write_text(
        '[[expected]]\ncase = "rounding.half_even/f64-*"\nreason = "ties go up here"\n'
        '[[expected]]\ncase = "rounding.ceil/f64-ties"\nreason = "long ago"\n'
    )
    found = pytester_like(*PYARGS, "--refquant-backend", "somebodys:it", "--refquant-expected", "known.toml")
    assert "14 passed, 6 skipped, 4 xfailed" in found.stdout.strip().splitlines()[-1]
    assert "ties go up here" in found.stdout
    ini = tmp_path / "pytest.ini"
    ini.write_text(ini.read_text() + "xfail_strict = true\n")
    found = pytester_like(*PYARGS, "--refquant-backend", "somebodys:it", "--refquant-expected", "known.toml")
    assert "3 failed, 11 passed, 6 skipped, 4 xfailed" in found.stdout.strip().splitlines()[-1]
    assert "conforms, and is expected to fail: long ago" in found.stdout


def test_a_command_behind_the_pipe(pytester_like):
    speaker = f"{sys.executable} -I -S {Path(__file__).with_name('speaker.py')}"
    found = pytester_like(*PYARGS, "--refquant-pipe", f"{speaker} exit@f32-ties", "--refquant-level", "codes")
    assert "1 failed, 11 passed" in found.stdout.strip().splitlines()[-1]
    assert "crashed: the command ended with exit code 3; it last said: out of luck" in found.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--refquant-backend", "nothing:here"], "cannot be loaded"),
        (["--refquant-backend", "somebodys:it", "--refquant-pipe", "cat"], "name one implementation"),
    ],
)
def test_what_cannot_begin_is_told_without_a_traceback(pytester_like, words, told):
    found = pytester_like(*PYARGS, *words)
    assert found.returncode != 0
    assert told in found.stdout + found.stderr
    assert "Traceback" not in found.stdout


def test_without_its_options_it_adds_nothing(pytester_like, tmp_path):
    (tmp_path / "test_own.py").write_text("import sys\ndef test_nothing_was_loaded():\n    assert 'numpy' not in sys.modules\n")
    assert pytester_like("test_own.py").stdout.strip().splitlines()[-1].startswith("1 passed")
    assert "no tests ran" in pytester_like(*PYARGS).stdout


def test_importing_it_imports_nothing_else():
    text = f"import sys; before = set(sys.modules); import {NAME}; print(sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    loaded = found.stdout
    assert NAME in loaded
    assert not [name for name in ("numpy", "pytest", "msgspec", "refquant.core", "refquant.conformance.case") if f"'{name}'" in loaded]


def test_it_is_registered_under_the_name_of_its_module():
    """So that naming it with `-p` as well does not load it twice."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
    assert table == {NAME: NAME}
