"""Against a real Dask cluster of two worker processes on this machine; workers are killed in the middle of their tasks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

import model
from refquant.apply.executors import ExecutorPlan, open_workforce
from refquant.apply.linear_task import LinearTask, quantize_linear
from refquant.apply.run import open_workbench
from refquant.apply.workforce import HERE, loaded_blas
from refquant.core import Stats
from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.numerics import LANES
from tests.apply.at_work import Killer, Slowly, begun, die, slowly
from tests.apply.killing import killed
from tests.apply.tiny import recipe, write_folder

PLAN = recipe(
    tokens={"weighting": "certainty"},
    values={"method": "ia_aq", "bits": 4},
    calibration={"states": "tmas", "samples": 12, "prompts": 4, "gen_length": 8, "block_length": 4, "min_distinct": 0.0},
)
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address():
    """A scheduler that somebody started, with two workers."""
    threads = set(threading.enumerate())
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address.removeprefix("tcp://")
    assert not [child for child in multiprocessing.active_children() if "Dask" in child.name]
    assert not [one for one in set(threading.enumerate()) - threads if not one.daemon]


@pytest.fixture
def force(address):
    with open_workforce(ExecutorPlan.read(f"dask://{address}")) as force:
        yield force


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("models") / "source")
    rng = np.random.default_rng(0)
    (folder / "calib.jsonl").write_text("".join(json.dumps({"ids": rng.integers(4, 900, 24).tolist()}) + "\n" for _ in range(4)))
    return folder


def folder_of(out, source, force=HERE, lane="fast", stream=True):
    one = open_workbench(source, model.load(source, stream=stream, arithmetic=LANES[lane]), source / "calib.jsonl", 0)
    one.workers = force
    with one.work_folder(out, PLAN, resume=False) as work:
        work.finish(source, one.quantize(PLAN, keeper=work), one.provenance(PLAN))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("lane", [pytest.param("fast", marks=pytest.mark.slow), "ordered"])
def test_a_worker_is_killed_in_the_middle_and_the_bytes_are_the_same(source, tmp_path, force, lane, monkeypatch):
    monkeypatch.setattr("refquant.apply.quantize.BATCH_TOKENS", 96)
    monkeypatch.setattr("refquant.apply.rollout.BATCH_TOKENS", 48)
    want = folder_of(tmp_path / "alone", source, lane=lane)
    name = list(model.load(source, stream=True).linears)[4]
    monkeypatch.setattr("refquant.apply.quantize.quantize_linear", Slowly(tmp_path, name))
    killer = Killer(tmp_path, name)
    assert folder_of(tmp_path / "out", source, force, lane) == want
    assert killer.killed
    assert len(begun(tmp_path)[name]) > 1  # somebody took it over


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_every_write_and_resumed_the_bytes_are_the_same(source, tmp_path, address):
    """The first process is killed, its workers are not: they take the tasks of the one that goes on."""
    found, _ = killed(source, tmp_path, f"dask://{address}?files=shared", 1, "kill")
    assert found["wrong"] == []
    assert found["operations"] > 150
    assert found["torn"] > 0.8 * found["operations"]


@pytest.mark.slow
def test_results_keep_their_order_and_errors_their_kind(force, tmp_path):
    assert list(force.map(slowly, [(tmp_path, number, 0.1 * (number % 2 == 0)) for number in range(6)])) == [0, 1, 4, 9, 16, 25]
    stats = Stats(tokens=8, hessian=np.diag([1.0, -1e6] + [1.0] * 6), absmax=np.ones(8))
    task = LinearTask(name="blocks.0.q_proj", weight=np.ones((2, 8)), plan=PLAN.weights, stats=stats)
    with pytest.raises(NotPositiveDefiniteError) as here:
        quantize_linear(task)
    with pytest.raises(NotPositiveDefiniteError) as there:
        list(force.map(quantize_linear, [task, task]))
    assert (str(there.value), there.value.pivot) == (str(here.value), here.value.pivot)


@pytest.mark.slow
def test_blas_takes_one_thread_in_workers_that_join_later_too(force, address, tmp_path):
    assert force.blas() == loaded_blas()
    with distributed.Client(f"tcp://{address}", set_as_default=False) as client:
        before = set(client.run(os.getpid).values())
        os.kill(min(before), signal.SIGKILL)
        until = time.monotonic() + 120
        while len(now := set(client.run(os.getpid, on_error="ignore").values())) < 2 or now == before:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert len(now & before) == 1
    assert force.blas() == loaded_blas()


@pytest.mark.slow
def test_nobody_answers(capfd):
    plan = ExecutorPlan.read("dask://127.0.0.1:9")
    said = r"^dask tcp://127.0.0.1:9: no Dask scheduler answers there[^\n]*$"
    with pytest.raises(InputError, match=said), open_workforce(plan):
        pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_scheduler_without_workers():
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        plan = ExecutorPlan.read(cluster.scheduler_address.replace("tcp", "dask"))
        with pytest.raises(InputError, match="has no workers; start some"), open_workforce(plan):
            pass


@pytest.mark.slow
def test_a_task_that_kills_whoever_takes_it_is_given_up(force):
    with pytest.raises(InputError, match="a worker ended in the middle of its task and nobody took it over"):
        list(force.map(die, [0]))


@pytest.mark.slow
def test_a_cluster_of_ones_own(source, tmp_path):
    before = set(multiprocessing.active_children())  # another cluster's
    with open_workforce(ExecutorPlan.read("dask://local?workers=2")) as force:
        assert (force.count, force.shared_files) == (2, True)
        assert folder_of(tmp_path / "out", source, force, "ordered") == folder_of(tmp_path / "alone", source, lane="ordered")
    assert set(multiprocessing.active_children()) <= before
