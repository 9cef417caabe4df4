"""Scales of V from one batch at a time: those of everything at once, to the byte, in the memory of one batch."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import model
from refquant.apply.block_view import BlockView
from refquant.apply.value_scales import find_value_scales
from refquant.errors import InputError
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.methods.diffusion.ia_aq import AttentionSample, ia_aq
from refquant.numerics import LANES
from tests.apply.tiny import config_of, recipe, tensors_of, tiny


def view_of(m, lengths, plan, seed=0, index=1):
    rng = np.random.default_rng(seed)
    hidden = [rng.standard_normal((batch, tokens, m.config.d_model)).astype(m.dtype) for batch, tokens in lengths]
    masked = [rng.random(x.shape[:2]) < 0.5 for x in hidden]
    return BlockView(m=m, index=index, hidden=hidden, token_weights=[None] * len(hidden), recipe=plan, masked=masked)


@pytest.mark.parametrize("lane", ["fast", "ordered"])
@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("values", [{"per": "head"}, {"per": "feature", "rows": "masked"}, {"gram": "mass"}, {"method": "minmax"}])
def test_they_are_those_of_everything_at_once(lane, bits, values):
    config = config_of()
    tensors = {name: array.astype(np.float32) for name, array in tensors_of(config).items()}
    m = model.build(config, tensors, "float32", LANES[lane])
    plan = recipe(values={"method": "ia_aq", "bits": 4} | values, probabilities={"bits": bits})
    view = view_of(m, [(2, 9), (3, 12), (1, 5)], plan)
    kept = {"probabilities": [], "v": []}
    for x in view.hidden:
        m.block(1, x, m.context(*x.shape[:2]), lambda name, array: kept.get(name.removeprefix("blocks.1."), []).extend(array))
    rounded = [quantize_probabilities(a, bits) if bits else a for a in kept["probabilities"]]
    rows = [row for batch in view.masked for row in batch]
    samples = [
        AttentionSample(probabilities=a, values=v, query_rows=r if plan.values.rows == "masked" else None)
        for a, v, r in zip(rounded, kept["v"], rows, strict=True)
    ]
    per = "feature" if plan.values.per == "feature" else "head"
    whole = ia_aq(samples, plan.values.spec(), alphas=plan.values.alphas, per=per, gram=plan.values.gram, arithmetic=m.arithmetic)
    found = find_value_scales(view)
    assert found.grid.scale.tobytes() == whole.grid.scale.tobytes()
    assert found.grid.zero.tobytes() == whole.grid.zero.tobytes()
    assert found.chosen.tolist() == whole.chosen.tolist()
    if len(found.alphas) > 1:
        assert found.losses.tobytes() == whole.losses.tobytes()


def test_one_batch_is_held_at_a_time():
    m, plan = tiny("float32", max_sequence_length=256), recipe(values={"method": "ia_aq", "bits": 4})
    peaks = []
    for count in (1, 6):
        view = view_of(m, [(4, 128)] * count, plan)
        tracemalloc.start()
        find_value_scales(view)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 4 * 4 * 128 * 128 * 4  # the softmax output of a batch
    assert peaks[1] < 1.2 * peaks[0]


def test_v_that_is_not_finite_is_told():
    m, plan = tiny("float32"), recipe(values={"method": "ia_aq", "bits": 4})
    view = view_of(m, [(2, 9)], plan)
    broken = [x.copy() for x in view.hidden]
    broken[0][0, 0, 0] = np.nan
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=r"^block 1: the values hold NaN[^\n]*$"):
        find_value_scales(replace(view, hidden=broken))
