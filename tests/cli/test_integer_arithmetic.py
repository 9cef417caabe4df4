"""`refquant evaluate --arithmetic integer`: labelled, compared, and refused where there are no codes to multiply."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory, checkpoint):
    """One with quantized activations, one without."""
    import subprocess
    import sys

    root = tmp_path_factory.mktemp("integers")
    for recipe in ("w8a8", "rtn-w4a16"):
        words = [
            sys.executable,
            "-m",
            "refquant",
            "quantize",
            checkpoint,
            "--recipe",
            recipe,
            "--quick",
            "--no-compare",
            "--out",
            root / recipe,
        ]
        subprocess.run(list(map(str, words)), check=True, capture_output=True)
    return root


def evaluated(run, folder, checkpoint, *words):
    return run("evaluate", folder, "--reference", checkpoint, "--quick", *words)


def test_json_holds_both_the_row_and_the_comparison(run, folders, checkpoint):
    ran = evaluated(run, folders / "w8a8", checkpoint, "--arithmetic", "integer", "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.json["arithmetic"] == "integer"
    assert [row["name"] for row in ran.json["evaluation"]["rows"]] == ["full precision", "w8a8, integer"]
    assert set(ran.json["sizes"]) == {"full precision", "w8a8, integer"}
    check = ran.json["integer_check"]
    assert check["integer_linears"] == 14
    assert 0 < check["accumulator_bound"] <= check["accumulator_limit"] == 2**31 - 1
    assert 0 < check["largest_logit_difference"] < 1e-2 * check["largest_logit"]
    assert 1e-3 < check["largest_share_of_bound"] <= 1
    assert check["first_batch"]["tokens"] == 24 * check["first_batch"]["sequences"]
    fake = evaluated(run, folders / "w8a8", checkpoint, "--format", "json").json
    assert (fake["arithmetic"], fake["integer_check"]) == ("fake", None)
    rows = [found["evaluation"]["rows"] for found in (ran.json, fake)]
    assert rows[0][0] == rows[1][0]  # full precision is untouched
    means = [found[1]["likelihood"]["nll"]["mean"] for found in rows]
    assert means[0] != means[1]
    assert means[0] == pytest.approx(means[1], rel=1e-3)


def test_the_table_says_it_in_words(run, folders, checkpoint):
    ran = evaluated(run, folders / "w8a8", checkpoint, "--arithmetic", "integer")
    assert ran.code == 0, ran.err
    text = " ".join(ran.out.split())
    assert "w8a8, integer" in text
    assert "14 linears multiply codes" in text
    assert re.search(r"int32 accumulators stay within bounds: at most [\d,]+ of 2,147,483,647 \(0\.\d{4}%\)", text)
    assert re.search(r"first batch \(\d+ sequences?, \d+ tokens\) linears differ .* by at most \d+\.\d% of the proved bound", text)
    assert re.search(r"largest logit difference there: \S+; logits reach \d", text)
    plain = evaluated(run, folders / "w8a8", checkpoint).out
    assert "integer" not in plain


@pytest.mark.parametrize(
    ("name", "says"),
    [("rtn-w4a16", "leaves activations in floating point"), (None, "is a full-precision checkpoint")],
)
def test_without_codes_on_both_sides_it_is_refused(run, folders, checkpoint, name, says):
    ran = evaluated(run, folders / name if name else checkpoint, checkpoint, "--arithmetic", "integer")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err.splitlines()[-1]


def test_there_are_two_arithmetics(run, folders):
    ran = run("evaluate", folders / "w8a8", "--arithmetic", "int8")
    assert ran.code == 2
    assert "fake" in ran.err
    assert "integer" in ran.err
