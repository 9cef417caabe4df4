"""`refquant evaluate --trajectories`: a record a sequence and step, which the means of the evaluation are the means of."""

import json

import numpy as np
import pytest

from refquant.apply.evaluation.trajectory import MEASURES


def test_the_curves_are_means_of_the_records(run, quantized, checkpoint, tmp_path):
    found = run("evaluate", quantized, "--reference", checkpoint, "--quick", "--format", "json", "--trajectories", tmp_path / "steps.jsonl")
    assert found.code == 0
    records = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    row = found.json["evaluation"]["rows"][1]
    assert {record["model"] for record in records} == {row["name"]}
    sequences = {record["sequence"] for record in records}
    assert len(sequences) == row["trajectory"]["n"]
    for measure in MEASURES:
        curve = row["trajectory"][measure]
        for step, (mean, n) in enumerate(zip(curve["by_step"], curve["n_by_step"], strict=True)):
            values = [record[measure] for record in records if record["step"] == step and record[measure] is not None]
            assert len(values) == n
            assert (mean is None and not values) or mean == pytest.approx(np.mean(values), rel=1e-12)
    for sequence in sequences:
        own = [record for record in records if record["sequence"] == sequence]
        assert [record["step"] for record in own] == list(range(own[0]["steps"]))
        first = row["trajectory"]["divergence"]["first"][sequence]
        assert [record["diverged"] for record in own] == [step >= first for step in range(len(own))]


def test_a_file_that_is_there_is_left_alone(run, quantized, checkpoint, tmp_path):
    (tmp_path / "steps.jsonl").write_text("mine")
    found = run("evaluate", quantized, "--reference", checkpoint, "--quick", "--trajectories", tmp_path / "steps.jsonl")
    assert found.code == 2
    assert "steps.jsonl exists; name a new file" in found.err
    assert (tmp_path / "steps.jsonl").read_text() == "mine"
