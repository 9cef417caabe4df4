"""The scripts of GPTQ, Hessians and clip searches: what they check before they time, with peers that are doubles of ours."""

import types

import numpy as np
import pytest

from benchmarks import clip_search, gptq, hessian, measure
from refquant.core import fit_grid
from refquant.core import hessian as whole_hessian
from refquant.errors import NumericalError
from refquant.methods.compensate.gptq import gptq as quantize
from refquant.methods.compensate.gptq import gptq_trace


@pytest.fixture
def quick_clock(monkeypatch):
    monkeypatch.setattr(measure, "roofline", lambda: measure.Roofline(flops=1e9, traffic=1e9))
    monkeypatch.setattr(
        measure, "alternate", lambda name, ours, peer: (ours(), peer(), measure.Comparison(name=name, ours=(1.0,), peer=(2.0,)))[2]
    )


class Double:
    """Stands for llmcompressor: our own float32 run."""

    def __init__(self, layer, act_order):
        self.layer, self.act_order = layer, act_order

    def codes(self):
        return quantize(
            self.layer.weight, self.layer.hessian, gptq.SPEC, act_order=self.act_order, grid=self.layer.grid, working="float32"
        ).codes

    def __call__(self):
        return self.codes()


def test_the_rows_of_gptq(monkeypatch, quick_clock):
    monkeypatch.setattr(gptq, "Peer", Double)
    rows = list(gptq.run(quick=True))
    assert [row.name for row in rows] == ["GPTQ 256x256", "  in float64", "GPTQ 128x256, act-order", "  in float64"]
    assert [row.limit for row in rows] == [0.5, None, 0.5, None]
    assert "our float32 codes differ from the float64 lane's in" in rows[0].note
    assert rows[0].share == pytest.approx((256**3 / 3 + 256**3) / 1e9)
    assert rows[1].share == 2 * rows[0].share
    assert {row for row in gptq.ROWS if "GPTQ" in row} == {"GPTQ 4096x4096", "GPTQ 1024x1024, act-order", "GPTQ 4096x11008, act-order"}


def test_codes_may_part_only_at_small_margins():
    layer = gptq.Layer.drawn(gptq.QUICK[1])
    trace = gptq_trace(layer.weight, layer.hessian, gptq.SPEC, act_order=True, grid=layer.grid)
    codes = trace.quantized.codes.copy()
    assert gptq.parted(trace, codes) == (0, 0.0)
    last = int(trace.order[-1])
    close = int(np.argmin(trace.margins[:, -1]))
    codes[close, last] ^= 1
    assert trace.margins[close, -1] < gptq.MARGIN
    assert gptq.parted(trace, codes) == (1, trace.margins[close, -1])
    far = int(np.argmax(trace.margins[:, 0]))
    codes[far, trace.order[0]] ^= 1
    with pytest.raises(NumericalError, match="codes differ where the float64 lane decided with a margin of 0"):
        gptq.parted(trace, codes)


@pytest.mark.parametrize("working", ["float32", "float64"])
def test_the_streamed_hessian_is_the_hessian(working):
    x = np.random.default_rng(0).standard_normal((5000, 6)).astype(np.float32)
    found = hessian.streamed(x, working)
    np.testing.assert_allclose(found, whole_hessian(x), rtol=0, atol=hessian.TOLERANCE[working] * found.max())


def test_the_rows_of_the_clip_search(monkeypatch, quick_clock):
    class Same:
        def __init__(self, x):
            self.x = x

        def __call__(self):
            grid = fit_grid(self.x, clip_search.SPEC)
            return types.SimpleNamespace(numpy=lambda: grid.scale[:, 0]), None

    monkeypatch.setattr(clip_search, "TorchSearch", Same)
    (row,) = clip_search.run(quick=True)
    assert row.limit == 0.5
    assert row.note.startswith("0.00% of the rows")
    wrong = types.SimpleNamespace(numpy=lambda: np.ones(8))
    with pytest.raises(NumericalError, match=r"100\.0% of the rows have another scale"):
        clip_search.check(np.eye(8, dtype=np.float32), lambda: (wrong, None))
