"""Trajectories of models whose every decision is known."""

import numpy as np
import pytest
import scipy.special

import model
from refquant.apply.evaluation.curves import summarise
from refquant.apply.evaluation.intervals import Bootstrap
from refquant.apply.evaluation.trajectory import MEASURES, Start, Traces, lockstep, trajectories
from refquant.errors import NumericalError
from tests.apply.evaluation.stubs import MASK, Table, hashed, uniform

V, G, P = 8, 6, 1
PROMPT = np.array([[7]])
BOOTSTRAP = Bootstrap(seed=0, resamples=100)


def in_order(ids, order=range(G)):
    """Position P + i wants token 1 + i % 5, the surer the earlier it stands in `order`."""
    logits = np.zeros((len(ids), V))
    for rank, i in enumerate(order):
        logits[P + i, 1 + i % 5] = 10 - rank
    return logits


def steps_done(ids):
    return G - np.count_nonzero(ids[P:] == MASK)


def one_flip(step):
    """Like in_order, but when `step` tokens are there, the next position wants token 6, and is as sure."""

    def rule(ids):
        logits = in_order(ids)
        if steps_done(ids) == step:
            logits[P + step] = 0
            logits[P + step, 6] = 10 - step
        return logits

    return Table(rule, V)


@pytest.mark.parametrize("step", [0, 2, G - 1])
def test_one_flipped_logit(step):
    reference, trace = lockstep({"r": Table(in_order, V), "c": one_flip(step)}, PROMPT, G)
    assert trace.diverged.tolist() == [step]
    assert reference.diverged.tolist() == [G]
    assert trace.agrees.tolist() == [[0.0 if i == step else 1.0 for i in range(G)]]
    at_step = [1.0 if s == step else 0.0 for s in range(G)]
    assert trace.measures["frontier_flips"][0].tolist() == at_step
    assert trace.measures["selection"][0].tolist() == [1.0] * G
    assert trace.measures["left"][0].tolist() == [1.0] * G
    # one position of G - step moved 10 - step from one token to another; the others hold 10 - rank
    power = sum((10 - rank) ** 2 for rank in range(step, G))
    expected = [2 * (10 - step) ** 2 / power if s == step else 0.0 for s in range(G)]
    # in this model the tokens before do not matter, so the error does not feed back
    for kind in ("forced_error", "free_error"):
        assert trace.measures[kind][0].tolist() == pytest.approx(expected)
    p, q = (scipy.special.softmax([(10.0 - step) * (t == x) for t in range(V)]) for x in (1 + step % 5, 6))
    kl = float((p * np.log(p / q)).sum()) / (G - step)
    assert trace.measures["forced_kl"][0].tolist() == pytest.approx([kl if s == step else 0.0 for s in range(G)], rel=1e-6)


def test_another_order_leaves_fewer_positions_to_compare():
    backwards = Table(lambda ids: in_order(ids, range(G - 1, -1, -1)), V)
    _, trace = lockstep({"r": Table(in_order, V), "c": backwards}, PROMPT, G)
    # after s steps the reference has filled the first s, the other the last s
    assert trace.measures["left"][0].tolist() == pytest.approx([max(G - 2 * s, 0) / (G - s) for s in range(G)])
    assert np.isnan(trace.measures["free_error"][0]).tolist() == [False] * 3 + [True] * 3
    assert trace.measures["selection"][0].tolist() == [0.0] * (G - 1) + [1.0]  # forced: it wants the last mask, until one is left
    assert trace.measures["frontier_flips"][0].tolist() == [0.0] * G
    assert trace.diverged.tolist() == [0]
    assert trace.agrees.tolist() == [[1.0] * G]  # the same text in the end


def test_selection_is_the_jaccard_index():
    # the reference takes positions 0, 1; 2, 3; 4, 5, the other 1, 2; 3, 0; ...: on the reference's states
    other = Table(lambda ids: in_order(ids, [1, 2, 3, 0, 5, 4]), V)
    _, trace = lockstep({"r": Table(in_order, V), "c": other}, PROMPT, G, 2)
    assert trace.measures["selection"][0].tolist() == pytest.approx([1 / 3, 1.0, 1.0])  # {0,1}|{1,2}; {2,3}; {4,5}
    assert trace.steps.tolist() == [3]


def feeds_back(flips):
    """Flips the first token after prompt token 7 if `flips`; a token 6 anywhere doubles all logits."""

    def rule(ids):
        logits = in_order(ids)
        if flips and ids[0] == 7 and steps_done(ids) == 0:
            logits[P] = 0
            logits[P, 6] = 10
        return logits * (2 if 6 in ids[P:] else 1)

    return Table(rule, V)


def test_free_running_error_feeds_back_where_teacher_forced_error_does_not():
    """Two rows, of which only the first goes astray: only its state is computed anew."""
    candidate = feeds_back(True)
    _, trace = lockstep({"r": feeds_back(False), "c": candidate}, np.array([[7], [5]]), G)
    assert trace.diverged.tolist() == [0, G]
    forced, free = trace.measures["forced_error"], trace.measures["free_error"]
    assert forced[0, 1:].tolist() == [0.0] * (G - 1)
    assert free[0, 1:].tolist() == [1.0] * (G - 1)  # |2z - z|^2 / |z|^2
    assert forced[1].tolist() == free[1].tolist() == [0.0] * G
    assert forced[0, 0] == free[0, 0] > 0
    assert candidate.rows_seen == 2 * G + (G - 1)


def test_forced_measures_are_those_of_the_model_on_the_references_states():
    """Against a plain loop over the reference's recorded states, on models that depend on everything."""
    r, c, prompts = hashed(V, 1), hashed(V, 2), np.array([[3, 4], [5, 6], [1, 1]])
    _, trace = lockstep({"r": r, "c": c}, prompts, 4)
    for number, step in enumerate(model.denoise(r, prompts, gen_length=4, block_length=4, steps=4)):
        for row in range(3):
            where = np.flatnonzero(step.before[row] == MASK)
            z, y = (m.logits(step.before[row : row + 1])[0].astype(np.float64) for m in (r, c))
            p, q = scipy.special.softmax(z, axis=-1)[where], scipy.special.softmax(y, axis=-1)
            error = ((y - z)[where] ** 2).sum() / (z[where] ** 2).sum()
            chosen = where[np.argmax(q[where].max(axis=-1))]
            at = int(np.flatnonzero(step.committed[row])[0])
            expected = {
                "forced_error": error,
                "forced_kl": (p * np.log(p / q[where])).sum(-1).mean(),
                "frontier_flips": float(y[at].argmax() != z[at].argmax()),
                "selection": float(chosen == at),
            }
            for name, value in expected.items():
                assert trace.measures[name][row, number] == pytest.approx(value, rel=1e-10), name


def test_free_measures_are_those_of_both_models_on_their_own_states():
    r, c, prompt = hashed(V, 3), hashed(V, 4), np.array([[3, 4]])
    _, trace = lockstep({"r": r, "c": c}, prompt, 5)
    runs = [list(model.denoise(m, prompt, gen_length=5, block_length=5, steps=5)) for m in (r, c)]
    final = runs[0][-1].after[0, 2:] == runs[1][-1].after[0, 2:]
    assert trace.agrees[0].tolist() == final.astype(float).tolist()
    seen = 0
    for number, (a, b) in enumerate(zip(*runs)):
        both = np.flatnonzero((a.before[0] == MASK) & (b.before[0] == MASK))
        assert trace.measures["left"][0, number] == len(both) / (5 - number)
        if both.size:
            seen += 1
            z, y = (s.logits[0, both].astype(np.float64) for s in (a, b))
            assert trace.measures["free_error"][0, number] == pytest.approx(((y - z) ** 2).sum() / (z**2).sum(), rel=1e-10)
            p, q = scipy.special.softmax(z, axis=-1), scipy.special.softmax(y, axis=-1)
            assert trace.measures["free_kl"][0, number] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-10)
    assert seen > 1


def test_starts_of_different_lengths_keep_their_places():
    starts = [Start(prompt=(7,), gen_length=G), Start(prompt=(5,), gen_length=2), Start(prompt=(4,), gen_length=G)]

    def rule(ids):  # G positions or 2
        return in_order(ids) if len(ids) == P + G else in_order(np.zeros(P + G))[: P + 2]

    candidate = Table(lambda ids: rule(ids) * (2 if ids[0] == 4 else 1), V)
    _, trace = trajectories({"r": Table(rule, V), "c": candidate}, starts)
    assert trace.steps.tolist() == [G, 2, G]
    assert np.isnan(trace.agrees[1]).tolist() == [False] * 2 + [True] * 4
    assert np.nanmax(trace.measures["forced_error"], axis=1).tolist() == [0.0, 0.0, 1.0]
    summary = summarise(trace, BOOTSTRAP)
    assert summary.n_by_position.tolist() == [3, 3, 2, 2, 2, 2]
    assert summary.forced_error.n_by_step.tolist() == [3, 3, 2, 2, 2, 2]
    assert summary.forced_error.by_step.tolist() == pytest.approx([1 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5])


def test_the_reference_beside_itself():
    m = hashed(V, 5)
    traces = trajectories({"r": m, "c": m}, [Start(prompt=(3,), gen_length=4)] * 3)
    for trace in traces:
        found = summarise(trace, BOOTSTRAP)
        assert (found.forced_error.whole.mean, found.free_kl.whole.mean, found.left.whole.mean) == (0.0, 0.0, 1.0)
        assert (found.final_agreement.mean, found.exact_match.share, found.divergence.diverged) == (1.0, 1.0, 0)
        assert found.divergence.median is None
        assert found.accumulation_error == found.accumulation_kl == (1.0,) * 4


def test_logits_that_are_all_zero_have_a_defined_error():
    traces = lockstep({"r": uniform(V), "c": uniform(V)}, PROMPT, G)
    assert traces[1].measures["forced_error"].tolist() == [[0.0] * G]
    nothing_to_compare_with = lockstep({"r": uniform(V), "c": Table(in_order, V)}, PROMPT, G)[1]
    assert np.isnan(nothing_to_compare_with.measures["forced_error"]).all()


def test_a_broken_model_is_named():
    broken = Table(lambda ids: np.full((len(ids), V), np.inf), V)
    with pytest.raises(NumericalError, match=r"^model 'bad': step 0: the logits are not finite$"):
        lockstep({"good": Table(in_order, V), "bad": broken}, PROMPT, G)


def hand_made(steps, diverged, values=None, agrees=None):
    longest = max(steps)
    values = np.zeros((len(steps), longest)) if values is None else np.array(values)
    agrees = np.ones((len(steps), longest)) if agrees is None else np.array(agrees)
    return Traces(steps=np.array(steps), measures=dict.fromkeys(MEASURES, values), diverged=np.array(diverged), agrees=agrees)


def test_survival_by_hand():
    # five sequences: parted after steps 0, 1, 1 (of 4); censored at 2 and at 4
    found = summarise(hand_made([4, 4, 4, 2, 4], [0, 1, 1, 2, 4]), BOOTSTRAP).divergence
    assert found.at_risk.tolist() == [5, 4, 1, 1]
    assert found.survival.tolist() == pytest.approx([4 / 5, 4 / 5 * 2 / 4, 2 / 5, 2 / 5])
    assert (found.median, found.diverged, found.n) == (1, 3, 5)


def test_median_is_censored_when_most_never_part():
    assert summarise(hand_made([4, 4, 4], [0, 4, 4]), BOOTSTRAP).divergence.median is None


def test_quarters_by_hand():
    nan = np.nan
    values = [[1, 2, 3, 4, 5, 6, 7, nan], [10, 20, nan, nan, nan, nan, nan, nan]]
    found = summarise(hand_made([8, 2], [8, 2], values), BOOTSTRAP).free_error
    # 8 steps: two a quarter (one undefined); 2 steps: the first in quarter 0, the second in quarter 2
    assert [(e.mean, e.n) for e in found.by_quarter] == [((1.5 + 10) / 2, 2), (3.5, 1), ((5.5 + 20) / 2, 2), (7.0, 1)]
    assert found.whole.mean == pytest.approx((4 + 15) / 2)
    assert found.by_step[:3].tolist() == [5.5, 11.0, 3.0]
    assert found.n_by_step.tolist() == [2, 2, 1, 1, 1, 1, 1, 0]


def test_final_agreement_by_hand():
    nan = np.nan
    found = summarise(hand_made([3, 2, 3], [3, 2, 1], agrees=[[1, 1, 1], [1, 1, nan], [1, 0, 0]]), BOOTSTRAP)
    assert found.final_agreement.mean == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert found.final_agreement_by_position.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert (found.exact_match.hits, found.exact_match.n) == (2, 3)


def test_accumulation_is_the_ratio_of_means():
    trace = hand_made([4, 4], [4, 4])
    trace.measures["forced_error"] = np.array([[1.0, 2, 0, 0], [3, 2, 0, np.nan]])
    trace.measures["free_error"] = np.array([[2.0, 2, 0, 1], [6, np.nan, 0, 1]])
    assert summarise(trace, BOOTSTRAP).accumulation_error == (2.0, 1.0, 1.0, None)
