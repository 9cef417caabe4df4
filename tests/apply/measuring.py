"""Run by test_memory in a process of its own: quantizes a folder, and prints what was estimated and what this process held at most."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import model
from refquant.apply.executors import chosen_executor, open_workforce
from refquant.apply.memory import estimated_peak
from refquant.apply.recipe import find_recipe
from refquant.apply.run import open_workbench


def main(source, out, name, samples, executor, stream):
    plan, crew = find_recipe(name), chosen_executor(executor or None, None)
    if plan.needs_calibration:
        plan = plan.replace(calibration={"states": "stored", "samples": samples})
    bench = open_workbench(source, model.load(source, stream=stream), source / "calib.jsonl", 0)
    tokens = bench.states(plan.calibration).tokens if plan.needs_calibration else 0
    estimate = estimated_peak(bench.model, plan, tokens, crew)
    with open_workforce(crew) as bench.workers, bench.work_folder(out, plan, resume=False) as work:
        quantized = bench.quantize(plan, keeper=work)
        work.finish(source, quantized, bench.provenance(plan))
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"estimate": estimate, "peak": peak * 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6] == "stream")
