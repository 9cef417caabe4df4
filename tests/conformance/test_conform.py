"""`refquant conform` as people type it: exit codes, filters, expected failures, and reports that say the same in four forms."""

import json
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import refquant.cli
from refquant.conformance.backends.protocol import array_tree
from refquant.conformance.locate import golden_directory
from refquant.conformance.mutants.rounding import RIGHT, half_away
from refquant.conformance.mutants.uniform_quantize import quantize

OWN = "refquant.conformance.own:backend"
WRONG = {**RIGHT, "rounding.half_even": lambda inputs, parameters: {"y": half_away(inputs["x"])}}
HERE = "tests.conformance.test_conform"
SPEAKER = Path(__file__).with_name("speaker.py")


class CodesOnly:
    """A backend with methods in the place of a mapping, and without intermediates."""

    def uniform_quantize(self, inputs, parameters):
        return {"codes": quantize(inputs, parameters)["codes"]}


CODES = CodesOnly()


def one_off(inputs, parameters):
    """A million elements, of which the last one of the third block is wrong."""
    y = RIGHT["rounding.floor"](inputs, parameters)["y"].copy()
    if len(y) == 1 << 14 and inputs["x"][0] == THIRD:
        y[-1] += 1
    return {"y": y}


def third_block():
    from refquant.conformance.catalog import find_operation

    (stream,) = find_operation("rounding.floor").streams
    return stream.make(2 << 14, 3 << 14)["x"][0]


THIRD = third_block()
STREAMING = {"rounding.floor": one_off}


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder, in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["refquant", "conform", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            refquant.cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_this_package_conforms_everywhere(typed):
    code, out, _ = typed("--backend", OWN, "--format", "json")
    tree = json.loads(out)
    assert (code, tree["ok"], tree["not_offered"], tree["failures"], tree["skipped"]) == (0, True, [], [], {})
    assert tree["counts"]["conforms"] == tree["counts"]["cases"] > 700


def test_this_package_conforms_in_the_ordered_lane(typed):
    assert typed("--backend", "refquant.conformance.own:ordered", "--flag", "tie", "--flag", "compensation")[0] == 0


def test_a_wrong_backend_is_named_and_so_is_its_mistake(typed):
    code, out, _ = typed("--backend", f"{HERE}:WRONG", "--operation", "rounding.*")
    assert code == 1
    told = "DIAGNOSIS rounding.half_even: half_even-rounds_away"
    assert [line.startswith(told) for line in out.splitlines() if line.startswith("DIAGNOSIS")] == [True]
    assert "exactly -8.5, between" in out
    command = next(line.strip() for line in out.splitlines() if "--case" in line)
    again = typed(*shlex.split(command)[2:])
    assert again[0] == 1
    assert "0 of 1 cases conform, 1 differ" in again[1]


@pytest.mark.parametrize(
    ("words", "cases"),
    [
        (["--level", "scales"], {"scales"}),
        (["--level", "scales", "--level", "methods"], {"scales", "methods"}),
        (["--operation", "rounding.floor"], 12),
        (["--operation", "rounding.*", "--flag", "not-finite"], 10),
        (["--case", "rounding.floor/f32-ties"], 1),
        (["--case", "rounding.*/f32-ties", "--operation", "rounding.[fc]*"], 2),
    ],
)
def test_filters(typed, words, cases):
    code, out, _ = typed("--backend", OWN, "--format", "json", *words)
    if isinstance(cases, set):  # as many as the files of vectors of these levels hold
        files = [json.loads(path.read_text()) for path in golden_directory().glob("*.*.json")]
        cases = sum(len(tree["cases"]) for tree in files if tree["operation"]["level"] in cases)
    assert (code, json.loads(out)["counts"]["cases"]) == (0, cases)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "name one implementation"),
        (["--backend", OWN, "--pipe", "cat"], 2, "name one implementation"),
        (["--backend", "nothing"], 2, "package.module:object"),
        (["--backend", OWN, "--level", "kernels"], 2, "known are formats, codes"),
        (["--backend", OWN, "--flag", "odd"], 2, "unknown flag 'odd'"),
        (["--backend", OWN, "--operation", "round.*"], 2, "no operation is called 'round.*'"),
        (["--backend", OWN, "--case", "rounding.floor/none"], 2, "nothing to ask"),
        (["--backend", f"{HERE}:WRONG", "--level", "methods"], 2, "nothing to ask"),
        (["--backend", OWN, "--out", "report.pdf"], 2, ".json, .xml, .html"),
        (["--files", "q", "--streams"], 2, "--streams"),
        (["--files", "q", "--case", "none"], 2, "nothing to ask"),
        (["--pipe", "no-such-program-here"], 2, "cannot be started"),
        (["--pipe", "cat", "--timeout", "0"], 2, "positive number of seconds"),
        (["--pipe", "cat /dev/null"], 3, "no hello"),
        (["--backend", OWN, "--expected", "none.toml"], 3, "none.toml"),
        (["--backend", OWN, "--dir", "."], 2, "nothing to ask"),
    ],
)
def test_whatever_is_wrong_with_the_command_is_one_line(typed, words, code, told):
    found, out, err = typed(*words)
    assert (found, out) == (code, "")
    (line,) = [line for line in err.splitlines() if line.startswith("refquant: ")]
    assert told in line
    assert "Traceback" not in err


def test_codes_without_intermediates_are_wrong_unless_that_is_said(typed):
    assert typed("--backend", f"{HERE}:CODES", "--flag", "outlier")[0] == 1
    code, out, _ = typed("--backend", f"{HERE}:CODES", "--flag", "outlier", "--allow-missing")
    assert code == 0
    assert "uniform.quantize: not given, and not judged: scale, zero" in out


EXPECTED = """
[[expected]]
case = "rounding.half_even/f??-ties"
reason = "the device rounds so"
mutant = "half_even-rounds_away"

[[expected]]
case = "rounding.half_even/f*-large"
reason = "halves of large numbers"

[[expected]]
case = "rounding.half_even/f*-zeros"
reason = "halves"
"""


@pytest.fixture
def expecting(tmp_path):
    def write(text):
        (tmp_path / "known.toml").write_text(text, encoding="utf-8")
        return ["--expected", "known.toml"]

    return write


def test_expected_failures_are_no_failures(typed, expecting):
    words = ["--backend", f"{HERE}:WRONG", "--operation", "rounding.half_even", *expecting(EXPECTED)]
    assert typed(*words)[0] == 0
    code, out, _ = typed(*words, "--strict", "--format", "json")
    tree = json.loads(out)
    assert (code, tree["stale"], tree["counts"]["expected"]) == (0, [], 6)
    assert {failure["expected"] for failure in tree["failures"]} == {"the device rounds so", "halves of large numbers", "halves"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[expected]]\ncase = "rounding.half_up/*"\nreason = "x"', "matches no case"),
        ('[[expected]]\ncase = "rounding.floor/f32-ties"\nreason = "x"', "its case conforms now"),
        ('[[expected]]\ncase = "rounding.floor/*"\nreason = "x"', "all of its 12 cases conform now"),
        ('[[expected]]\ncase = "rounding.half_even/*"\nreason = "x"', "6 of its 12 cases conform"),
    ],
)
def test_an_expectation_that_outlived_its_reason_is_told_and_fails_strictly(typed, expecting, text, told):
    words = ["--backend", f"{HERE}:WRONG", "--operation", "rounding.*", *expecting(EXPECTED + text)]
    code, out, _ = typed(*words)
    assert code == 0
    assert any(line.startswith("stale: ") and told in line for line in out.splitlines())
    assert typed(*words, "--strict")[0] == 1


def test_an_expectation_that_is_not_asked_is_left_alone(typed, expecting):
    words = ["--backend", f"{HERE}:WRONG", "--operation", "rounding.floor", "--strict", *expecting(EXPECTED)]
    assert typed(*words)[0] == 0


@pytest.mark.parametrize("change", ['mutant = "half_even-truncates"', 'part = "codes"'])
def test_another_failure_than_the_expected_one_fails(typed, expecting, change):
    text = EXPECTED.replace('mutant = "half_even-rounds_away"', change)
    assert typed("--backend", f"{HERE}:WRONG", "--operation", "rounding.half_even", *expecting(text))[0] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[expected]", "not TOML"),
        ("x = 1", "unknown field `x`"),
        ('[[expected]]\ncase = "a"', "missing required field `reason`"),
        ('[[expected]]\ncase = "a"\nreason = " "', "has no reason"),
        ('[[expected]]\ncase = "a"\nreason = "b"\ncases = "c"', "unknown field `cases`"),
        ("expected = 3", "Expected `array`"),
    ],
)
def test_a_file_of_expectations_that_is_none_is_refused(typed, expecting, text, told):
    code, _, err = typed("--backend", OWN, *expecting(text))
    assert code == 3
    assert told in err


class Page(HTMLParser):
    """Text of a page, and whatever it would load."""

    def __init__(self):
        super().__init__()
        self.text, self.loads, self.open = "", [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "data")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_four_forms_say_the_same(typed, expecting, tmp_path):
    text = '[[expected]]\ncase = "rounding.half_even/f32-*"\nreason = "x < y & z"\n'
    words = ["--backend", f"{HERE}:WRONG", "--operation", "rounding.*", "--most", "99", *expecting(text)]
    code, out, _ = typed(*words, "--out", "r.json", "--out", "r.xml", "--out", "r.html")
    assert code == 1
    tree = json.loads((tmp_path / "r.json").read_text())
    assert tree["counts"] == {"cases": 60, "conforms": 54, "differs": 3, "trouble": 0, "expected": 3, "skipped": 0}
    assert "54 of 60 cases conform, 3 differ, 3 fail as expected" in out
    root = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert (len(root.findall(".//testcase")), len(root.findall(".//failure")), len(root.findall(".//skipped"))) == (61, 3, 3)
    assert "x < y & z" in root.find(".//skipped").get("message")
    ties = next(test for test in root.iter("testcase") if test.get("name") == "f64-ties")
    assert "this is what half_even-rounds_away" in ties.find("failure").text
    page = Page()
    page.feed((tmp_path / "r.html").read_text())
    assert (page.loads, page.open) == ([], [])
    assert "54 of 60 cases conform" in page.text
    assert "x < y & z" in page.text
    for explanation in (e for failure in tree["failures"] for e in failure["explanations"]):
        assert explanation["reproduce"] in page.text
        assert explanation["reproduce"] in out
    for form, name in (("json", "r.json"), ("junit", "r.xml"), ("html", "r.html")):
        assert typed(*words, "--format", form)[1] == (tmp_path / name).read_text()


def test_what_a_backend_says_cannot_break_a_report(typed, tmp_path):
    (tmp_path / "evil_backend.py").write_text(
        "def floor(inputs, parameters):\n    raise ValueError('<script>&\\x00\\x1b[31m ]]>')\nit = {'rounding.floor': floor}\n"
    )
    code, out, _ = typed("--backend", "evil_backend:it", "--out", "r.xml", "--out", "r.html", "--out", "r.json")
    assert code == 1
    assert "12 without an answer" in out
    assert len(ElementTree.parse(tmp_path / "r.xml").findall(".//error")) == 12
    page = Page()
    page.feed((tmp_path / "r.html").read_text())
    assert "script" not in page.open
    assert "<script>" in page.text


def test_files_in_two_steps(typed, tmp_path):
    words = ["--files", "questions", "--operation", "rounding.ceil"]
    code, out, err = typed(*words)
    assert (code, out) == (0, "questions: 12 questions\n")
    assert "answers.jsonl" in err
    assert typed(*words)[0] == 3
    folder = tmp_path / "questions"
    questions = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    from refquant.conformance.backends.protocol import read_array

    inputs = {question["id"]: read_array(question["inputs"]["x"], "x", folder) for question in questions}
    lines = [json.dumps({"id": name, "outputs": {"y": array_tree(np.ceil(x))}}) for name, x in inputs.items()]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    assert typed(*words)[0] == 0
    assert typed("--files", "questions")[0] == 0  # what was asked is what is judged


def test_streams_find_the_first_departure(typed):
    code, out, _ = typed("--backend", f"{HERE}:STREAMING", "--streams")
    assert code == 1
    last = (3 << 14) - 1
    assert f"stream rounding.floor/dyadics: departs at row {last} (block 2), y[{(1 << 14) - 1}] of its block" in out
    assert "12 of 12 cases conform, 0 of 1 streams as published" in out


def test_streams_through_a_pipe_are_as_published(typed):
    pipe = shlex.join([sys.executable, "-m", "refquant.conformance.backends.serve", f"{HERE}:RIGHT"])
    root = Path(__file__).parents[2]
    code, out, _ = typed("--pipe", f"env PYTHONPATH={root} {pipe}", "--operation", "rounding.floor", "--streams")
    assert code == 0
    assert "1 of 1 streams as published" in out


def test_a_stream_that_gets_no_answer_is_told(typed):
    pipe = shlex.join([sys.executable, "-I", "-S", str(SPEAKER), "exit@dyadics"])
    code, out, _ = typed("--pipe", pipe, "--streams")
    assert code == 1
    assert "stream rounding.floor/dyadics: the command ended with exit code 3" in out
    assert "12 of 12 cases conform" in out
