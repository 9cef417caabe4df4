"""RTN end to end: its two equations by hand, and the same bytes whatever the machine is told to use."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from refquant.core import spec
from refquant.errors import InputError
from refquant.methods.grid.rtn import CARD, rtn

# What a child process prints: the digests of every scheme on seeded numbers, and which SIMD features it found switched off.
CHILD = """
import json, sys
import numpy as np
from refquant.core import SCHEMES, spec
from refquant.methods.grid.rtn import rtn
from refquant.numerics.draws import uniforms

rng = np.random.Generator(np.random.PCG64(5))
x = (uniforms(rng, (37, 210)) - 0.5) * np.exp2(np.rint(uniforms(rng, (37, 1)) * 40 - 20))
x[3], x[4] = 0, 0.37
x[5] = np.rint(x[5] / abs(x[5]).max() * 15) / 2
digests = {}
for name in SCHEMES:
    for dtype in (np.float16, np.float32, np.float64):
        for scale_format in (None, "float16", "bfloat16"):
            s = spec("int4", scheme=name, group_size=32, scale_format=scale_format)
            q = rtn((x / 64).astype(dtype), s)
            digests[f"{name} {np.dtype(dtype).name} {scale_format}"] = q.digest() + str(hash(q.dequantize().tobytes()))
features = np._core._multiarray_umath.__cpu_features__
print(json.dumps([digests, [name for name in sys.argv[1:] if features[name]]]))
"""


def digests_under(features_off: list[str], **variables: str) -> dict[str, str]:
    """Run the child with other environment variables; every feature named must be off in it."""
    import json

    removed = ("NPY_DISABLE_CPU_FEATURES", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment |= {"PYTHONHASHSEED": "0"} | variables
    if features_off:
        environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(features_off)
    run = subprocess.run([sys.executable, "-c", CHILD, *features_off], env=environment, capture_output=True, text=True, check=True)
    digests, still_on = json.loads(run.stdout)
    assert still_on == [], "these were to be switched off"
    return digests  # type: ignore[no-any-return]


def dispatched_features() -> list[str]:
    """The features beyond the baseline that NumPy was built for and this processor has."""
    built, found = np._core._multiarray_umath.__cpu_dispatch__, np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    return [name for name in built if found.get(name)]


def test_threads_and_vector_units_change_nothing() -> None:
    reference = digests_under([], OPENBLAS_NUM_THREADS="1")
    assert len(reference) == 7 * 9
    assert len(set(reference.values())) > 40
    assert digests_under([], OPENBLAS_NUM_THREADS="2") == reference
    features = dispatched_features()
    if not features:
        pytest.skip("this NumPy has no features to switch off")
    assert digests_under(features, OPENBLAS_NUM_THREADS="1") == reference


def test_the_two_equations_by_hand() -> None:
    # [RTN-1] range -1 .. 2, three steps of 1, zero point 1; [RTN-2] 0.4 -> 0 + 1, 1.6 -> 2 + 1, the tie 0.5 -> 0 + 1, 1.5 -> 2 + 1.
    q = rtn(np.array([[-1.0, 0.4, 1.6, 0.5, 1.5, 2.0]]), spec("int2", scheme="asym_incl0"))
    assert (q.scale.tolist(), q.zero.tolist()) == ([[1.0]], [[1]])  # type: ignore[union-attr]
    assert q.codes.tolist() == [[0, 1, 3, 1, 3, 3]]
    assert q.dequantize().tolist() == [[-1, 0, 2, 0, 2, 2]]
    assert q.origin.method == CARD.name


def test_ties_follow_the_named_rounding() -> None:
    # The scale is exactly 1/4: -7/4 .. 7/4 over 14 half steps.
    x = np.array([[-1.75, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 1.75]])
    expected = {
        "half_even": [-7, -2, -2, 0, 0, 2, 2, 7],
        "half_away": [-7, -3, -2, -1, 1, 2, 3, 7],
        "trunc_half": [-6, -2, -1, 0, 1, 2, 3, 7],
        "floor": [-7, -3, -2, -1, 0, 1, 2, 7],
        "ceil": [-7, -2, -1, 0, 1, 2, 3, 7],
    }
    for rounding, codes in expected.items():
        assert rtn(x, spec("int4", scheme="sym_narrow", rounding=rounding)).codes.tolist() == [codes]


def test_groups_end_where_they_should() -> None:
    x = np.array([[1.0, 2.0, 7.0, 70.0, 10.0, 20.0, 0.5]])
    q = rtn(x, spec("int4", scheme="sym_narrow", group_size=3))
    assert q.scale.tolist() == [[1.0, 10.0, 0.5 / 7]]
    assert q.codes.tolist() == [[1, 2, 7, 7, 1, 2, 7]]


def test_the_weight_is_what_is_named_in_errors() -> None:
    with pytest.raises(InputError, match="the weight has dtype int64"):
        rtn(np.array([[1, 2]]), spec("int4"))
