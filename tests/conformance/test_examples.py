"""The worked examples do what their pages say."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CC = shutil.which("cc")
HAS_GGUF = importlib.util.find_spec("gguf") is not None
IN_CI = os.environ.get("CI") == "true"


def conform(folder, *words):
    line = [sys.executable, "-m", "refquant", "conform", *words, "--format", "json"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert found.stdout, found.stderr
    return found.returncode, json.loads(found.stdout)


def flags_of_the_page():
    """The compiler's flags, as the source itself tells people to type them."""
    text = (EXAMPLES / "c_kernel" / "kernel.c").read_text()
    return re.search(r"cc (-O2 [^\n]*) -o kernel kernel\.c -lm", text)[1].split()


def compiled(folder, source, *more):
    subprocess.run(["cc", *flags_of_the_page(), *more, "-o", folder / "kernel", source, "-lm"], check=True, timeout=120)


@pytest.mark.skipif(CC is None and not IN_CI, reason="no C compiler here")
def test_a_c_kernel_compiled_on_the_spot_conforms(tmp_path):
    compiled(tmp_path, EXAMPLES / "c_kernel" / "kernel.c", "-Wall", "-Wextra", "-Werror")
    code, tree = conform(tmp_path, "--pipe", "./kernel", "--streams")
    assert (code, tree["ok"], tree["failures"], tree["strays"]) == (0, True, [], [])
    assert tree["operations"]["rounding.half_even"]["conforms"] == 12
    assert tree["operations"]["uniform.quantize"]["conforms"] > 100
    assert sum(stream["ok"] and not stream["skipped"] for stream in tree["streams"]) == 4


@pytest.mark.skipif(CC is None and not IN_CI, reason="no C compiler here")
@pytest.mark.parametrize(
    ("right", "wrong", "mutant"),
    [
        ("clipped(rintf(x[i] / *scale)", "clipped(roundf(x[i] / *scale)", "uniform-half_away"),
        ("rintf(x[i] / *scale)", "rintf(x[i] * (1 / *scale))", "uniform-reciprocal"),
        ("fmaxf(fmaxf(-lo, hi), 1e-5f)", "fmaxf(-lo, hi)", "uniform-no_floor"),
        ("clipped(rintf(-lo / *scale)", "clipped(truncf(-lo / *scale)", "uniform-zero_truncated"),
    ],
)
def test_a_mistake_in_c_is_named(tmp_path, right, wrong, mutant):
    text = (EXAMPLES / "c_kernel" / "kernel.c").read_text()
    assert right in text
    (tmp_path / "kernel.c").write_text(text.replace(right, wrong))
    compiled(tmp_path, tmp_path / "kernel.c")
    code, tree = conform(tmp_path, "--pipe", "./kernel", "--operation", "uniform.quantize")
    assert code == 1
    best = tree["diagnoses"]["uniform.quantize"][0]
    assert best["mutant"] == mutant
    assert best["explains"] > best["wrong"] / 2  # the rest are divisions by zero, which C and NumPy leave in their own ways


def test_the_planted_bugs_are_named():
    code, tree = conform(EXAMPLES / "planted_bug", "--backend", "kernels:backend")
    assert code == 1
    found = {name: [d["mutant"] for d in best if d["explains"] == d["wrong"]] for name, best in tree["diagnoses"].items()}
    assert found == {"uniform.quantize": ["uniform-half_away"], "gptq.codes": ["gptq-largest_damping"]}
    stages = {e["stage"].partition(",")[0] for failure in tree["failures"] for e in failure["explanations"]}
    assert stages == {"codes is the first step that departs", "damped is the first step that departs"}


@pytest.mark.parametrize(
    ("wrong", "right", "operation"),
    [
        ("np.copysign(np.floor(np.abs(places) + x.dtype.type(0.5)), places)", "np.rint(places)", "uniform.quantize"),
        ("np.diagonal(hessian).max()", "np.diagonal(hessian).mean()", "gptq.codes"),
    ],
)
def test_without_the_bug_all_conform(tmp_path, wrong, right, operation):
    text = (EXAMPLES / "planted_bug" / "kernels.py").read_text()
    assert wrong in text
    (tmp_path / "kernels.py").write_text(text.replace(wrong, right))
    code, tree = conform(tmp_path, "--backend", "kernels:backend", "--operation", operation)
    assert (code, tree["failures"]) == (0, [])
    assert tree["counts"]["conforms"] > 5


@pytest.mark.skipif(not HAS_GGUF and not IN_CI, reason="gguf is not installed")
def test_gguf_differs_where_it_is_said_to():
    words = ["--backend", "peer:backend", "--allow-missing"]
    folder = EXAMPLES / "gguf_peer"
    code, tree = conform(folder, *words, "--expected", "expected.toml", "--strict")
    assert (code, tree["stale"]) == (0, [])
    assert min(counts["conforms"] for counts in tree["operations"].values()) > 0
    assert tree["counts"]["expected"] == 7
    code, tree = conform(folder, *words)
    assert (code, tree["counts"]["differs"]) == (1, 7)
