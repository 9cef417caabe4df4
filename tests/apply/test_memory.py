"""The estimate of memory: what it grows with, what it does not, and that a streamed run stays below it where sizes dominate."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import model
from refquant.apply.memory import estimated_peak, resident
from refquant.apply.recipe import find_recipe
from tests.apply.tiny import write_folder

RTN, GPTQ = find_recipe("rtn-w4a16"), find_recipe("gptq-w4a4")
WIDE = {"d_model": 1024, "mlp_hidden_size": 3072, "n_heads": 8, "n_kv_heads": 8}
LONG = {"d_model": 128, "mlp_hidden_size": 256, "n_heads": 16, "n_kv_heads": 16, "max_sequence_length": 1024}
MEASURE = """
import json, resource, sys
from pathlib import Path
import model
from refquant.apply.memory import estimated_peak
from refquant.apply.recipe import find_recipe
from refquant.apply.run import open_workbench
source, out = Path(sys.argv[1]), Path(sys.argv[2])
plan = find_recipe(sys.argv[3])
if plan.needs_calibration:
    plan = plan.replace(calibration={"states": "stored", "samples": 8})
bench = open_workbench(source, model.load(source, stream=True), source / "calib.jsonl", 0)
tokens = bench.states(plan.calibration).tokens if plan.needs_calibration else 0
estimate = estimated_peak(bench.model, plan, tokens)
with bench.work_folder(out, plan, resume=False) as work:
    quantized = bench.quantize(plan, keeper=work)
    work.finish(source, quantized, bench.provenance(plan))
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"estimate": estimate, "peak": peak * 1024}))
"""


def made(folder, layers, tokens, shape):
    """A model and eight stored calibration states."""
    write_folder(folder, dtype=np.float32, n_layers=layers, **shape)
    rng = np.random.default_rng(0)
    states = [{"ids": rng.integers(4, 900, tokens).tolist(), "masked": list(range(tokens // 2, tokens))} for _ in range(8)]
    (folder / "calib.jsonl").write_text("".join(json.dumps(state) + "\n" for state in states))
    return folder


def measured(source, out, name):
    ran = subprocess.run([sys.executable, "-c", MEASURE, source, out, name], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_it_does_not_grow_with_layers_of_a_streamed_model_and_does_with_others(tmp_path):
    peaks = {}
    for layers in (2, 6):
        source = write_folder(tmp_path / str(layers), n_layers=layers)
        for stream in (True, False):
            peaks[layers, stream] = estimated_peak(model.load(source, stream=stream), GPTQ, 100) - resident()
    assert abs(peaks[6, True] - peaks[2, True]) < 1 << 20  # what is resident moves by itself
    assert peaks[6, False] > peaks[2, False]


def test_it_grows_with_what_costs_memory():
    m = model.embedded()
    base = estimated_peak(m, RTN, 0)
    assert estimated_peak(m, GPTQ, 1000) > base
    assert estimated_peak(m, GPTQ, 10000) > estimated_peak(m, GPTQ, 1000)
    assert estimated_peak(model.embedded("float64"), RTN, 0) > base


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", ["rtn-w4a16", "dllmquant-w4a16"])
def test_the_peak_is_within_a_quarter_of_the_estimate_and_does_not_grow_with_layers(tmp_path, name):
    found = {layers: measured(made(tmp_path / str(layers), layers, 64, WIDE), tmp_path / f"out{layers}", name) for layers in (2, 4)}
    for one in found.values():
        assert 0.75 < one["estimate"] / one["peak"] < 1.25, found
    assert found[4]["peak"] < 1.1 * found[2]["peak"], found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_long_sequences_are_estimated_too(tmp_path):
    """The softmax output that V's scales look at outweighs everything else: 8 x 16 heads x 768 x 768 numbers."""
    found = measured(made(tmp_path / "model", 2, 768, LONG), tmp_path / "out", "dllmquant-w4a4")
    assert found["peak"] > 8 * 16 * 768 * 768 * 4
    assert 0.75 < found["estimate"] / found["peak"] < 1.25, found
