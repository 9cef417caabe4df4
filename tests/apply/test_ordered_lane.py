"""The whole way from a checkpoint to codes in the ordered lane: nothing of it leaves the lane, and nothing around it changes a bit."""

from __future__ import annotations

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import model
import refquant.apply.quantize as quantizing
from refquant.apply.evaluation import Sizes, evaluate, read_evaluation_set
from refquant.apply.recipe import find_recipe
from refquant.apply.rewrite_parts import REWRITES
from refquant.apply.run import open_workbench
from refquant.conformance.settings import Setting, Surroundings, active_simd, run_under
from refquant.core.transform import BlockRotation
from refquant.errors import NumericalError
from refquant.numerics import FAST, ORDERED, arithmetic
from tests.apply.lanes import REWRITTEN, digest_of, quantize_everything, rewritten_digest, tiny_digest, tiny_model

OPERATIONS = ("matmul", "gram", "sum", "exp", "log", "power", "sin", "cos", "erf", "cholesky", "inverse_lower")
SETTINGS = [
    Setting(name="one thread", blas_threads=1),
    Setting(name="two threads", blas_threads=2),
    Setting(name="no SIMD", blas_threads=1, simd=False),
]


@pytest.fixture
def only_ordered(monkeypatch):
    """Whatever calls the fast arithmetic fails."""

    def refuse(name):
        def call(*_, **__):
            raise AssertionError(f"FAST.{name} was called on the ordered way")

        return call

    for name in OPERATIONS:
        monkeypatch.setattr(arithmetic.FastArithmetic, name, refuse(name))


def test_nothing_on_the_way_uses_the_fast_arithmetic(only_ordered):
    m = tiny_model("ordered")
    digest_of(quantize_everything(m), m)
    with pytest.raises(AssertionError, match="on the ordered way"):
        FAST.sum(np.ones(3))


def test_no_evaluation_uses_the_fast_arithmetic(only_ordered):
    source = model.embedded_directory()
    m, tokenizer, data = model.load(source, arithmetic=ORDERED), model.Tokenizer.from_directory(source), read_evaluation_set()
    bench = open_workbench(source, m, None, seed=0)
    candidate = bench.quantize(find_recipe("rtn-w4a16")).attach(m)
    sizes = Sizes(texts=2, masks=2, items=0, trajectory_texts=1, trajectory_items=0, prefix=4, continuation=2)
    found = evaluate(m, {"rtn": candidate}, tokenizer, data, sizes, seed=0)
    assert found.rows[1].likelihood.kl.mean > 0


def test_lanes_agree_up_to_rounding():
    fast, ordered = tiny_model("fast", "float64"), tiny_model("ordered", "float64")
    ids = np.arange(60, dtype=np.int64).reshape(3, 20) % 37
    a, b = fast.logits(ids), ordered.logits(ids)
    assert np.abs(a - b).max() <= 1e-12 * np.abs(a).max()
    ours, theirs = quantize_everything(ordered), quantize_everything(fast)
    for name, weight in theirs.weights.items():  # no decision of this model is within rounding of a border
        assert np.array_equal(weight.codes, ours.weights[name].codes), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_do_not_depend_on_the_batch(dtype):
    m = tiny_model("ordered", dtype)
    ids = np.arange(140, dtype=np.int64).reshape(7, 20) % 37
    whole = m.logits(ids)
    assert b"".join(m.logits(ids[i : i + 1]).tobytes() for i in range(7)) == whole.tobytes()
    assert m.logits(ids[::-1])[::-1].tobytes() == whole.tobytes()


def test_codes_do_not_depend_on_batches_or_threads(monkeypatch):
    expected = tiny_digest("ordered")
    for tokens in (1, 50, 4096):
        monkeypatch.setattr(quantizing, "BATCH_TOKENS", tokens)
        assert tiny_digest("ordered") == expected
    with threadpool_limits(limits=2, user_api="blas"):
        assert tiny_digest("ordered") == expected


def check_settings(function):
    outcomes = [run_under(setting, function, ["ordered"]) for setting in SETTINGS if setting.simd or active_simd()]
    given = [outcome for outcome in outcomes if outcome.missing is None]
    assert "one thread" in {outcome.setting.name for outcome in given}
    assert all(outcome.missing is None or "threads" in outcome.missing for outcome in outcomes), [o.missing for o in outcomes]
    assert (os.cpu_count() or 1) < 2 or len(given) == len(outcomes)
    assert len({repr(outcome.result) for outcome in given}) == 1, {outcome.setting.name: outcome.result for outcome in given}


def test_one_digest_whatever_blas_and_numpy_run_with():
    check_settings("tests.apply.lanes:tiny_digest")


@pytest.mark.slow
def test_one_digest_behind_every_rewrite_whatever_blas_and_numpy_run_with():
    """Factors, searches, rotations, limits and TAC: everything that rewrites compute goes through the lane."""
    assert {part.method for parts in REWRITTEN.values() for part in parts} == set(REWRITES)
    check_settings("tests.apply.lanes:rewritten_digests")


TOGETHER = ("quarot, then awq", "smoothquant, then duquant", "soloq")


@pytest.mark.parametrize("name", [name if name in TOGETHER else pytest.param(name, marks=pytest.mark.slow) for name in REWRITTEN])
def test_no_rewrite_uses_the_fast_arithmetic(only_ordered, monkeypatch, name):
    monkeypatch.setattr(BlockRotation, "__post_init__", lambda self: None)  # whether blocks are orthogonal is only checked, to a tolerance
    rewritten_digest("ordered", name)


@pytest.mark.slow
def test_one_digest_of_the_embedded_model_whatever_blas_and_numpy_run_with():
    check_settings("tests.apply.lanes:embedded_digest")


def test_what_a_process_did_not_get_is_seen():
    def seen(threads=(1, 1), kernels=("SkylakeX", "SkylakeX"), simd=()):
        return Surroundings(numpy="2", python="3", blas_threads=threads, blas_kernels=kernels, simd=simd)

    asked = Setting(name="x", blas_threads=1, blas_kernel="SkylakeX", simd=False)
    assert asked.missing(seen()) is None
    assert "[1, 2]" in asked.missing(seen(threads=(1, 2)))
    assert "unknown number" in asked.missing(seen(threads=()))
    assert "Haswell" in asked.missing(seen(kernels=("SkylakeX", "Haswell")))
    assert "X86_V3" in asked.missing(seen(simd=("X86_V3",)))
    assert Setting(name="y", blas_kernel="Prescott").missing(seen(kernels=("Katmai",))) is None
    assert Setting(name="z").missing(seen(threads=(), kernels=(), simd=("AVX2",))) is None


def test_a_setting_that_a_machine_cannot_give_is_told():
    outcome = run_under(Setting(name="odd", blas_threads=3, blas_kernel="NoSuchKernel"), "os.path:basename", ["a/b"])
    assert outcome.result == "b"
    assert outcome.missing is not None
    assert "asked for" in outcome.missing
    with pytest.raises(NumericalError, match=r"failed with exit code 1: .*no_such_module"):
        run_under(Setting(name="any"), "no_such_module:f")
