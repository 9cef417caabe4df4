"""`refquant study outliers`: what it counts is what stands before the linears, and what it refuses."""

from __future__ import annotations

import json

import numpy as np

import model
from model import Keep
from refquant.apply.outliers import CHANNEL_THRESHOLDS, ENTRY_THRESHOLDS


def test_the_first_part_is_the_prompts_with_masks_behind_them(run, checkpoint):
    """Counted from the model's own inputs, one after the other."""
    words = ("study", "outliers", checkpoint, "--sequences", 2, "--prefix", 10, "--continuation", 4, "--stages", 2, "--format", "json")
    found = run(*words).json
    assert (found["sequences"], len(found["stages"])) == (2, 2)
    m, keep = model.load(checkpoint), Keep()
    lines = (checkpoint / "calib.jsonl").read_text().splitlines()[:2]
    prompts = [json.loads(line)["ids"][:10] for line in lines]
    m.logits(np.array([prompt + [m.config.mask_token_id] * 4 for prompt in prompts]), observer=keep)
    assert [count["linear"] for count in found["stages"][0]] == [group[0] for i in range(2) for group in m.linear_groups(i)]
    for count in found["stages"][0]:
        x = np.abs(keep.last(f"{count['linear']}.input").astype(float)).reshape(28, -1)
        assert (count["tokens"], count["channels"]) == x.shape
        np.testing.assert_allclose(count["max_over_median"], x.max() / np.median(x), rtol=1e-6)
        medians = np.median(x, axis=0)
        assert count["normal_channels"] == [int((medians > k * np.median(medians)).sum()) for k in CHANNEL_THRESHOLDS]
        assert count["massive_tokens"] == [int((x > k * np.median(x)).any(axis=1).sum()) for k in ENTRY_THRESHOLDS]
    assert found["stages"][1][0] != found["stages"][0][0]


def test_a_table_has_a_row_for_each_input(run, checkpoint):
    out = run("study", "outliers", checkpoint, "--sequences", 1, "--prefix", 8, "--continuation", 2, "--stages", 1).out
    assert "Part 1 of 1 of the trajectory" in out
    for name in ("q_proj", "attn_out", "ff_proj", "ff_out"):
        assert f"1.{name}" in out


def test_what_is_refused(run, checkpoint):
    short = run("study", "outliers", checkpoint, "--prefix", 500)
    assert (short.code, "no line has the 500 tokens" in short.err) == (3, True)
    uneven = run("study", "outliers", checkpoint, "--continuation", 4, "--stages", 3)
    assert (uneven.code, "a divisor of gen_length 4" in uneven.err) == (2, True)
