"""Held-out data: text chunks and task items, read with every line checked, and picked evenly over domains and tasks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from typing import Any, TypeVar

from model import embedded_directory
from refquant.errors import InputError
from refquant.storage import read_json_lines

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A held-out text chunk."""

    ids: tuple[int, ...]  # what is scored; position 0 has no prompt before it
    domain: str
    where: str  # file and line, for error messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question whose answer is right or wrong."""

    task: str
    prompt: str
    answer: str
    gen_length: int
    after: str | None  # the marker that the answer follows; see scoring.toml
    where: str

    def is_right(self, response: str) -> bool:
        """Compare the answer in a response, cut at its end of text, with the expected one.

        Examples
        --------
        >>> item = Item(task="add", prompt="Q: 1+2=?", answer="3", gen_length=8, after="=", where="here")
        >>> item.is_right(" 1+2=3"), item.is_right(" 1+2=30"), item.is_right("3")
        (True, False, True)
        """
        answer = response if self.after is None else response.split(self.after)[-1]
        return answer.strip() == self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Texts and items in file order."""

    texts: tuple[Text, ...]
    items: tuple[Item, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order of first appearance."""
        return tuple(dict.fromkeys(item.task for item in self.items))

    def first_texts(self, count: int) -> tuple[Text, ...]:
        """Up to `count` texts, one of each domain in turn, each domain in file order."""
        return tuple(_in_turn(self.texts, lambda text: text.domain)[:count])

    def first_items(self, per_task: int) -> tuple[Item, ...]:
        """Up to `per_task` items of every task, one of each task in turn, each task in file order."""
        chosen = [item for task in self.tasks for item in [i for i in self.items if i.task == task][:per_task]]
        return tuple(_in_turn(chosen, lambda item: item.task))


def _in_turn(things: Iterable[_T], kind: Callable[[_T], str]) -> list[_T]:
    """Deal round-robin over kinds: the first of each, the second of each, ...; a kind that runs out is passed over."""
    seen: dict[str, int] = {}
    ranked = []
    for thing in things:
        rank = seen[kind(thing)] = seen.get(kind(thing), -1) + 1
        ranked.append((rank, list(seen).index(kind(thing)), thing))
    return [thing for _, _, thing in sorted(ranked, key=lambda entry: entry[:2])]


def read_evaluation_set(path: str | PathLike[str] | None = None, scoring: str | PathLike[str] | None = None) -> EvaluationSet:
    """Read held-out data, one JSON object a line.

    A text is ``{"task": "text", "domain", "ids"}``, an item ``{"task", "prompt", "answer", "gen_length"}``; other keys are ignored.

    Parameters
    ----------
    path : path, optional
        The ``.jsonl`` file; that of the embedded model when absent.
    scoring : path, optional
        A TOML file like this package's ``scoring.toml``, which is used when absent.

    Raises
    ------
    InputError
        If a file cannot be read, a line is not one of the two, a task has no scoring rule, or there is nothing in the file.

    Examples
    --------
    >>> data = read_evaluation_set()
    >>> len(data.texts), data.tasks
    (256, ('add', 'sub', 'sort', 'reverse', 'word'))
    >>> [text.domain for text in data.first_texts(3)]
    ['kjv', 'shakespeare', 'kjv']
    """
    source = embedded_directory() / "eval.jsonl" if path is None else path
    rules = read_scoring(scoring)
    texts: list[Text] = []
    items: list[Item] = []
    for number, record in read_json_lines(source):
        where = f"{source}, line {number}"
        if record.get("task") == "text":
            texts.append(Text(ids=_ids(record, where), domain=_string(record, "domain", where), where=where))
        else:
            items.append(_item(record, rules, where))
    if not texts and not items:
        raise InputError(f"{source}: the file is empty; allowed: at least one text or task item")
    return EvaluationSet(texts=tuple(texts), items=tuple(items))


def read_scoring(path: str | PathLike[str] | None = None) -> dict[str, str | None]:
    """Read the scoring rules: task to the marker that its answer follows, or None.

    Raises
    ------
    InputError
        If the file cannot be read or is not a table of tasks with at most the key ``after``.
    """
    source = files("refquant.apply.evaluation") / "scoring.toml" if path is None else path
    try:
        if path is None:
            text = (files("refquant.apply.evaluation") / "scoring.toml").read_text(encoding="utf-8")
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        found = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{source}: cannot be read as TOML: {error}") from error
    for task, rule in found.items():
        if not isinstance(rule, dict) or set(rule) - {"after"} or not isinstance(rule.get("after", "-"), str) or rule.get("after") == "":
            raise InputError(f"{source}: the rule of task {task!r} is {rule!r}; allowed: a table with at most `after`, a string")
    return {task: rule.get("after") for task, rule in found.items()}


def _item(record: dict[str, Any], rules: dict[str, str | None], where: str) -> Item:
    task = _string(record, "task", where)
    if task not in rules:
        raise InputError(f"{where}: task is {task!r}; allowed: text, {', '.join(rules)}")
    gen_length = record.get("gen_length")
    if isinstance(gen_length, bool) or not isinstance(gen_length, int) or gen_length < 1:
        raise InputError(f"{where}: gen_length is {gen_length!r}; allowed: an integer of at least 1")
    return Item(
        task=task,
        prompt=_string(record, "prompt", where),
        answer=_string(record, "answer", where),
        gen_length=gen_length,
        after=rules[task],
        where=where,
    )


def _string(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key} is {value!r}; allowed: a string that is not empty")
    return value


def _ids(record: dict[str, Any], where: str) -> tuple[int, ...]:
    ids = record.get("ids")
    if not isinstance(ids, list) or not ids:
        raise InputError(f"{where}: ids is {str(ids)[:40]}; allowed: a list of at least one token id")
    for position, value in enumerate(ids):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{where}: ids[{position}] is {value!r}; allowed: integers of at least 0")
    return tuple(ids)
