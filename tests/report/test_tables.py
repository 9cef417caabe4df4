"""Tables: what stands in them is what was measured, and nothing is cut."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from rich.console import Console

import model
import refquant as rq
from refquant.apply.evaluation import Estimate, Sizes, evaluate, read_evaluation_set
from refquant.cli.evaluating import calm_blas
from refquant.report.footprint import Footprint, planned_bits
from refquant.report.summary import summary_table
from refquant.report.tables import CalibrationUse, agreement_by_span, calibration_lines, evaluation_tables, position_spans, used_lines

LONG = "a-recipe-with-a-very-long-name-that-somebody-made-up-to-see-what-happens"


def printed(things, width=100):
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def evaluation():
    m = model.embedded()
    tokenizer = model.Tokenizer.from_directory(model.embedded_directory())
    weight = {name: np.round(array * 8) / 8 for name, array in m.parameters.items()}
    rough = model.build(m.config, weight)
    with calm_blas(m):
        return evaluate(m, {"dllmquant-w4a4, 4-bit softmax": rough, LONG: rough}, tokenizer, read_evaluation_set(), Sizes.quick())


def test_numbers_in_the_tables_are_those_of_the_evaluation(evaluation):
    text = printed(evaluation_tables(evaluation, {}))
    tree = json.loads(evaluation.to_json())["rows"][1]
    for value in (tree["likelihood"]["nll"]["mean"], tree["likelihood"]["kl"]["mean"]):
        assert f"{value:.4f}" in text
    difference = tree["likelihood"]["difference"]
    assert f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]" in text
    for kind in ("forced_error", "free_error"):
        curve = tree["trajectory"][kind]
        assert f"{curve['whole']['mean']:.3f} [{curve['whole']['low']:.3f}, {curve['whole']['high']:.3f}]" in text
        assert f"{curve['by_quarter'][3]['mean']:.3f}" in text
    assert f"{100 * tree['trajectory']['final_agreement']['mean']:.1f}%" in text


def test_the_summary_cuts_no_number_at_the_default_sizes(evaluation):
    """Two digits in five tasks and in four quarters, six characters of bits."""
    row = evaluation.rows[1]
    tasks = replace(row.tasks, by_task=tuple(replace(row.tasks.by_task[0], task=str(i)) for i in range(5)))
    tasks = replace(tasks, by_task=tuple(replace(t, accuracy=replace(t.accuracy, hits=38, n=40)) for t in tasks.by_task))
    kept = replace(row.trajectory, final_agreement_by_position=np.full_like(row.trajectory.final_agreement_by_position, 0.55))
    rows = (evaluation.rows[0], replace(row, tasks=tasks, trajectory=kept))
    footprint = Footprint(weights=32, weight_bits=512, parameters=32, model_bits=512)
    text = printed([summary_table(replace(evaluation, rows=rows), {row.name: footprint})])
    assert "55 55 55 55" in text
    assert "38 38 38 38 38" in text
    assert " 16.000" in text


def test_the_summary_holds_every_kind_of_measure_in_one_row(evaluation):
    lines = printed([summary_table(evaluation, {})]).splitlines()
    assert max(map(len, lines)) <= 100
    row = json.loads(evaluation.to_json())["rows"][1]
    line = next(line for line in lines if line.startswith("DLLMQuant"))
    found = row["likelihood"]
    difference = found["difference"]
    assert f"{found['nll']['mean']:.3f}" in line
    assert f"{difference['mean']:+.3f} [{difference['low']:.3f}, {difference['high']:.3f}]" in line
    assert f"{found['kl']['mean']:.3f}" in line
    errors = [row["trajectory"][kind]["whole"]["mean"] for kind in ("forced_error", "free_error")]
    assert f"{errors[0]:.2f} {errors[1]:.2f}" in line
    assert " ".join(str(task["accuracy"]["hits"]) for task in row["tasks"]["by_task"]) in line


def test_no_number_is_cut_at_100_columns_whatever_the_name(evaluation):
    enormous = Estimate(mean=-1.23456e7, low=-2.34567e7, high=9.87654e6, n=9)
    row = evaluation.rows[2]
    curve = replace(row.trajectory.forced_error, whole=enormous)
    row = replace(
        row,
        likelihood=replace(row.likelihood, difference=enormous),
        trajectory=replace(row.trajectory, forced_error=curve, free_error=curve),
    )
    footprint = Footprint(weights=128, weight_bits=532, parameters=10**12, model_bits=10**13)
    text = printed(evaluation_tables(replace(evaluation, rows=(*evaluation.rows[:2], row)), {LONG: footprint}))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert text.count("-1.2e+07 [-2.3e+07, +9.9e+06]") == 1
    assert text.count("-1.2e+07 [-2.3e+07, 9.9e+06]") == 2
    assert "4.156" in text
    assert LONG in "".join(line[:60].split(" ")[0] for line in text.splitlines())  # folded, letters all there


def test_nothing_measured_leaves_its_table_out(evaluation):
    only_texts = replace(evaluation, used=replace(evaluation.used, items=0, trajectories=0))
    text = printed(evaluation_tables(only_texts, {}))
    assert "Held-out texts" in text
    assert "Tasks" not in text
    assert "trajectory" not in text


@pytest.mark.parametrize("length", range(12))
def test_spans_cover_every_position_once(length):
    spans = position_spans(length)
    assert [position for start, stop in spans for position in range(start, stop)] == list(range(length))
    assert len(spans) == min(length, 4)
    sizes = [stop - start for start, stop in spans]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_agreement_of_a_span_counts_tokens(evaluation):
    """Two responses, one of them shorter: 3 of 4 tokens in the first span, 1 of 1 in the second, none in the third."""
    trajectory = replace(
        evaluation.rows[1].trajectory,
        final_agreement_by_position=np.array([1.0, 0.5, 1.0, np.nan]),
        n_by_position=np.array([2, 2, 1, 0]),
    )
    assert agreement_by_span(trajectory, [(0, 2), (2, 3), (3, 4)]) == [0.75, 1.0, None]


def test_how_much_was_used_is_told(evaluation):
    uses = {
        "RTN": CalibrationUse(states="iid", sequences=3, tokens=1234),
        "w": CalibrationUse(states="tmas", sequences=3, tokens=9, rejected=2),
    }
    text = "\n".join(used_lines(evaluation.used, uses))
    for part in ("2 texts", "x 4 masks", "5 items: 1 add", "2 trajectories", "1,234 tokens", "2 rollouts rejected", "10,000 resamples"):
        assert part in text
    same = {"a": CalibrationUse(states="none"), "b": CalibrationUse(states="none")}
    assert calibration_lines(same) == ["calibration of a and b: none"]


@pytest.mark.parametrize("scheme", ["asym_incl0", "sym_full", "sym_gptq", "asym_omni"])
@pytest.mark.parametrize("group", [8, -1])
@pytest.mark.parametrize("scale_format", [None, "float16", "float32"])
def test_planned_bits_are_the_bits_of_the_result(scheme, group, scale_format):
    """Against the arrays: their sizes and what each entry costs."""
    spec = rq.spec("int3", group_size=group, scheme=scheme, scale_format=scale_format)
    q = rq.rtn(np.random.default_rng(0).standard_normal((5, 20)), spec)
    assert planned_bits(spec, (5, 20)) == q.total_bits
    hand = 3 * 100 + q.scale.size * q.scale.dtype.itemsize * 8
    hand += 0 if scheme in ("sym_full", "sym_gptq") else q.scale.size * {"asym_incl0": 3, "asym_omni": 16}[scheme]
    assert planned_bits(spec, (5, 20)) == hand
    assert planned_bits(spec, (5, 20), permuted=True) == hand + 20 * 5


def test_footprints_are_exact_fractions():
    found = Footprint(weights=128, weight_bits=532, parameters=256, model_bits=1000)
    assert found.bits_per_weight == Fraction(133, 32)
    assert found.bits_per_parameter == Fraction(125, 32)
    assert found.nbytes == 125
    assert Footprint(weights=0, weight_bits=0, parameters=0, model_bits=0).bits_per_weight == 0
