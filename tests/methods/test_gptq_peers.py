"""GPTQ against IST-DASLab/gptq and llm-compressor: their runs, our arithmetic.

Bounds, stated once. float64 runs: a decision may differ if its margin is below 1e-9 steps (largest difference of compensated values
seen: 1.4e-12 steps); a loss by 1e-12 of itself. float32 runs: re-anchored on the run's own codes and scales, a decision may miss the
nearest code by 1e-5 steps (seen: 1.4e-7 in one decision, none anywhere else); its loss, counted in float64, agrees with the error that the
run itself reports to 2e-4 of itself, and with the loss of our float64 run to 2e-4 wherever the clip search took the same shrinkages.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.core import Grid, Scheme, hessian, spec
from refquant.errors import NotPositiveDefiniteError
from refquant.methods.compensate.gptq import gptq_trace
from tests.methods import istdaslab
from tests.methods.agreement import Run, assert_same_decisions, replayed

MARGIN_FLOAT64, MARGIN_FLOAT32 = 1e-9, 1e-5
LLMCOMPRESSOR = Path(__file__).parents[1] / "data" / "quant" / "llmcompressor_gptq.safetensors"


def test_every_run_but_the_ternary_one_is_compared():
    assert len(istdaslab.names("f64")) == 37
    assert set(istdaslab.names("f32")) == set(istdaslab.names("f64"))
    compared = tuple(f"gptq.{name}." for name in istdaslab.names("f64"))
    left = {key for key in istdaslab.tensors() if key.startswith("gptq.") and not key.startswith(compared)}
    assert {re.sub(r"\.f(32|64)\.\w+$", "", key) for key in left} == {"gptq.bits2_sym0_trits1"}


@pytest.mark.parametrize("name", istdaslab.names("f64"))
def test_float64_runs_of_the_authors(name):
    """[GPTQ-1] to [GPTQ-7] under ``compat="istdaslab"``."""
    theirs = istdaslab.recorded(name, "f64")
    ours = theirs.repeated()
    scale, zero = (np.broadcast_to(a, theirs.scale.shape) for a in (ours.quantized.scale, ours.quantized.zero))
    if theirs.fitted_while_sweeping:
        np.testing.assert_allclose(scale, theirs.scale, rtol=1e-12, atol=0)
    else:
        np.testing.assert_array_equal(scale, theirs.scale)
    np.testing.assert_array_equal(zero, theirs.zero)
    assert_same_decisions(ours, istdaslab.weight(), theirs.run, MARGIN_FLOAT64)
    assert ours.loss() == pytest.approx(theirs.error, rel=1e-12)


@pytest.mark.parametrize("name", istdaslab.names("f32"))
def test_float32_runs_of_the_authors(name):
    theirs = istdaslab.recorded(name, "f32")
    ours = theirs.repeated()
    assert_same_decisions(ours, istdaslab.weight(), theirs.run, MARGIN_FLOAT32, same_grid=False)
    alive = np.where(ours.dead, 0.0, istdaslab.weight())
    _, errors, _ = replayed(theirs.run, alive, ours.hessian, ours.order)
    loss = 0.5 * float((errors**2).sum())
    assert loss == pytest.approx(theirs.error, rel=2e-4)
    if name != "bits3_sym0_mse1":  # one row's search meets two shrinkages that float32 cannot tell apart, and takes the other one
        assert loss == pytest.approx(ours.loss(), rel=2e-4)
    else:
        rows = np.flatnonzero(np.abs(ours.quantized.scale / theirs.scale - 1)[:, 0] > 1e-4)
        assert len(rows) == 1
        others = np.setdiff1d(np.arange(len(errors)), rows)
        assert float((errors[others] ** 2).sum()) == pytest.approx(float((ours.errors[others] ** 2).sum()), rel=2e-4)


def test_their_activation_order_is_ours_except_between_equal_diagonals():
    """[GPTQ-3] The two dead columns, 7 and 247, tie at the end: theirs comes out as (247, 7), a stable sort gives (7, 247).

    The equal features 20 and 21 tie too; there their sort happened to keep the order.
    """
    theirs = istdaslab.recorded("bits4_sym1_actorder1", "f64").options["act_order"]
    ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), spec("int4"), act_order=True).order
    assert np.flatnonzero(theirs != ours).tolist() == [254, 255]
    assert (theirs[-2:].tolist(), ours[-2:].tolist()) == ([247, 7], [7, 247])
    place = np.empty(256, dtype=int)
    place[ours] = np.arange(256)
    assert place[21] == place[20] + 1


def test_our_own_stable_order_changes_no_code_of_theirs():
    """Dead columns hold zeros and interact with nothing, so the order between them cannot matter to the others."""
    theirs = istdaslab.recorded("bits4_sym1_actorder1", "f64")
    ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), theirs.spec, compat="istdaslab", act_order=True)
    assert_same_decisions(ours, istdaslab.weight(), theirs.run, MARGIN_FLOAT64)


def test_without_compat_their_quirks_are_gone():
    """Row 2 has no negative entry: their symmetric grid covers half of it and 64 of 256 codes saturate."""
    theirs = istdaslab.recorded("bits4_sym1", "f64")
    assert int((theirs.run.codes[2] == 15).sum()) == 64
    ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), theirs.spec).quantized
    assert ours.scale[2, 0] == pytest.approx(2 * theirs.scale[2, 0], rel=1e-12)
    assert int((ours.codes[2] == 15).sum()) < 16


def test_each_quirk_is_needed():
    """Every one of the three faults changes something on this data, so the comparisons above do see them."""
    for name, quirk in (
        ("bits4_sym0_groupsize32_actorder0_static_groups0", "lazy_groups"),
        ("bits4_sym1", "half_range_sym"),
    ):
        theirs = istdaslab.recorded(name, "f64")
        rest = [q for q in ("lazy_groups", "half_range_sym", "grid_before_dead") if q != quirk]
        ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), theirs.spec, compat=rest, **theirs.options)
        assert (ours.quantized.codes != theirs.run.codes).any(), quirk


def test_grid_before_dead_changes_the_grid_of_a_row_whose_extreme_stands_in_a_dead_column():
    w, h = np.array([[1.0, -1.0, 3.0, 0.5]]), np.diag([1.0, 2.0, 0.0, 1.0])
    theirs = gptq_trace(w, h, spec("int2"), compat="grid_before_dead").quantized
    ours = gptq_trace(w, h, spec("int2")).quantized
    assert theirs.scale.tolist() == [[4.0 / 3]]
    assert ours.scale.tolist() == [[2.0 / 3]]


class TestFewerTokensThanFeatures:
    """[GPTQ-4] 96 tokens, 256 features: the Hessian has rank 96 and lives from its damping."""

    def test_float64(self):
        data = istdaslab.tensors()
        ours = gptq_trace(istdaslab.weight(), istdaslab.few_hessian(), spec("int4", group_size=128), compat="istdaslab")
        np.testing.assert_allclose(ours.quantized.scale, data["few.f64.scale"], rtol=1e-12, atol=0)
        np.testing.assert_array_equal(ours.quantized.zero, data["few.f64.zero"])
        assert_same_decisions(ours, istdaslab.weight(), self._run("f64"), MARGIN_FLOAT64)
        assert ours.loss() == pytest.approx(float(data["few.f64.error"][0]), rel=1e-12)

    def test_float32(self):
        ours = gptq_trace(istdaslab.weight(), istdaslab.few_hessian(), spec("int4", group_size=128), compat="istdaslab")
        assert_same_decisions(ours, istdaslab.weight(), self._run("f32"), MARGIN_FLOAT32, same_grid=False)
        assert ours.loss() == pytest.approx(float(istdaslab.tensors()["few.f32.error"][0]), rel=2e-4)

    def test_without_damping_it_fails_and_names_a_damping_that_works(self):
        h = istdaslab.few_hessian()
        with pytest.raises(NotPositiveDefiniteError, match=r"with damping 0 is not positive definite \(pivot of column \d+\)") as failure:
            gptq_trace(istdaslab.weight(), h, spec("int4"), damping=0.0)
        assert failure.value.pivot <= 159  # from the last column on, 96 pivots of the rank can be positive
        named = re.search(r"damping=(\S+) would work", str(failure.value))
        assert named
        works = gptq_trace(istdaslab.weight(), h, spec("int4"), damping=float(named[1]))
        assert np.isfinite(works.loss())

    @staticmethod
    def _run(dtype):
        data = istdaslab.tensors()
        wide = np.repeat(np.arange(2), 128)
        scale, zero = (data[f"few.{dtype}.{part}"].astype(np.float64)[:, wide] for part in ("scale", "zero"))
        return Run(codes=data[f"few.{dtype}.codes"].astype(int), scale=scale, zero=zero, lo=0, hi=15)


class TestHardlyAnyDamping:
    """With two equal features the Hessian is singular; whether no damping at all goes through is a matter of rounding luck."""

    def test_what_the_authors_met(self):
        report = istdaslab.report()
        assert "not positive-definite" in report["damp0.0.f32"]
        assert report["damp0.0.f64"][0] == "ok"

    def test_a_damping_of_1e_8_gives_their_loss(self):
        ok, error = istdaslab.report()["damp1e-08.f64"]
        ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), spec("int4"), damping=1e-8, compat="istdaslab")
        assert ok == "ok"
        assert ours.loss() == pytest.approx(error, rel=1e-9)

    def test_none_works_or_says_what_would(self):
        """Their float64 run got through with a loss of 317233; equal features leave that number to the last bits."""
        try:
            ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), spec("int4"), damping=0.0, compat="istdaslab")
        except NotPositiveDefiniteError as failure:
            named = re.search(r"damping=(\S+) would work", str(failure))
            assert named
            ours = gptq_trace(istdaslab.weight(), istdaslab.full_hessian(), spec("int4"), damping=float(named[1]))
        assert ours.loss() == pytest.approx(istdaslab.report()["damp0.0.f64"][1], rel=0.01)


class TestLlmCompressor:
    """llmcompressor 0.14: scales fixed before the sweep, float32; its Hessian is a sum divided by the number of samples."""

    SCHEME = Scheme(name="ct", range="minmax_with_zero", steps="levels", zero="integer", empty="unit_range", signed=True)
    DATA = load_file(LLMCOMPRESSOR)
    NAMES = sorted({key.rsplit(".", 1)[0] for key in DATA if key.startswith("b")})

    def test_all_runs_are_here(self):
        assert len(self.NAMES) == 24

    def test_their_hessian_is_twice_ours(self):
        """[GPTQ-1]"""
        twice = 2 * hessian(self.DATA["X"])
        np.testing.assert_allclose(self.DATA["H_sum"], twice, rtol=0, atol=2e-6 * np.abs(twice).max())

    @pytest.mark.parametrize("name", NAMES)
    def test_run(self, name):
        bits, _, kind, order = name.split(".")
        grid = Grid(scale=self.DATA[f"{name}.scale"], zero=self.DATA[f"{name}.zero"])
        how = spec(f"int{bits[1:]}", group_size=64 if kind == "group" else None, scheme=self.SCHEME)
        w, h = self.DATA["W"].astype(np.float64), self.DATA["H_sum"].astype(np.float64)
        ours = gptq_trace(w, h / self.DATA["num_samples"][0], how, act_order=order != "None", grid=grid)
        wide = np.repeat(np.arange(grid.scale.shape[1]), w.shape[1] // grid.scale.shape[1])
        scale, zero = grid.scale.astype(np.float64)[:, wide], grid.zero.astype(np.float64)[:, wide]
        codes = np.rint(self.DATA[f"{name}.Q"] / scale + zero).astype(int)
        np.testing.assert_allclose(scale * (codes - zero), self.DATA[f"{name}.Q"], rtol=1e-6, atol=1e-30)
        theirs = Run(codes=codes, scale=scale, zero=zero, lo=how.format.lo, hi=how.format.hi)
        assert_same_decisions(ours, w, theirs, MARGIN_FLOAT32)
        np.testing.assert_array_equal(
            ours.quantized.dequantize()[codes == ours.quantized.codes], self.DATA[f"{name}.Q"][codes == ours.quantized.codes]
        )
        assert ours.loss() == pytest.approx(float(self.DATA[f"{name}.loss"][0]), rel=1e-5)
