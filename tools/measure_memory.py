"""Peak resident memory of the work on a model in the shape of LLaDA-8B, each in a process of its own.

python tools/measure_memory.py FOLDER {import,forward,rtn,dllmquant} [--out OUT] [--executor TEXT]

FOLDER comes from tools/make_llada8b_shape.py. `rtn` and `dllmquant` quantize into OUT (removed again) with a streamed model and writer;
`dllmquant` is dllmquant-w4a16 on eight stored calibration states of 128 tokens. Prints one JSON line: peak MiB, seconds, and what was
estimated beforehand. With an executor there is another peak, that of all processes together, looked at every 20 ms (on Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np


def main() -> None:
    """Run one piece of work and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", choices=("import", "forward", "rtn", "dllmquant"))
    parser.add_argument("--out", type=Path, default=Path("measured-memory"))
    parser.add_argument("--executor", default="")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.executor and arguments.work in ("import", "forward"):
        parser.error("--executor is for rtn and dllmquant")
    work = {"forward": forward, "rtn": rtn, "dllmquant": dllmquant, "import": imports}[arguments.work]
    more = work(arguments.folder, arguments.out, arguments.executor)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    print(json.dumps({"work": arguments.work, "peak_mib": round(peak), "seconds": round(time.monotonic() - began, 1)} | more))


def imports(folder: Path, out: Path, executor: str) -> dict[str, object]:
    """Load everything and open the model: what the other figures begin with."""
    import model
    import refquant.apply.run

    return {"model": repr(model.load(folder, stream=True)), "module": refquant.apply.run.__name__}


def forward(folder: Path, out: Path, executor: str) -> dict[str, object]:
    """Logits of 1 x 128 tokens."""
    import model

    m = model.load(folder, stream=True)
    logits = m.logits(np.random.default_rng(0).integers(4, 1024, (1, 128)))
    return {"layers": m.config.n_layers, "finite": bool(np.isfinite(logits).all())}


def rtn(folder: Path, out: Path, executor: str) -> dict[str, object]:
    """RTN of the whole checkpoint."""
    return quantize(folder, out, "rtn-w4a16", executor)


def dllmquant(folder: Path, out: Path, executor: str) -> dict[str, object]:
    """DLLMQuant of the weights."""
    return quantize(folder, out, "dllmquant-w4a16", executor)


class Family(threading.Thread):
    """Looks at this process and all that descend from it until :meth:`stop`; ``most`` is the most that they held together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._over = 0, threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(0.02):
            self.most = max(self.most, sum(map(held, family(os.getpid()))))

    def stop(self) -> int:
        """The most that was seen."""
        self._over.set()
        self.join()
        return self.most


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    with suppress(OSError):  # it may end while it is looked at
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def held(pid: int) -> int:
    """Bytes that a process holds; 0 if it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def quantize(folder: Path, out: Path, name: str, executor: str) -> dict[str, object]:
    """Quantize into a folder, and verify that."""
    import model
    from refquant.apply.executors import chosen_executor, open_workforce
    from refquant.apply.memory import estimated_peak
    from refquant.apply.recipe import find_recipe
    from refquant.apply.run import open_workbench
    from refquant.apply.verifying import verify_folder

    plan = find_recipe(name)
    if plan.needs_calibration:  # rollouts of such a model take days here
        plan = plan.replace(calibration={"states": "stored", "samples": 8})
    bench = open_workbench(folder, model.load(folder, stream=True), folder / "calib.jsonl", 0)
    tokens = bench.states(plan.calibration).tokens if plan.needs_calibration else 0
    crew = chosen_executor(executor or None, None)
    estimate = estimated_peak(bench.model, plan, tokens, crew)
    times, began = [], time.monotonic()
    bench.progress = lambda what, done, total: times.append((what, round(time.monotonic() - began, 1)))
    together = Family()
    if executor:
        together.start()
    try:
        with open_workforce(crew) as bench.workers, bench.work_folder(out, plan, resume=False) as work:
            quantized = bench.quantize(plan, keeper=work)
            began_saving = time.monotonic()
            work.finish(folder, quantized, bench.provenance(plan))
        saving = time.monotonic() - began_saving
        verify_folder(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    most = {"together_mib": round(together.stop() / 2**20)} if executor else {}
    blocks = [at for what, at in times if what == "blocks"]
    return {
        "layers": bench.model.config.n_layers,
        "tokens": tokens,
        "estimate_mib": round(estimate / 2**20),
        "blocks_done_at": blocks[:3],
        "saving_seconds": round(saving, 1),
    } | most


if __name__ == "__main__":
    main()
