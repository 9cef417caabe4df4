"""Whatever a command, a folder or an object does, there is one clear record of it; never a hang, a traceback or a wrong verdict."""

import base64
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from refquant.conformance.backends import pipe as pipe_module
from refquant.conformance.backends.files import FilesBackend, write_questions
from refquant.conformance.backends.pipe import PipeBackend
from refquant.conformance.backends.protocol import array_tree, read_array
from refquant.conformance.backends.python import PythonBackend
from refquant.conformance.backends.session import BackendTrouble
from refquant.conformance.case import Case
from refquant.conformance.conform import Selection, conform
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.errors import InputError, UsageError
from refquant.storage import write_tensors

SPEAKER = Path(__file__).with_name("speaker.py")
FLOORS = 12  # cases of rounding.floor
ONE = "f64-ties"


def command(*words):
    return shlex.join([sys.executable, "-I", "-S", str(SPEAKER), *words])  # which start quickly


def run(behaviour, timeout=20.0):
    return conform(PipeBackend(command(behaviour), timeout), golden_directory())


def fates(report):
    return {verdict.case.slug: (verdict.status, verdict.kind) for verdict in report.verdicts if verdict.status != "conforms"}


@pytest.mark.parametrize("behaviour", ["", "files", "flood"])
def test_a_command_that_floors_conforms(behaviour):
    report = run(behaviour)
    assert len(report.verdicts) == FLOORS
    assert report.ok()
    assert report.backend == "speaker"


@pytest.mark.parametrize(
    ("behaviour", "kind", "told"),
    [
        ("exit", "crashed", "exit code 3; it last said: out of luck"),
        ("segfault", "crashed", "signal SIGSEGV"),
        ("half-line", "crashed", "in the middle of a line"),
        ("offspring", "crashed", "exit code 4"),
        ("garbage", "garbage", "no JSON: '{\"id\": oops}'"),
        ("deep", "garbage", "no JSON"),
        ("no-id", "garbage", "without an id"),
        ("no-outputs", "garbage", "without outputs, skip or error"),
        ("outputs-list", "garbage", "without outputs"),
        ("bad-base64", "garbage", "no base64"),
        ("short", "garbage", "bytes; float64 of shape [19] takes 152"),
        ("bad-dtype", "garbage", "the dtype 'object'"),
        ("bad-shape", "garbage", "the shape [-1]"),
        ("huge-shape", "garbage", "takes 8000000000000000000000000000000"),
        ("no-data", "garbage", "either data or file"),
        ("lost-file", "garbage", "nowhere/y.bin"),
        ("error", "raised", "the backend says: cannot floor"),
    ],
)
def test_one_bad_answer_is_one_record_and_hides_nothing(behaviour, kind, told):
    report = run(f"{behaviour}@{ONE}")
    assert fates(report) == {ONE: ("trouble", kind)}
    (verdict,) = [verdict for verdict in report.verdicts if verdict.status == "trouble"]
    assert told in verdict.trouble
    assert "\n" not in verdict.trouble
    assert len(report.verdicts) == FLOORS
    assert not report.ok()


@pytest.mark.parametrize(("behaviour", "kind"), [("hang", "timeout"), ("other-id", "timeout"), ("close", "crashed")])
def test_silence_ends_with_the_time_limit(behaviour, kind):
    began = time.monotonic()
    report = run(f"{behaviour}@{ONE}", timeout=1.0)
    assert fates(report) == {ONE: ("trouble", kind)}
    assert time.monotonic() - began < 15


def test_a_command_that_never_answers_is_given_up():
    report = run("hang", timeout=0.3)
    assert [verdict.kind for verdict in report.verdicts] == ["timeout"] * pipe_module.MOST_TIMEOUTS + ["given up"] * (
        FLOORS - pipe_module.MOST_TIMEOUTS
    )


def test_a_command_that_always_dies_is_given_up(monkeypatch):
    monkeypatch.setattr(pipe_module, "MOST_DEATHS", 4)
    assert [verdict.kind for verdict in run("exit").verdicts] == ["crashed"] * 4 + ["given up"] * (FLOORS - 4)


@pytest.mark.parametrize(("behaviour", "count"), [("talk", f"{FLOORS} lines"), (f"talk@{ONE}", "a line"), (f"twice@{ONE}", "a line")])
def test_lines_that_answer_nothing_are_told_once_and_the_answers_judged(behaviour, count):
    report = run(behaviour)
    assert fates(report) == {}
    (stray,) = report.strays
    assert f"standard output has {count} " in stray
    assert "talk belongs to stderr" in stray
    assert not report.ok()


def test_what_a_backend_does_not_have_is_skipped_and_counted():
    report = run(f"skip@{ONE}")
    assert fates(report) == {ONE: ("skipped", "")}
    assert report.ok()


def test_a_bad_end_is_told():
    (stray,) = run("bad-end").strays
    assert "after the last answer the command ended with exit code 7" in stray


def test_a_command_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(pipe_module, "GRACE", 0.3)
    (stray,) = run("stay").strays
    assert "was killed" in stray


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("mute", "no hello within 1 seconds"),
        ("stillborn", "exit code 1; it last said: no such device"),
        ("talk-first", "no JSON: 'loading...'"),
        ("version", "protocol 2; this release speaks 1"),
        ("unknown", "'rounding.up'; known operations are"),
        ("nothing", "names no operations"),
        ("arrays", "arrays as 'hdf5'"),
    ],
)
def test_without_a_hello_nothing_begins(behaviour, told):
    with pytest.raises(InputError, match=None) as error:
        PipeBackend(command(behaviour), 1.0)
    assert told in str(error.value)


@pytest.mark.parametrize(("words", "told"), [("", "empty"), ("'", "cut into words"), ("no-such-program-here", "cannot be started")])
def test_a_command_that_is_none_is_refused(words, told):
    with pytest.raises(UsageError, match=told):
        PipeBackend(words)


def test_nothing_is_left_running():
    backend = PipeBackend(command("hang"), 0.3)
    child = backend._child.process
    conform(backend, golden_directory(), Selection(cases=("*ties",)))
    assert child.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_arrays_survive_the_wire(dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for tree in (array_tree(array), array_tree(array, tmp_path / "a.bin")):
        back = read_array(json.loads(json.dumps(tree)), "y", Path())
        assert back.dtype == array.dtype
        assert back.tobytes() == array.tobytes()
        assert back.shape == (2, 3)


def test_bytes_on_the_wire_are_little_endian():
    assert base64.b64decode(array_tree(np.array([1.0], ">f4"))["data"]) == bytes([0, 0, 0x80, 0x3F])


def raising(inputs, parameters):
    raise ZeroDivisionError("division\nby zero")


def leaving(inputs, parameters):
    sys.exit("bye")


def lacking(inputs, parameters):
    raise NotImplementedError("tomorrow")


def writing(inputs, parameters):
    inputs["x"][...] = 0


BAD = {
    "raising": {"rounding.floor": raising},
    "leaving": {"rounding.floor": leaving},
    "lacking": {"rounding.floor": lacking},
    "writing": {"rounding.floor": writing},
    "tuple": {"rounding.floor": lambda inputs, parameters: (inputs["x"],)},
    "ragged": {"rounding.floor": lambda inputs, parameters: {"y": [[1], [1, 2]]}},
    "objects": {"rounding.floor": lambda inputs, parameters: {"y": np.array([None] * len(inputs["x"]))}},
    "text": {"rounding.floor": lambda inputs, parameters: {"y": np.array(["a"] * len(inputs["x"]))}},
}


@pytest.mark.parametrize(
    ("which", "status", "told"),
    [
        ("raising", "trouble", "ZeroDivisionError: division by zero ("),
        ("leaving", "trouble", "SystemExit: bye"),
        ("lacking", "skipped", "tomorrow"),
        ("writing", "trouble", "read-only"),
        ("tuple", "trouble", "returned tuple"),
        ("ragged", "trouble", "is no array"),
        ("objects", "differs", ""),
        ("text", "differs", ""),
    ],
)
def test_whatever_a_function_does_is_one_record(which, status, told):
    backend = PythonBackend("refquant.conformance.own:backend")
    backend.runs = BAD[which]
    report = conform(backend, golden_directory(), Selection(operations=("rounding.floor",)))
    assert {verdict.status for verdict in report.verdicts} == {status}
    assert all(told in verdict.trouble for verdict in report.verdicts)


@pytest.mark.parametrize("name", ["json", "json:", ":loads", "no.such.module:x", "json:nothing", "json:loads", "math:pi"])
def test_an_object_that_is_none_is_refused(name):
    with pytest.raises(UsageError):
        PythonBackend(name)


def test_a_module_that_breaks_while_it_is_loaded_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken_while_loaded.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        PythonBackend("broken_while_loaded:x")


def floor_cases():
    return list(read_vectors(golden_directory(), "rounding.floor").cases.values())


def answered(folder, cases, change=lambda lines: lines):
    lines = [json.dumps({"id": c.id, "outputs": {"y": array_tree(np.floor(c.inputs["x"]))}}) for c in cases]
    (folder / "answers.jsonl").write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def test_files_are_the_pipe_in_two_steps(tmp_path):
    folder = tmp_path / "questions"
    assert write_questions(folder, floor_cases()) == FLOORS
    with pytest.raises(InputError, match="no answers yet"):
        FilesBackend(folder)
    answered(folder, floor_cases(), lambda lines: ['{"protocol": 1, "operations": []}', "", *lines])
    report = conform(FilesBackend(folder), golden_directory())
    assert (report.ok(), len(report.verdicts)) == (True, FLOORS)


def test_a_command_can_answer_the_file(tmp_path):
    folder = tmp_path / "questions"
    write_questions(folder, floor_cases())
    with open(folder / "cases.jsonl") as questions, open(folder / "answers.jsonl", "w") as answers:
        subprocess.run([sys.executable, SPEAKER], stdin=questions, stdout=answers, check=True)
    assert conform(FilesBackend(folder), golden_directory()).ok()


def test_answers_may_be_tensors(tmp_path):
    folder = tmp_path / "questions"
    write_questions(folder, floor_cases())
    write_tensors(folder / "answers.safetensors", {f"{c.id}/y": np.floor(c.inputs["x"]) for c in floor_cases()[1:]}, {})
    report = conform(FilesBackend(folder), golden_directory())
    assert report.ok()
    assert fates(report) == {floor_cases()[0].slug: ("skipped", "")}


def test_answers_that_lack_or_exceed_are_told(tmp_path):
    folder = tmp_path / "questions"
    write_questions(folder, floor_cases())
    stray = '{"id": "rounding.floor/none", "outputs": {}}'
    answered(folder, floor_cases(), lambda lines: [*lines[1:], lines[1], stray])
    report = conform(FilesBackend(folder), golden_directory())
    assert fates(report) == {floor_cases()[0].slug: ("trouble", "unanswered")}
    assert [("answered twice" in stray, "does not ask" in stray) for stray in report.strays] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("text", "told"), [("{", "line 1"), ("[]", "no JSON object"), ("{}", "without an id"), ('{"id": "x.y/z"}', "none of the answers")]
)
def test_a_damaged_file_of_answers_is_refused(tmp_path, text, told):
    folder = tmp_path / "questions"
    write_questions(folder, floor_cases())
    (folder / "answers.jsonl").write_text(text)
    with pytest.raises(InputError, match=told):
        FilesBackend(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    with pytest.raises(InputError, match=r"no cases\.jsonl"):
        FilesBackend(tmp_path)
    with pytest.raises(InputError):
        write_questions(tmp_path, floor_cases())


def test_a_path_in_an_answer_is_relative_to_the_folder(tmp_path):
    (tmp_path / "y.bin").write_bytes(bytes(8))
    assert read_array({"dtype": "float64", "shape": [1], "file": "y.bin"}, "y", tmp_path).tolist() == [0.0]
    with pytest.raises(BackendTrouble, match="cannot be read"):
        read_array({"dtype": "float64", "shape": [1], "file": "../y.bin\0"}, "y", tmp_path)


def test_the_package_serves_itself_through_the_pipe():
    words = [sys.executable, "-m", "refquant.conformance.backends.serve", "refquant.conformance.own:backend"]
    report = conform(PipeBackend(shlex.join(words)), golden_directory(), Selection(cases=("*ties", "*dead", "*-plain")))
    assert len(report.verdicts) > 80
    assert report.ok()
    assert all(isinstance(verdict.case, Case) for verdict in report.verdicts)
