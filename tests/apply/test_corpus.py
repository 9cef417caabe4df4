"""Calibration files: three forms of a line, where a response begins, and errors that name file and line."""

from __future__ import annotations

import json

import pytest

import model
from refquant.apply.corpus import CalibrationLine, generated_length, read_calibration, split_line
from refquant.errors import InputError

TOKENIZER = model.Tokenizer.from_directory(model.embedded_directory())
BOS, EOS, MASK = 0, 1, 3


def read(tmp_path, *records, tokenizer=TOKENIZER):
    path = tmp_path / "calib.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return read_calibration(path, tokenizer, 1024)


def encode(text):
    return tuple(TOKENIZER.encode(text))


def test_the_three_forms(tmp_path):
    lines = read(
        tmp_path,
        {"prompt": "Q: 1+1=?\nA:", "response": " 2"},
        {"prompt": "Q: 1+1=?\nA:"},
        {"prompt": "Q:", "response": None},
        {"text": "In the beginning"},
        {"ids": [5, 6, 7, 8], "prompt_length": 1},
        {"ids": [5, 6, 7, 8]},
        {"ids": [5, 6], "prompt_length": 0},
    )
    question = (BOS, *encode("Q: 1+1=?\nA:"))
    assert lines == [
        CalibrationLine(prompt=question, response=encode(" 2"), cut=False),
        CalibrationLine(prompt=question, response=None, cut=False),
        CalibrationLine(prompt=(BOS, *encode("Q:")), response=None, cut=False),
        CalibrationLine(prompt=(), response=encode("In the beginning"), cut=True),
        CalibrationLine(prompt=(5,), response=(6, 7, 8), cut=False),
        CalibrationLine(prompt=(), response=(5, 6, 7, 8), cut=True),
        CalibrationLine(prompt=(), response=(5, 6), cut=False),
    ]
    assert lines[0].ids == question + encode(" 2")
    assert lines[1].ids == question


def test_ids_win_over_text_and_prompt_over_text_and_other_keys_are_ignored(tmp_path):
    both = read(
        tmp_path, {"text": "In", "ids": [9, 8], "domain": "x"}, {"text": "In", "prompt": "Q", "task": 3}, {"prompt": "Q", "ids": [9]}
    )
    assert [line.ids for line in both] == [(9, 8), (BOS, *encode("Q")), (9,)]


def test_no_start_token_no_bos(tmp_path):
    config = {"mask_token_id": MASK, "eos_token_id": EOS, "pad_token_id": 1}
    bare = model.Tokenizer(TOKENIZER._backend, config)
    assert read(tmp_path, {"prompt": "Q:"}, tokenizer=bare)[0].prompt == encode("Q:")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"found the keys \(none\); allowed is"),
        ({"response": "x"}, r"found the keys response; allowed is \{\"prompt\""),
        ({"text": ""}, "text is ''; a text that is not empty"),
        ({"text": 3}, "text is 3"),
        ({"prompt": ""}, "prompt is ''"),
        ({"prompt": ["a"]}, "prompt is"),
        ({"prompt": "a", "response": ""}, "response is ''"),
        ({"prompt": "a", "response": 3}, "response is 3"),
        ({"ids": []}, "ids is a list of integers that is not empty"),
        ({"ids": "12"}, "ids is a list"),
        ({"ids": [1.0]}, "ids is a list"),
        ({"ids": [True]}, "ids is a list"),
        ({"ids": [5, 1024]}, "id 1024 at index 1 is out of range; the model has 1024 embedding rows"),
        ({"ids": [-1]}, "id -1 at index 0 is out of range"),
        ({"ids": [5, MASK]}, "id 3 at index 1 is the mask token"),
        ({"ids": [5, 6], "prompt_length": 2}, "prompt_length is 2; with 2 ids it lies in 0 to 1"),
        ({"ids": [5, 6], "prompt_length": -1}, "prompt_length is -1"),
        ({"ids": [5, 6], "prompt_length": "1"}, "prompt_length is '1'"),
        ({"ids": [5, 6], "prompt_length": True}, "prompt_length is True"),
        ("[1]", "an object is needed"),
        ("{", "not valid JSON"),
        ("", "blank"),
    ],
)
def test_errors_name_file_and_line(tmp_path, record, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, {"text": "fine"}, record)
    assert f"{tmp_path / 'calib.jsonl'}, line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_or_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"calib.jsonl: the calibration file is empty; each line is"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"none.jsonl"):
        read_calibration(tmp_path / "none.jsonl", TOKENIZER, 1024)


def test_rows_beyond_the_model_are_out_of_range(tmp_path):
    path = tmp_path / "calib.jsonl"
    path.write_text('{"text": "In the beginning"}\n')
    top = max(encode("In the beginning"))
    assert read_calibration(path, TOKENIZER, top + 1)
    with pytest.raises(InputError, match=rf"line 1: text: id {top} at index"):
        read_calibration(path, TOKENIZER, top)


def line(prompt, response, cut=False):
    return CalibrationLine(
        prompt=tuple(range(100, 100 + prompt)), response=None if response is None else tuple(range(200, 200 + response)), cut=cut
    )


@pytest.mark.parametrize(
    ("given", "length"),
    [
        (line(3, None), 16),  # a bare prompt: gen_length
        (line(3, 3), 4),  # a response of 3 and an end token fill a block of 4
        (line(3, 4), 8),  # a response of 4 leaves no room for the end token
        (line(3, 40), 44),  # longer than gen_length: the data says how long
        (line(0, 64, cut=True), 16),  # a long text: gen_length of its end
        (line(0, 32, cut=True), 16),
        (line(0, 31, cut=True), 12),  # at most half of it, in whole blocks
        (line(0, 8, cut=True), 4),
        (line(0, 7, cut=True), 0),  # no block fits into half of it
    ],
)
def test_generated_lengths_and_splits(given, length):
    assert generated_length(given, 16, 4) == length
    prompt, response = split_line(given, 16, 4, EOS)
    if given.response is None:
        assert (prompt, response) == (given.prompt, (EOS,) * length)
    elif given.cut and not length:
        assert (prompt, response) == ((), given.response)
    elif given.cut:
        assert prompt + response == given.response
        assert len(response) == length
    else:
        assert prompt == given.prompt
        assert response == given.response + (EOS,) * (length - len(given.response))
        assert response[len(given.response)] == EOS


def test_without_an_end_token_a_response_stays_as_it_is():
    given = line(3, 5)
    assert split_line(given, 16, 4, None) == (given.prompt, given.response)
    text = line(0, 64, cut=True)
    assert split_line(text, 16, 4, None) == split_line(text, 16, 4, EOS)


def test_a_stored_state_says_where_masks_stand(tmp_path):
    stored, none, plain = read(tmp_path, {"ids": [5, 6, 7], "masked": [0, 2]}, {"ids": [5], "masked": []}, {"ids": [5, 6, 7]})
    assert (stored.ids, stored.masked, none.masked, plain.masked) == ((5, 6, 7), (0, 2), (), None)
    assert stored.plain() != plain.plain()  # digests tell them apart
    assert plain.plain() == [[], [5, 6, 7], True]  # and are for lines without masks what they always were


@pytest.mark.parametrize("masked", ["0", [1, 0], [1, 1], [3], [-1], [True], [0.0]])
def test_positions_of_masks_are_checked(tmp_path, masked):
    with pytest.raises(InputError, match=r"calib.jsonl, line 2: masked (is a list of positions|lists positions in ascending order)"):
        read(tmp_path, {"ids": [5]}, {"ids": [5, 6, 7], "masked": masked})
