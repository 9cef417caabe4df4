"""Text and ids."""

import json
import shutil

import pytest
import tokenizers
import tokenizers.processors
from hypothesis import given
from hypothesis import strategies as st

import model
from refquant.errors import InputError, UsageError

FOLDER = model.embedded_directory()
TOKENIZER = model.Tokenizer.from_directory(FOLDER)


@given(st.text(max_size=60))
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= i < TOKENIZER.vocab_size for i in ids)


def test_special_tokens():
    found = (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.eot_id, TOKENIZER.mask_id, TOKENIZER.pad_id)
    assert found == (0, 1, 2, 3, 1)
    assert TOKENIZER.encode("a<|mdm_mask|>") == [*TOKENIZER.encode("a"), 3]  # written out: one token
    assert TOKENIZER.decode([3, 1]) == "<|mdm_mask|><|endoftext|>"
    assert TOKENIZER.encode("") == []


def test_nothing_is_added_even_where_the_file_asks_for_it(tmp_path):
    backend = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    bos = ("<|startoftext|>", 0)
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<|startoftext|> $A", special_tokens=[bos])
    backend.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(FOLDER / "config.json", tmp_path)
    assert backend.encode("a").ids[0] == 0
    assert model.Tokenizer.from_directory(tmp_path).encode("a") == TOKENIZER.encode("a")


def test_digits_are_single_tokens():
    assert len(TOKENIZER.encode("1234567")) == 7


def test_evaluation_texts_are_those_of_their_ids():
    rows = [json.loads(line) for line in (FOLDER / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [row for row in rows if row["task"] == "text"]
    assert len(texts) == 256
    for row in texts:
        assert TOKENIZER.decode(row["ids"]) == row["text"]
        assert len(row["ids"]) == 128


@pytest.mark.parametrize("bad", [-1, 1024, 10**9])
def test_ids_it_does_not_have(bad):
    with pytest.raises(InputError, match=f"id {bad} at position 1"):
        TOKENIZER.decode([5, bad])


def test_damage(tmp_path):
    shutil.copy(FOLDER / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"tokenizer.json: cannot be read"):
        model.Tokenizer.from_directory(tmp_path)
    for text in ("", "{", "{}", "[1]"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer") as caught:
            model.Tokenizer.from_directory(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"tokenizer.json: cannot be read"):
        model.Tokenizer.from_directory(tmp_path)
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text('{"mask_token_id": "three"}')
    with pytest.raises(InputError, match="mask_token_id is 'three'"):
        model.Tokenizer.from_directory(tmp_path)


def test_chat_template():
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    one = [{"role": "user", "content": " Hello "}]
    wanted = "<|startoftext|>" + head.format("user") + "Hello<|eot_id|>" + head.format("assistant")
    assert model.chat_prompt(one) == wanted
    assert model.chat_prompt(one, first=False) == wanted.removeprefix("<|startoftext|>")
    several = [
        {"role": "system", "content": "S"},
        *one,
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "B"},
    ]
    turns = "".join(head.format(m["role"]) + m["content"].strip() + "<|eot_id|>" for m in several)
    assert model.chat_prompt(several) == "<|startoftext|>" + turns + head.format("assistant")


@pytest.mark.parametrize("messages", [[], [{"role": "judge", "content": "x"}], [{"role": "user"}], [{"content": "x"}]])
def test_chat_refuses(messages):
    with pytest.raises(UsageError, match="allowed"):
        model.chat_prompt(messages)
