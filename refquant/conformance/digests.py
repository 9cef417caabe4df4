"""The two digests that no setting of a machine may change: of all golden vectors made anew, and of a quantized model.

Each function takes and returns strings, so that :func:`refquant.conformance.settings.run_under` can call it in another process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from threadpoolctl import threadpool_limits

import model
from refquant.apply.evaluation import Sizes, evaluate, read_evaluation_set
from refquant.apply.quantize import QuantizedModel
from refquant.apply.recipe import find_recipe
from refquant.apply.run import open_workbench
from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.folder import root_hash
from refquant.conformance.generate import make_vectors
from refquant.numerics import ORDERED
from refquant.storage import canonical_json

RECIPE = "dllmquant-w4a4"
SEQUENCES = 8
SUBSET = (
    "rounding.half_even",
    "activation.per_token",
    "gptq.codes",
    "elementary.exp",
    "transformer.attention",
    "transformer.forward",
    "sampler.llada",
    "likelihood.masks",
    "checkpoint.quantize",
)
"""What is made anew where a machine is slow: one operation of each kind, the ordered lane's among them."""
SIZES = Sizes(texts=4, masks=2, items=0, trajectory_texts=1, trajectory_items=0, prefix=4, continuation=2)


def golden_root(workers: str = "1", *names: str) -> str:
    """Make operations anew (by default all), `workers` at a time in processes, and return the root hash of their vectors.

    Examples
    --------
    >>> golden_root("1", "rounding.floor") == golden_root("1", "rounding.floor")
    True
    """
    chosen = list(names or OPERATIONS)
    found: list[dict[str, str]]
    if int(workers) == 1:
        found = [_hashes(name) for name in chosen]
    else:
        with ProcessPoolExecutor(int(workers), mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_hashes, chosen))
    return root_hash({name: value for hashes in found for name, value in hashes.items()})


def subset_root(*names: str) -> str:
    """Make some operations anew, by default :data:`SUBSET`, and return the root hash of their vectors alone."""
    return golden_root("1", *(names or SUBSET))


def _hashes(name: str) -> dict[str, str]:
    return make_vectors(find_operation(name)).hashes()


def quantized_digest(workers: str = "1") -> str:
    """Quantize the embedded model by ``dllmquant-w4a4`` with 8 calibration sequences in the ordered lane; evaluate it with threads.

    Returns
    -------
    str
        SHA-256 over codes, scales, value scales, recorded errors, logits of the quantized model, and its evaluation.
    """
    source = model.embedded_directory()
    m, tokenizer = model.load(source, arithmetic=ORDERED), model.Tokenizer.from_directory(source)
    bench = open_workbench(source, m, source / "calib.jsonl", seed=0)
    quantized = bench.quantize(find_recipe(RECIPE).replace(calibration={"samples": SEQUENCES, "prompts": 2}))
    sha = hashlib.sha256("\n".join(_lines(quantized)).encode())
    attached = quantized.attach(m)
    ids = np.arange(48, dtype=np.int64).reshape(2, 24)
    sha.update(np.ascontiguousarray(attached.logits(ids)).tobytes())
    found = evaluate(m, {RECIPE: attached}, tokenizer, read_evaluation_set(), SIZES, seed=0, workers=int(workers))
    for row in found.rows:
        sha.update(canonical_json([row.likelihood.kl.mean, row.likelihood.difference.mean]).encode())
    return sha.hexdigest()


def _lines(quantized: QuantizedModel) -> Sequence[str]:
    """What quantization decided, one line a thing."""
    lines = [f"{name} {weight.digest()}" for name, weight in sorted(quantized.weights.items())]
    lines += [f"{index} {grid.scale.tobytes().hex()}" for index, grid in sorted(quantized.value_grids.items())]
    return lines + [f"{r.name} {r.tokens} {r.error!r} {r.rtn_error!r}" for r in quantized.records]


def both(workers: str = "1") -> str:
    """The digests of a row of the matrix as JSON: ``golden`` and ``quantized``.

    Where no variable says how many threads BLAS has, it gets one: the embedded model is too narrow for two, which wait for each other.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        threadpool_limits(limits=1, user_api="blas")  # for the rest of this process, so that whoever looks at it sees it
    return canonical_json({"golden": golden_root(workers), "quantized": quantized_digest(workers)})
