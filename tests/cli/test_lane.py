"""`--lane ordered`: the same codes twice, another run than in the fast lane, and a clear refusal of anything else."""

from __future__ import annotations

import pytest

from refquant.numerics import LANES

QUICK = ("--quick", "--format", "json")


def test_quantize_and_evaluate_in_the_ordered_lane(run, small):
    fast, ordered, again = (
        run("quantize", small, "--lane", lane, "--no-compare", "--out", out, *QUICK)
        for lane, out in (("fast", "fast"), ("ordered", "ordered"), ("ordered", "again"))
    )
    assert (fast.code, ordered.code, again.code) == (0, 0, 0), ordered.err
    assert (fast.json["lane"], ordered.json["lane"]) == ("fast", "ordered")
    assert fast.json["run_digest"] != ordered.json["run_digest"] == again.json["run_digest"]
    assert ordered.json["folder_digest"] == again.json["folder_digest"]
    assert ordered.json["reloaded_logits_sha256"] == again.json["reloaded_logits_sha256"] != fast.json["reloaded_logits_sha256"]
    found = run("evaluate", "ordered", "--reference", small, "--lane", "ordered", *QUICK)
    assert found.code == 0, found.err
    assert found.json["lane"] == "ordered"


def test_the_fast_folder_is_not_taken_for_the_ordered_run(run, small):
    assert run("quantize", small, "--no-compare", "--out", "one", *QUICK).code == 0
    found = run("quantize", small, "--no-compare", "--out", "one", "--lane", "ordered", *QUICK)
    assert found.code == 3
    assert "lane differ" in found.err


def test_generate_in_the_ordered_lane(run, small):
    words = ("generate", small, "--prompt", "In the", "--gen-length", "4", "--temperature", "0.7", "--no-show")
    found = [run(*words, "--lane", lane) for lane in ("ordered", "ordered", "fast")]
    assert [one.code for one in found] == [0, 0, 0]
    assert found[0].out == found[1].out


@pytest.mark.parametrize("command", ["quantize", "evaluate", "generate"])
def test_another_lane_is_refused_by_name(run, command):
    found = run(command, "--lane", "slow", *(["x"] if command == "evaluate" else []))
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert all(name in found.err for name in LANES)
