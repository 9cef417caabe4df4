"""JSON: what is refused and how it is told; one canonical text."""

import hashlib
import json
import math
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError
from refquant.storage import canonical_json, digest, read_json, read_json_lines, write_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def bits(value):
    """Tell 1 from 1.0 from True, and 0.0 from -0.0."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bits(item) for item in value]
    return (type(value), value.hex() if isinstance(value, float) else value)


@given(value=VALUES)
def test_canonical_text_reads_back_and_is_stable(value):
    text = canonical_json(value)
    assert text.isascii()
    assert bits(json.loads(text)) == bits(value)
    assert canonical_json(json.loads(text)) == text


@given(value=st.dictionaries(st.text(), VALUES, max_size=5), seed=st.randoms())
def test_canonical_text_does_not_depend_on_the_order_of_insertion(value, seed):
    items = list(value.items())
    seed.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_canonical_text_by_hand():
    value = {"é": [True, None, -0.0, 1e22, 0.1, 10**20], "Z": {"b": 1, "a": '\u2028"\\'}, "a": ()}
    assert canonical_json(value) == ('{"Z":{"a":"\\u2028\\"\\\\","b":1},"a":[],"\\u00e9":[true,null,-0.0,1e+22,0.1,100000000000000000000]}')
    assert canonical_json(np.float64(0.1)) == "0.1"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, math.inf]}, r"\$\['a'\]\[1\] is inf"),
        ({"a": {"b": -math.inf}}, r"\$\['a'\]\['b'\] is -inf"),
        (math.nan, r"\$ is nan"),
        (np.float64("nan"), r"\$ is nan"),
        ({1: 2}, r"\$ has the key 1, keys must be strings"),
        ([{None: 2}], r"\$\[0\] has the key None"),
        ([np.int64(3)], r"\$\[0\] is a int64"),
        ({"a": {1, 2}}, r"\$\['a'\] is a set"),
        (b"x", r"\$ is a bytes"),
    ],
)
def test_what_has_no_canonical_form(value, message):
    with pytest.raises(InputError, match=message):
        canonical_json(value)


def test_a_value_that_contains_itself():
    value = []
    value.append(value)
    with pytest.raises(InputError, match="contains itself"):
        canonical_json(value)


def test_digest():
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON: Expecting value: line 1 column 1"),
        (b"[]", "the JSON is an array, an object is needed"),
        (b"null", "the JSON is null"),
        (b"true", "the JSON is a boolean"),
        (b"3", "the JSON is a number"),
        (b'"a"', "the JSON is a string"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' occurs twice"),
        (b'{"a": NaN}', "the number NaN is not JSON"),
        (b'{"a": -Infinity}', "the number -Infinity is not JSON"),
        (b'{"a": -1e400}', "the number '-1e400' is beyond"),
        (b'{"a": "\xff"}', "byte 7 is not valid UTF-8"),
        (b'{"a": ["\\uDC00"]}', "lone surrogate"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON: Unexpected UTF-8 BOM"),
    ],
)
def test_read_json_refuses(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_read_json_reads_pairs_of_surrogates(tmp_path):
    (tmp_path / "a").write_bytes(b'{"\\uD83D\\uDE00": "\\\\ud800"}')
    assert read_json(tmp_path / "a") == {"\U0001f600": "\\ud800"}


@given(value=st.dictionaries(st.text(), VALUES, max_size=4))
def test_read_json_reads_what_canonical_json_writes(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a"
    write_text(path, canonical_json(value))
    try:
        assert bits(read_json(path)) == bits(value)
    except InputError as error:
        assert "lone surrogate" in str(error) or "digits" in str(error)  # noqa: PT017


def test_read_json_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("refquant.storage.json_text.MAX_JSON_BYTES", 10)
    (tmp_path / "a").write_text('{"a": 1234}\n')
    with pytest.raises(InputError, match="12 bytes of JSON, at most 10 are read"):
        read_json(tmp_path / "a")
    with pytest.raises(InputError, match="line 1: longer than 10 bytes"):
        list(read_json_lines(tmp_path / "a"))
    (tmp_path / "a").write_text('{"a": 123}\n{"a": 12}\n')
    with pytest.raises(InputError, match="line 1: longer than 10 bytes"):
        list(read_json_lines(tmp_path / "a"))


def test_an_endless_line_is_refused_within_little_memory(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**36)
    program = (
        "import sys; from refquant.storage import json_text; from refquant.errors import InputError\n"
        "json_text.MAX_JSON_BYTES = 1000\n"
        "try: list(json_text.read_json_lines(sys.argv[1]))\n"
        "except InputError as error: print(error)"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))  # noqa: E731
    command = [sys.executable, "-c", program, str(tmp_path / "sparse")]
    ran = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "line 1: longer than 1000 bytes" in ran.stdout


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("[]", "the JSON is an array"),
        ("", "the line is blank"),
        ("  ", "the line is blank"),
        ('{"a": 1, "a": 1}', "occurs twice"),
        ('{"a": ', "not valid JSON"),
        ('{"a": 1} {"a": 2}', "not valid JSON"),
    ],
)
def test_json_lines_name_the_line(tmp_path, second, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n' + second + '\n{"n": 3}\n')
    lines = read_json_lines(path)
    assert next(lines) == (1, {"n": 1})
    with pytest.raises(InputError, match=message) as caught:
        next(lines)
    assert str(caught.value).startswith(f"{path}, line 2: ")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_json_lines_end_as_they_like(tmp_path, end):
    (tmp_path / "a").write_bytes(b'{"a": "\xe2\x80\xa8"}\r\n{}' + end.encode())
    assert list(read_json_lines(tmp_path / "a")) == [(1, {"a": "\u2028"}), (2, {})]


def test_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    assert list(read_json_lines(tmp_path / "a")) == []


@pytest.mark.parametrize("reader", [read_json, lambda path: list(read_json_lines(path))])
def test_what_is_not_a_file(tmp_path, reader):
    with pytest.raises(InputError, match="missing: cannot read: No such file or directory"):
        reader(tmp_path / "missing")
    with pytest.raises(InputError, match="it is a folder, a regular file is needed"):
        reader(tmp_path)
