"""Held-out data: what is read, what is refused, what is picked, and what counts as right."""

import json

import pytest

from refquant.apply.evaluation.data import EvaluationSet, Item, Text, read_evaluation_set, read_scoring
from refquant.apply.evaluation.sizes import Sizes
from refquant.apply.evaluation.tasks import response_text
from refquant.errors import InputError, UsageError

TEXT = {"task": "text", "domain": "kjv", "ids": [5, 6]}
ITEM = {"task": "add", "prompt": "Q: 1+2=?", "answer": "3", "gen_length": 8}


def written(tmp_path, *records):
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def item(task, after=None, answer="7"):
    return Item(task=task, prompt="p", answer=answer, gen_length=4, after=after, where="here")


def test_reads_both_kinds(tmp_path):
    path = written(tmp_path, TEXT, ITEM | {"response": "ignored"})
    found = read_evaluation_set(path)
    assert found.texts == (Text(ids=(5, 6), domain="kjv", where=f"{path}, line 1"),)
    assert found.items == (Item(task="add", prompt="Q: 1+2=?", answer="3", gen_length=8, after="=", where=f"{path}, line 2"),)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (TEXT | {"ids": []}, r"ids is \[\]; allowed: a list of at least one token id"),
        (TEXT | {"ids": "abc"}, "ids is abc; allowed: a list"),
        (TEXT | {"ids": [1, -2]}, r"ids\[1\] is -2; allowed: integers of at least 0"),
        (TEXT | {"ids": [True]}, r"ids\[0\] is True; allowed: integers"),
        (TEXT | {"ids": [1.5]}, r"ids\[0\] is 1.5; allowed: integers"),
        (TEXT | {"domain": ""}, "domain is ''; allowed: a string that is not empty"),
        (ITEM | {"task": "chess"}, "task is 'chess'; allowed: text, add, sub, sort, reverse, word"),
        ({k: v for k, v in ITEM.items() if k != "task"}, "task is None; allowed: a string"),
        (ITEM | {"answer": 3}, "answer is 3; allowed: a string"),
        (ITEM | {"prompt": ""}, "prompt is ''; allowed: a string"),
        (ITEM | {"gen_length": 0}, "gen_length is 0; allowed: an integer of at least 1"),
        (ITEM | {"gen_length": True}, "gen_length is True; allowed: an integer"),
    ],
)
def test_border(tmp_path, record, message):
    with pytest.raises(InputError, match=rf"eval.jsonl, line 2: {message}"):
        read_evaluation_set(written(tmp_path, TEXT, record))


def test_an_empty_or_missing_file(tmp_path):
    with pytest.raises(InputError, match="the file is empty; allowed: at least one text or task item"):
        read_evaluation_set(written(tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        read_evaluation_set(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("text", ["x = ", "x = 1", "[x]\nbefore = 'a'", "[x]\nafter = 3", "[x]\nafter = ''"])
def test_bad_scoring_rules(tmp_path, text):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(InputError, match=r"rules.toml"):
        read_scoring(tmp_path / "rules.toml")


def test_own_scoring_rules(tmp_path):
    (tmp_path / "rules.toml").write_text("[chess]\nafter = 'best:'\n")
    found = read_evaluation_set(written(tmp_path, ITEM | {"task": "chess"}), tmp_path / "rules.toml")
    assert found.items[0].after == "best:"


@pytest.mark.parametrize(  # (task, marker, expected, response, right): the rule of the model's makers, by hand
    ("task", "after", "answer", "response", "right"),
    [
        ("add", "=", "151", " 58+93=151", True),
        ("add", "=", "151", " 58+93=15", False),
        ("add", "=", "151", " 1=2=151 \n", True),
        ("add", "=", "151", "151", True),
        ("sort", None, "3478", " 3478", True),
        ("sort", None, "3478", " 34 78", False),
        ("sort", None, "3478", " x=3478", False),
        ("word", "So", "7", " 51-17=34. 34-29=5. 5+2=7. So 7", True),
        ("word", "So", "7", " 51-17=34. 34-29=5. 5+2=7.", False),
        ("word", "So", "7", "", False),
    ],
)
def test_what_is_right(task, after, answer, response, right):
    assert item(task, after, answer).is_right(response) is right
    assert read_scoring()[task] == after


class Letters:
    eos_id = 1

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


def test_a_response_ends_at_the_first_end_of_text():
    assert response_text([3, 4, 1, 5, 1], Letters()) == "cd"
    assert response_text([3, 4], Letters()) == "cd"
    assert response_text([1, 3], Letters()) == ""


def test_selection_deals_round_robin():
    texts = [Text(ids=(n,), domain=d, where="") for n, d in enumerate("aaabbc")]
    items = [item(t, answer=str(n)) for n, t in enumerate(["sub", "sub", "sub", "add", "add"])]
    data = EvaluationSet(texts=tuple(texts), items=tuple(items))
    assert [t.ids[0] for t in data.first_texts(99)] == [0, 3, 5, 1, 4, 2]
    assert [t.ids[0] for t in data.first_texts(2)] == [0, 3]
    assert [i.answer for i in data.first_items(2)] == ["0", "3", "1", "4"]
    assert len(data.first_items(99)) == 5
    assert data.tasks == ("sub", "add")


def test_embedded_data_are_balanced():
    data = read_evaluation_set()
    chosen = data.first_texts(64)
    assert [sum(t.domain == d for t in chosen) for d in ("kjv", "shakespeare")] == [32, 32]
    assert {task: sum(i.task == task for i in data.first_items(40)) for task in data.tasks} == dict.fromkeys(data.tasks, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"masks": 0}, "masks is 0; allowed: an integer of at least 1"), ({"texts": -1}, "texts is -1"), ({"items": 1.0}, "items is 1.0"),
     ({"continuation": 9, "tokens_per_step": 2}, "tokens_per_step is 2; allowed: a divisor of continuation 9")],
)  # fmt: skip
def test_sizes_are_checked(settings, message):
    with pytest.raises(UsageError, match=message):
        Sizes(**settings)


def test_full_sizes_are_those_of_the_evaluation_rules():
    full = Sizes.full()
    assert (full.texts, full.masks) == (256, 128)
    assert full.items * 5 >= 1000
