"""Recipes whose weights are not integers: planned, quantized, saved, loaded."""

from __future__ import annotations

import numpy as np
import pytest

import refquant as rq
from refquant.apply.checkpoint import load, load_quantized
from refquant.errors import UsageError
from refquant.report.footprint import planned_bits
from tests.apply.folders import saved
from tests.apply.tiny import recipe

CASES = {
    "mxfp4 by GPTQ": {"format": "mxfp4"},
    "mxint8": {"method": "rtn", "format": "mxint8"},
    "nvfp4": {"method": "rtn", "format": "nvfp4"},
    "nvfp4 by GPTQ": {"format": "nvfp4", "static_groups": True},
    "nf4": {"format": "nf4"},
    "double quantization": {"method": "rtn", "format": "nf4_double"},
    "super-blocks": {"method": "rtn", "format": "q6_k_grid"},
    "fp8 rows": {"method": "rtn", "format": "e4m3fn", "group_size": -1, "scale_format": "float32"},
    "a codebook with clip search": {"method": "rtn", "format": "pot4", "group_size": 16, "clip_search": True},
}


def plain(weights):
    """The tiny recipe's weights without what a format stands for."""
    return recipe().replace(weights={"bits": 4, "group_size": 128, "scale_format": "float16"} | weights)


@pytest.mark.parametrize("name", CASES)
def test_folders_hold_any_format(tmp_path, name) -> None:
    m, quantized, out = saved(tmp_path, plain(CASES[name]))
    ids = np.arange(14).reshape(2, 7) % 90 + 4
    assert load(out).logits(ids).tobytes() == quantized.attach(m).logits(ids).tobytes()
    back = load_quantized(out)
    assert {n: q.digest() for n, q in back.weights.items()} == {n: q.digest() for n, q in quantized.weights.items()}
    for weight in quantized.weights.values():
        assert planned_bits(weight.spec, weight.shape) == weight.total_bits


def test_contradictions_are_refused() -> None:
    for weights, message in (
        ({"format": "mxfp4", "bits": 3}, "leave out bits"),
        ({"format": "mxfp4", "group_size": 64}, "leave out group_size"),
        ({"format": "e4m3fn", "scheme": "sym_full"}, "leave out scheme"),
        ({"format": "e9m9"}, "do not make 2 to 16 bits"),
        ({"format": "fp5"}, "unknown format"),
    ):
        with pytest.raises(UsageError, match=message):
            plain(weights)


def test_activations_of_integers_stay_beside_weights_of_floats(tmp_path) -> None:
    plan = plain({"method": "rtn", "format": "mxfp8_e4m3"}).replace(activations={"method": "per_token", "bits": 8})
    _, _, out = saved(tmp_path, plan)
    assert load(out) is not None
    with pytest.raises((UsageError, rq.errors.InputError)):
        load(out, linears="integer")
