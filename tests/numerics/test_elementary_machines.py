"""The same bytes whatever NumPy's SIMD level: one hash over every function, with the processor's features on and off, and the one that
every machine, NumPy release and system has to give."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from refquant.numerics.arrays import Array
from refquant.numerics.draws import words
from refquant.numerics.elementary import cos, erf, exp, log, power, sin

# Seen with NumPy 2.0 and 2.4, on x86-64 at every SIMD level. It changes when a function gives another bit anywhere: that is a decision.
EXPECTED = "9b84e641714807c2c8073c79f1191e7ad7dac5d2cd342bfd897b7059f2b1627f"

CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_elementary_machines import active, digest
print(json.dumps({"active": active(), "digest": digest()}))
"""


def dispatched() -> tuple[list[str], dict[str, bool]]:
    """The features for which the running NumPy has code of its own, and whether each feature is in use."""
    core = np._core._multiarray_umath  # type: ignore[attr-defined]
    return list(core.__cpu_dispatch__), dict(core.__cpu_features__)


def active() -> list[str]:
    names, features = dispatched()
    return [name for name in names if features.get(name)]


def samples() -> dict[str, Array]:
    """Any bits at all, and numbers of the common ranges; made of raw words, exactly."""
    raw = words(np.random.default_rng(2718), 40_000)
    fractions = (raw >> np.uint64(11)).astype(np.float64) / 2**53
    ranges = [(fractions - 0.5) * width for width in (2.0, 30.0, 1500.0, 2.0**21)]
    return {
        "float64": np.concatenate([raw.view(np.float64), fractions, *ranges]),
        "float32": np.concatenate([raw.view(np.float32), *(r.astype(np.float32) for r in ranges)]),
    }


def digest() -> str:
    """SHA-256 of what every function makes of the samples."""
    found = hashlib.sha256()
    with np.errstate(all="ignore"):
        for x in samples().values():
            exponents = x[::-1].copy()
            results = [f(x) for f in (exp, log, sin, cos, erf)]
            results += [power(x, exponents), power(np.abs(x), x.dtype.type(2.4)), power(x.dtype.type(10000), -np.abs(x[40_000:]))]
            for result in results:
                found.update(result.astype(result.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def in_a_child(**settings: str) -> dict[str, Any]:
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NPY_")} | settings
    done = subprocess.run([sys.executable, "-c", CHILD, here], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_hash_is_the_one_that_every_machine_gives() -> None:
    assert digest() == EXPECTED


def test_the_hash_does_not_depend_on_simd() -> None:
    on = active()
    if not on:
        pytest.skip("this NumPy uses no feature that could be switched off")
    off = in_a_child(NPY_DISABLE_CPU_FEATURES=" ".join(on))
    assert off["active"] == []
    assert off["digest"] == digest()


def test_the_samples_reach_every_corner() -> None:
    for name, x in samples().items():
        tiny = np.finfo(name).smallest_normal
        with np.errstate(invalid="ignore"):
            assert x.dtype == name
            assert np.isnan(x).any()
            assert (np.abs(x) > 2**20).any()
            assert ((np.abs(x) < tiny) & (x != 0)).any()
            assert ((exp(x) < tiny) & (exp(x) > 0)).any()
