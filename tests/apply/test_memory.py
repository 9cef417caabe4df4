"""The estimate of memory: what it grows with, what it does not, and that a streamed run stays below it where sizes dominate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import model
from refquant.apply.executors import ExecutorPlan
from refquant.apply.memory import estimated_peak, resident
from refquant.apply.recipe import find_recipe
from tests.apply.tiny import write_folder

RTN, GPTQ = find_recipe("rtn-w4a16"), find_recipe("gptq-w4a4")
WIDE = {"d_model": 1024, "mlp_hidden_size": 3072, "n_heads": 8, "n_kv_heads": 8}
LONG = {"d_model": 128, "mlp_hidden_size": 256, "n_heads": 16, "n_kv_heads": 16, "max_sequence_length": 1024}
MEASURING = Path(__file__).with_name("measuring.py")
ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def made(folder, layers, tokens, shape, states=8):
    """A model and stored calibration states."""
    write_folder(folder, dtype=np.float32, n_layers=layers, **shape)
    rng = np.random.default_rng(0)
    states = [{"ids": rng.integers(4, 900, tokens).tolist(), "masked": list(range(tokens // 2, tokens))} for _ in range(states)]
    (folder / "calib.jsonl").write_text("".join(json.dumps(state) + "\n" for state in states))
    return folder


def measured(source, out, name, samples=8, executor="", how="stream"):
    """Estimate and peak of a run; with an executor, the peak is that of all its processes together."""
    words = [sys.executable, MEASURING, source, out, name, samples, executor, how]
    run = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    together = 0
    while run.poll() is None:
        together = max(together, sum(map(held, family(run.pid))))
        time.sleep(0.005)
    found = json.loads(run.stdout.read())
    run.stdout.close()
    return found | {"peak": together} if executor else found


def family(pid):
    """A process and all that descend from it."""
    found = [pid]
    with suppress(OSError):  # it may end while it is looked at
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def held(pid):
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


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
def test_long_sequences_are_estimated_too_and_their_number_does_not_matter(tmp_path):
    """The softmax output of a batch, 5 x 16 heads x 768 x 768 numbers, outweighs everything else; that of all batches is not held."""
    source = made(tmp_path / "model", 2, 768, LONG, states=15)
    few, many = (measured(source, tmp_path / f"out{count}", "dllmquant-w4a4", count) for count in (5, 15))
    for found in (few, many):
        assert found["peak"] > 5 * 16 * 768 * 768 * 4
        assert 0.75 < found["estimate"] / found["peak"] < 1.25, (few, many)
    assert many["peak"] < 1.15 * few["peak"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "executor", "how"),
    [
        ("rtn-w4a16", "processes?workers=2", "stream"),
        ("rtn-w4a16", "processes?workers=3", "loaded"),
        ("dllmquant-w4a16", "processes?workers=2", "stream"),
        ("dllmquant-w4a16", "processes?workers=2", "loaded"),
        ("gptq-w4a16", "dask://local?workers=2", "stream"),
    ],
)
def test_all_processes_together_are_within_a_quarter_of_the_estimate(tmp_path, name, executor, how):
    found = measured(made(tmp_path / "model", 2, 64, WIDE), tmp_path / "out", name, 8, executor, how)
    assert 0.75 < found["estimate"] / found["peak"] < 1.25, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", ["quarot-rtn-w4a4", "smoothquant-w8a8"])
def test_a_model_that_is_rewritten_is_there_twice(tmp_path, name):
    found = measured(made(tmp_path / "model", 2, 64, WIDE), tmp_path / "out", name, how="loaded")
    assert 0.75 < found["estimate"] / found["peak"] < 1.25, found


def test_workers_are_counted_where_they_hold_something_of_this_machine():
    m = model.embedded()
    alone = estimated_peak(m, GPTQ, 5000)
    crews = ("threads?workers=2", "processes?workers=2", "processes?workers=4", "dask://local?workers=4", "dask://elsewhere:8786")
    threads, two, four, local, elsewhere = (estimated_peak(m, GPTQ, 5000, ExecutorPlan.read(text)) for text in crews)
    each = resident() - sum(array.nbytes for array in m.parameters.values())
    assert alone < threads < two < four
    assert 0 <= four - two - 2 * each < 100 << 20  # an interpreter with its libraries, and what it works on
    assert abs(local - four) < 1 << 20  # what is resident moves by itself
    assert elsewhere - alone < each
    assert estimated_peak(m, GPTQ, 5000, ExecutorPlan.read("threads?workers=64")) < threads + (200 << 20)  # not more than there are tasks
