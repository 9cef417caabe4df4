"""Calibration files: JSON lines of prompts, texts or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from model import Tokenizer
from refquant.errors import InputError
from refquant.storage import read_json_lines

FORMS = '{"prompt", "response"?}, {"text"}, {"ids", "prompt_length"?} or {"ids", "masked"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLine:
    """One line: a prompt, and the response that followed it in the data if there was one.

    Parameters
    ----------
    prompt : tuple of int
        Token ids, visible from the start.
    response : tuple of int or None
        Token ids; None where a line holds a prompt only.
    cut : bool
        The line is one running text: where the prompt ends is up to the recipe, and nothing ends after the response.
    masked : tuple of int, optional
        Positions that hold the mask token: the line is a calibration state as it is, and its ids are what stands there in the end.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...] | None
    cut: bool
    masked: tuple[int, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and response."""
        return self.prompt + (self.response or ())

    def plain(self) -> list[Any]:
        """Everything about the line as plain JSON values, for digests."""
        found: list[Any] = [list(self.prompt), None if self.response is None else list(self.response), self.cut]
        return found if self.masked is None else [*found, list(self.masked)]


def read_calibration(path: str | PathLike[str], tokenizer: Tokenizer, rows: int) -> list[CalibrationLine]:
    """Read a calibration file.

    Each line is one of ``{"prompt": str, "response": str (optional)}``, ``{"text": str}``, ``{"ids": [int], "prompt_length": int
    (optional)}`` or ``{"ids": [int], "masked": [int]}``; other keys are ignored, and ``ids`` win over ``text``. A prompt begins with the
    start token if the tokenizer has one. The last form is a stored calibration state: ``masked`` lists the positions that hold the mask.

    Parameters
    ----------
    path : path
    tokenizer : Tokenizer
    rows : int
        Rows of the embedding: ids lie below.

    Raises
    ------
    InputError
        If the file is empty, a line has none of the forms, or an id is out of range; the message names file and line.
    """
    lines = [_line(record, f"{path}, line {number}", tokenizer, rows) for number, record in read_json_lines(path)]
    if not lines:
        raise InputError(f"{Path(path)}: the calibration file is empty; each line is {FORMS}")
    return lines


def _line(record: dict[str, Any], where: str, tokenizer: Tokenizer, rows: int) -> CalibrationLine:
    if "ids" in record:
        return _from_ids(record, where, tokenizer, rows)
    if "text" in record and "prompt" not in record:
        ids = _encoded(record["text"], f"{where}: text", tokenizer, rows)
        return CalibrationLine(prompt=(), response=ids, cut=True)
    if "prompt" in record:
        start = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
        prompt = start + _encoded(record["prompt"], f"{where}: prompt", tokenizer, rows)
        response = record.get("response")
        answered = None if response is None else _encoded(response, f"{where}: response", tokenizer, rows)
        return CalibrationLine(prompt=prompt, response=answered, cut=False)
    raise InputError(f"{where}: found the keys {', '.join(sorted(record)) or '(none)'}; allowed is {FORMS}")


def _encoded(text: Any, where: str, tokenizer: Tokenizer, rows: int) -> tuple[int, ...]:
    if not isinstance(text, str) or not text:
        raise InputError(f"{where} is {text!r}; a text that is not empty is needed")
    return _in_range(tokenizer.encode(text), where, tokenizer, rows)


def _from_ids(record: dict[str, Any], where: str, tokenizer: Tokenizer, rows: int) -> CalibrationLine:
    ids = record["ids"]
    if not isinstance(ids, list) or not ids or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{where}: ids is a list of integers that is not empty")
    checked = _in_range(ids, where, tokenizer, rows)
    if "prompt_length" not in record:
        masked = _masked_positions(record["masked"], len(checked), where) if "masked" in record else None
        return CalibrationLine(prompt=(), response=checked, cut=True, masked=masked)
    length = record["prompt_length"]
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < len(checked):
        raise InputError(f"{where}: prompt_length is {length!r}; with {len(checked)} ids it lies in 0 to {len(checked) - 1}")
    return CalibrationLine(prompt=checked[:length], response=checked[length:], cut=False)


def _masked_positions(found: Any, length: int, where: str) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        raise InputError(f"{where}: masked is a list of positions, integers")
    if sorted(set(found)) != found or (found and not 0 <= found[0] <= found[-1] < length):
        raise InputError(f"{where}: masked lists positions in ascending order, each once; with {length} ids they lie in 0 to {length - 1}")
    return tuple(found)


def _in_range(ids: Sequence[int], where: str, tokenizer: Tokenizer, rows: int) -> tuple[int, ...]:
    for index, token in enumerate(ids):
        if not 0 <= token < rows:
            raise InputError(f"{where}: id {token} at index {index} is out of range; the model has {rows} embedding rows")
        if token == tokenizer.mask_id:
            raise InputError(f"{where}: id {token} at index {index} is the mask token; calibration lines hold clean text")
    return tuple(ids)


def generated_length(line: CalibrationLine, gen_length: int, block_length: int) -> int:
    """How many tokens a rollout generates after a line's prompt, in whole sampler blocks.

    A running text gives up to `gen_length` tokens of its end, at most half of it (0 if that is less than a block). A response makes room
    for itself and an end token. A bare prompt is followed by `gen_length` tokens.
    """
    if line.response is None:
        return gen_length
    if line.cut:
        return min(gen_length, len(line.response) // 2 // block_length * block_length)
    return -(-(len(line.response) + 1) // block_length) * block_length


def split_line(line: CalibrationLine, gen_length: int, block_length: int, eos_id: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and true response of a line, at the lengths of its rollout.

    A response that ends is followed by end tokens up to its generated length, as in the training of LLaDA, unless `eos_id` is None. A
    running text too short for a block is all response.
    """
    response = line.response or ()
    length = generated_length(line, gen_length, block_length)
    if line.cut:
        return (response[:-length], response[-length:]) if length else ((), response)
    if eos_id is None:
        return line.prompt, response
    return line.prompt, response + (eos_id,) * (length - len(response))
