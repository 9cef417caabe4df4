"""Who works does not show in the bytes; errors, interrupts and deaths come back as one line; nobody is left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import model
from refquant.apply.block_view import BlockView
from refquant.apply.executors import ExecutorPlan, blas_threads, open_workforce
from refquant.apply.group_inputs import input_statistics
from refquant.apply.linear_task import LinearTask, quantize_linear
from refquant.apply.run import open_workbench
from refquant.apply.workforce import HERE, Workforce, loaded_blas
from refquant.core import Stats
from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.numerics import LANES
from tests.apply.at_work import Killer, Slowly, begun, die, pid, slowly
from tests.apply.tiny import recipe, tiny, write_folder

ROOT = Path(__file__).parents[2]
IID = {"states": "iid", "samples": 6, "prompts": 4, "gen_length": 8, "block_length": 4}
PLANS = {
    "gptq": recipe(calibration=IID),
    "rtn": recipe({"method": "rtn"}, calibration={"states": "none"}),
    "every part": recipe(
        {"hessian_inputs": "quantized"},
        calibration=IID,
        activations={"method": "static", "bits": 8},
        values={"method": "minmax", "bits": 4},
        probabilities={"bits": 8},
        attention_output={"method": "tac"},
    ),
    "states of its own": recipe(
        {"limits": "awq", "limit_steps": 4, "scheme": "asym_minmax"},
        tokens={"weighting": "certainty"},
        values={"method": "ia_aq", "bits": 4, "rows": "masked", "per": "feature"},
        calibration=IID | {"states": "tmas", "samples": 12, "min_distinct": 0.0, "temperature": 0.5},
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("models") / "source")
    rng = np.random.default_rng(0)
    (folder / "calib.jsonl").write_text("".join(json.dumps({"ids": rng.integers(4, 900, 24).tolist()}) + "\n" for _ in range(4)))
    return folder


@pytest.fixture(autouse=True)
def many_batches(monkeypatch):
    monkeypatch.setattr("refquant.apply.quantize.BATCH_TOKENS", 48)
    monkeypatch.setattr("refquant.apply.rollout.BATCH_TOKENS", 48)


def bench(source, force=HERE, lane="fast", stream=False):
    found = open_workbench(source, model.load(source, stream=stream, arithmetic=LANES[lane]), source / "calib.jsonl", 0)
    found.workers = force
    return found


def folder_of(out, source, plan, force=HERE, lane="fast", stream=False, resume=False):
    """Quantize into a folder; its bytes by file."""
    one = bench(source, force, lane, stream)
    with one.work_folder(out, plan, resume=resume) as work:
        work.finish(source, one.quantize(plan, keeper=work), one.provenance(plan))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def two():
    """Two processes."""
    before = set(multiprocessing.active_children())
    with open_workforce(ExecutorPlan.read("processes?workers=2")) as force:
        yield force
    assert set(multiprocessing.active_children()) == before


def test_results_keep_the_order_of_the_tasks_and_few_tasks_are_begun(tmp_path):
    asked = []

    def tasks():
        for number in range(8):
            asked.append(number)
            yield tmp_path, number, 0.2 if number % 2 == 0 else 0.0

    with ThreadPoolExecutor(2) as pool:
        results = Workforce(pool, 2, same_memory=True).map(slowly, tasks())
        assert next(results) == 0
        assert asked == [0, 1, 2]
        assert next(results) == 1
        assert list(results.begun()) == [4, 9]
        assert asked == [0, 1, 2, 3]
    assert sorted(begun(tmp_path)) == ["0", "1", "2", "3"]


def test_this_process_computes_what_is_asked_for_and_no_more():
    seen = []
    results = HERE.map(lambda task: seen.append(task) or task, iter(range(3)))
    assert (next(results), seen) == (0, [0])
    assert (list(results.begun()), seen) == ([], [0])


@pytest.mark.parametrize("lane", ["fast", "ordered"])
@pytest.mark.parametrize(
    ("text", "name"),
    [("threads?workers=3", name) for name in ("every part", "states of its own")] + [("processes", name) for name in PLANS],
)
def test_workers_do_not_show_in_the_bytes(source, tmp_path, two, text, name, lane):
    plan = PLANS[name]
    want = folder_of(tmp_path / "alone", source, plan, lane=lane)
    if text == "processes":
        assert folder_of(tmp_path / "loaded", source, plan, two, lane) == want
        assert folder_of(tmp_path / "streamed", source, plan, two, lane, stream=True) == want
        sending = Workforce(two.pool, 2, shared_files=False)
        assert folder_of(tmp_path / "sent", source, plan, sending, lane, stream=True) == want
    else:
        with open_workforce(ExecutorPlan.read(text)) as force:
            assert folder_of(tmp_path / "threads", source, plan, force, lane) == want


@pytest.mark.parametrize("lane", ["fast", "ordered"])
def test_statistics_are_merged_in_order_or_in_a_lane_where_order_does_not_matter(lane):
    m, rng = tiny("float32"), np.random.default_rng(3)
    m = model.build(m.config, m.parameters, "float32", arithmetic=LANES[lane])
    hidden = [rng.standard_normal((2, 5, 16)).astype(np.float32) for _ in range(7)]
    view = BlockView(m=m, index=0, hidden=hidden, token_weights=[None] * 7, recipe=PLANS["gptq"])
    alone = input_statistics(view, next(iter(m.linears)), None)
    with open_workforce(ExecutorPlan.read("threads?workers=3")) as force:
        found = input_statistics(view, next(iter(m.linears)), None, force)
    assert (found.tokens, found.hessian.tobytes()) == (70, alone.hessian.tobytes())


def test_an_error_is_the_one_that_was_raised(two):
    hessian = np.diag([1.0, -1e6] + [1.0] * 6)
    stats = Stats(tokens=8, hessian=hessian, absmax=np.ones(8))
    task = LinearTask(name="blocks.0.q_proj", weight=np.ones((2, 8)), plan=PLANS["gptq"].weights, stats=stats)
    with pytest.raises(NotPositiveDefiniteError) as here:
        quantize_linear(task)
    with pytest.raises(NotPositiveDefiniteError) as there:
        list(two.map(quantize_linear, [task, task, task]))
    assert (str(there.value), there.value.pivot) == (str(here.value), here.value.pivot)
    assert str(there.value).startswith("blocks.0.q_proj: ")
    assert list(two.map(abs, [-1])) == [1]  # the workers go on


def test_cores_are_shared_out_and_no_worker_takes_more_than_this_process(two, monkeypatch):
    assert two.blas() == loaded_blas()  # the tests hold BLAS to one thread
    assert {one[3] for one in two.blas()} == {1}
    monkeypatch.setattr("refquant.apply.executors.processors", lambda: 8)
    monkeypatch.setattr("refquant.apply.executors.threadpool_info", lambda: [{"user_api": "blas", "num_threads": 8}])
    assert [blas_threads(count) for count in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    with open_workforce(ExecutorPlan.read("processes?workers=1&blas=2")) as force:
        assert {one[3] for one in force.blas()} == {2}


def test_a_worker_that_dies_is_one_line_and_the_run_is_resumed(source, tmp_path, monkeypatch):
    plan = PLANS["gptq"]
    want = folder_of(tmp_path / "alone", source, plan)
    name, before = list(bench(source).model.linears)[4], set(multiprocessing.active_children())
    monkeypatch.setattr("refquant.apply.quantize.quantize_linear", Slowly(tmp_path, name))
    killer = Killer(tmp_path, name)
    said = r"^a worker ended in the middle of its task[^\n]*$"
    with pytest.raises(InputError, match=said), open_workforce(ExecutorPlan.read("processes?workers=2")) as force:
        folder_of(tmp_path / "out", source, plan, force)
    assert killer.killed
    assert set(multiprocessing.active_children()) == before
    monkeypatch.undo()
    monkeypatch.setattr("refquant.apply.quantize.BATCH_TOKENS", 48)
    with open_workforce(ExecutorPlan.read("processes?workers=2")) as force:
        assert folder_of(tmp_path / "out", source, plan, force, resume=True) == want


def test_a_block_that_fails_does_not_wait_for_its_workers(tmp_path):
    before, began = set(multiprocessing.active_children()), time.monotonic()

    def failing():
        yield tmp_path, 0, 300.0
        yield tmp_path, 1, 0.0
        while not begun(tmp_path):
            time.sleep(0.01)
        raise KeyError

    with pytest.raises(KeyError), open_workforce(ExecutorPlan.read("processes?workers=2")) as force:
        list(force.map(slowly, failing()))
    assert time.monotonic() - began < 100
    assert set(multiprocessing.active_children()) == before


def there(pids):
    return [one for one in pids if Path(f"/proc/{one}").exists() and " Z " not in Path(f"/proc/{one}/stat").read_text()]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes under /proc")
@pytest.mark.parametrize("text", ["processes?workers=2", pytest.param("dask://local?workers=2", marks=pytest.mark.slow)])
def test_workers_end_with_the_process_that_was_killed(text, tmp_path):
    code = (
        "import sys, time\n"
        "from refquant.apply.executors import ExecutorPlan, open_workforce\n"
        "from tests.apply.at_work import pid, slowly\n"
        "if __name__ == '__main__':\n"
        f"    with open_workforce(ExecutorPlan.read({text!r})) as force:\n"
        "        results = force.map(pid, range(8))\n"
        "        print(*set(results), flush=True)\n"
        f"        list(force.map(slowly, [({str(tmp_path)!r}, n, 300.0) for n in range(2)]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    pids = {int(word) for word in parent.stdout.readline().split()}
    until = time.monotonic() + 60
    while len(begun(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    pids |= {one for found in begun(tmp_path).values() for one in found}
    assert len(there(pids)) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while there(pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert there(pids) == []


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="interrupts reach every process of a group")
def test_an_interrupt_keeps_what_was_begun(source, tmp_path, monkeypatch, two):
    """Workers do not see Ctrl-C; the run keeps what they had begun and begins nothing else."""
    plan, count = PLANS["rtn"], len(bench(source).model.linears)
    monkeypatch.setattr("refquant.apply.quantize.quantize_linear", Slowly(tmp_path))
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    one, asked = bench(source, two), iter([False, False, True])
    folder = one.work_folder(tmp_path / "out", plan, resume=False, stop=lambda: next(asked))
    with pytest.raises(KeyboardInterrupt), folder as work:
        one.quantize(plan, keeper=work)
    assert len(begun(tmp_path)) == work.finished
    assert 3 <= work.finished <= 3 + two.count + 1 < count


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="interrupts reach every process of a group")
def test_what_is_started_unseen_stays_so():
    """The first semaphore of a process starts one that keeps count of them, which lets interrupts through again on the way."""
    code = (
        "import multiprocessing, signal\n"
        "from refquant.apply.executors import unseen_interrupts\n"
        "def blocked():\n"
        "    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "if __name__ == '__main__':\n"
        "    with unseen_interrupts():\n"
        "        multiprocessing.get_context('spawn').SimpleQueue()\n"
        "        print(blocked())\n"
        "    print(blocked())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "True\nFalse\n"


def test_lost_tasks_are_told_whatever_the_pool_calls_it():
    with open_workforce(ExecutorPlan.read("processes?workers=1")) as force:
        with pytest.raises(InputError, match="a worker ended in the middle"):
            list(force.map(die, [0]))
        with pytest.raises(InputError, match="a worker ended in the middle"):
            force.submit(pid, 0)


def test_threads_share_this_process():
    with open_workforce(ExecutorPlan.read("threads?workers=2")) as force:
        assert set(force.map(pid, range(4))) == {os.getpid()}
        assert force.same_memory
    assert threading.active_count() < 20
