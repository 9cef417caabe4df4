"""The whole, on the embedded model."""

import json
import threading
import time

import numpy as np
import pytest

import model
from refquant.apply.evaluation import EvaluationSet, Item, Sizes, Text, evaluate, read_evaluation_set
from refquant.apply.evaluation.batches import run_all
from refquant.errors import InputError, NumericalError, UsageError
from tests.apply.evaluation.stubs import tiny

SIZES = Sizes(texts=4, masks=3, items=2, trajectory_texts=3, trajectory_items=1, prefix=8, continuation=6)


class Coarse:
    """A linear whose weights are rounded to a few values."""

    def __init__(self, linear, levels):
        step = np.abs(linear.weight).max(axis=1, keepdims=True) / levels
        self.dense = model.DenseLinear((np.rint(linear.weight / step) * step).astype(np.float32))

    def __call__(self, x):
        return self.dense(x)


def coarse(m, levels):
    return m.replace({name: Coarse(linear, levels) for name, linear in m.linears.items()})


@pytest.fixture(scope="module")
def embedded():
    return model.embedded(), model.Tokenizer.from_directory(model.embedded_directory()), read_evaluation_set()


@pytest.fixture(scope="module")
def result(embedded):
    m, tokenizer, data = embedded
    return evaluate(m, {"same": m, "bad": coarse(m, 1)}, tokenizer, data, SIZES, seed=3)


def test_rows(result):
    assert [row.name for row in result.rows] == ["full precision", "same", "bad"]
    reference, same, bad = result.rows
    assert same.likelihood.difference.mean == same.likelihood.kl.mean == 0.0
    assert same.trajectory.exact_match.share == same.trajectory.final_agreement.mean == 1.0
    assert same.tasks.overall.versus_reference.p_value == 1.0
    assert 2.0 < reference.likelihood.nll.mean < 4.5  # its makers measured 3.0 and 3.57 on the two domains
    assert bad.likelihood.difference.low > 0.5
    assert bad.likelihood.kl.low > 0.1
    assert bad.trajectory.final_agreement.mean < 1
    assert bad.trajectory.free_kl.whole.mean > 0.1
    assert reference.tasks.overall.accuracy.hits >= 7  # of 10; only word problems are hard for it
    assert bad.tasks.overall.accuracy.hits < reference.tasks.overall.accuracy.hits
    assert bad.likelihood.difference.mean == pytest.approx(bad.likelihood.nll.mean - reference.likelihood.nll.mean)
    assert result.row("bad") is bad
    with pytest.raises(UsageError, match="there is no row 'x'; allowed: full precision, same, bad"):
        result.row("x")


def test_used_and_json(result):
    used = result.used
    assert (used.texts, used.tokens, used.masks, used.items, used.trajectories) == (4, 512, 3, 10, 8)
    assert used.items_by_task == {"add": 2, "sub": 2, "sort": 2, "reverse": 2, "word": 2}
    record = json.loads(result.to_json())
    assert record["used"]["domains"] == ["kjv", "shakespeare"]
    assert record["rows"][2]["likelihood"]["kl"]["mean"] == result.rows[2].likelihood.kl.mean
    assert record["rows"][0]["trajectory"]["divergence"]["median"] is None


def test_threads_change_nothing(embedded, result):
    m, tokenizer, data = embedded
    again = evaluate(m, {"same": m, "bad": coarse(m, 1)}, tokenizer, data, SIZES, seed=3, workers=3)
    assert again.to_json() == result.to_json()


def test_another_seed_draws_other_masks(embedded, result):
    m, tokenizer, data = embedded
    sizes = Sizes(texts=4, masks=3, items=0, trajectory_texts=0, trajectory_items=0)
    again = evaluate(m, {}, tokenizer, data, sizes, seed=4)
    assert again.rows[0].likelihood.nll.mean != result.rows[0].likelihood.nll.mean
    assert again.rows[0].tasks.overall.accuracy.share is None
    assert again.rows[0].trajectory.n == 0


def test_progress_counts_every_part(embedded):
    m, tokenizer, data = embedded
    seen = []
    evaluate(m, {}, tokenizer, data, Sizes.quick(), progress=lambda *now: seen.append(now), workers=2)
    parts = list(dict.fromkeys(what for what, _, _ in seen))
    assert parts == ["likelihood", "trajectories", "tasks"]
    for part in parts:
        done, total = [d for what, d, _ in seen if what == part], {t for what, _, t in seen if what == part}
        assert len(total) == 1
        assert done == list(range(total.pop() + 1))


def test_results_come_in_the_order_of_jobs():
    def slow_at_first(job):
        time.sleep(0.02 * (3 - job))
        return job, threading.get_ident()

    found = run_all(slow_at_first, [0, 1, 2, 3], 4, "x", None)
    assert [job for job, _ in found] == [0, 1, 2, 3]
    assert len({thread for _, thread in found}) > 1


class Letters:
    """A tokenizer of 8 letters; id 2 starts a text."""

    bos_id, eos_id = 2, 1

    def encode(self, text):
        return [3 + ord(c) - ord("a") for c in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 3) for i in ids if i > 2)


def small(ids=(3, 4, 5, 6), prompt="ab"):
    question = Item(task="add", prompt=prompt, answer="c", gen_length=3, after=None, where="file, line 2")
    return EvaluationSet(texts=(Text(ids=ids, domain="d", where="file, line 1"),), items=(question,))


TINY = Sizes(texts=1, masks=2, items=1, trajectory_texts=1, trajectory_items=1, prefix=2, continuation=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (small(ids=(3, 0, 4)), r"^file, line 1: ids\[1\] is 0; allowed: 0 to 10 without the mask, 0$"),
        (small(ids=(3, 4, 11)), r"^file, line 1: ids\[2\] is 11; allowed: 0 to 10"),
        (small(prompt="az"), r"^file, line 2: ids of the prompt\[2\] is 28; allowed"),
    ],
)
def test_ids_must_fit(data, message):
    with pytest.raises(InputError, match=message):
        evaluate(tiny(), {}, Letters(), data, TINY)


def test_models_and_settings_must_fit():
    m = tiny()
    for settings, message in [
        ({"candidates": {"other": tiny(vocabulary=12)}}, "model 'other' has embedding_rows 12; allowed: 11, the reference's"),
        ({"candidates": {"full precision": m}}, "a candidate is called 'full precision', as the reference is"),
        ({"seed": -1}, "seed is -1; allowed: an integer of at least 0"),
        ({"workers": 0}, "workers is 0; allowed: an integer of at least 1"),
        ({"sizes": Sizes(continuation=2, tokens_per_step=2)}, r"tokens_per_step is 2; allowed: a divisor of gen_length 3 \(file, line 2\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            evaluate(**({"reference": m, "candidates": {}, "tokenizer": Letters(), "data": small(), "sizes": TINY} | settings))


def test_a_candidate_that_breaks_is_named():
    m = tiny()
    broken = m.replace({name: lambda x: x * np.float32(np.nan) for name in list(m.linears)[:1]})
    for workers in (1, 2):
        with pytest.raises(NumericalError, match=r"^model 'q': the logits are not finite$"):
            evaluate(m, {"q": broken}, Letters(), small(), TINY, workers=workers)


def test_a_text_shorter_than_the_prefix_starts_no_trajectory():
    found = evaluate(tiny(), {}, Letters(), small(ids=(3,)), TINY)
    assert (found.used.texts, found.used.trajectory_texts, found.used.trajectory_items) == (1, 0, 1)
