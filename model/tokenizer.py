"""Text to token ids and back, and the chat template of LLaDA-Instruct."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import tokenizers

from refquant.errors import InputError, UsageError
from refquant.storage import read_json

_BOS, _START, _END, _TURN = "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
ROLES = ("system", "user", "assistant")


class Tokenizer:
    """The tokenizer of a checkpoint folder.

    Special tokens' ids come from ``config.json`` (the released tokenizers do not declare the mask), except that of the end of turn,
    which is looked up by its text.

    Attributes
    ----------
    mask_id, eos_id, pad_id, bos_id, eot_id : int or None
        None where the folder names none.

    Examples
    --------
    >>> from model import embedded_directory
    >>> tokenizer = Tokenizer.from_directory(embedded_directory())
    >>> tokenizer.decode(tokenizer.encode("In the beginning")), tokenizer.mask_id
    ('In the beginning', 3)
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        self._backend = backend
        self.mask_id, self.eos_id, self.pad_id, self.bos_id = (
            self._special(config, name + "_token_id") for name in ("mask", "eos", "pad", "bos")
        )
        self.eot_id: int | None = backend.token_to_id(_TURN)

    @staticmethod
    def _special(config: Mapping[str, Any], key: str) -> int | None:
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError(f"config.json: {key} is {value!r}; allowed: null or a token id")
        return value

    @classmethod
    def from_directory(cls, directory: str | PathLike[str]) -> Tokenizer:
        """Read ``tokenizer.json`` and ``config.json``.

        Raises
        ------
        InputError
            If either is missing or damaged.
        """
        path = Path(directory) / "tokenizer.json"
        config = read_json(Path(directory) / "config.json")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises bare Exception, nothing narrower
            raise InputError(f"{path}: not a tokenizer: {error}") from error
        return cls(backend, config)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it become their ids, none are added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens included.

        Raises
        ------
        InputError
            If an id is negative or not of this tokenizer.
        """
        ids = [int(i) for i in ids]
        for position, i in enumerate(ids):
            if i < 0 or self._backend.id_to_token(i) is None:
                raise InputError(f"id {i} at position {position} is not in the tokenizer; its {self.vocab_size} tokens are allowed")
        return str(self._backend.decode(ids, skip_special_tokens=False))


def chat_prompt(messages: Sequence[Mapping[str, str]], first: bool = True) -> str:
    """Render a conversation for LLaDA-Instruct, up to where the assistant begins to speak.

    Parameters
    ----------
    messages : sequence of mappings with the keys ``role`` and ``content``
        Roles are system, user and assistant; contents are stripped.
    first : bool
        False leaves out the token that starts a text, to append a turn to a running history.

    Returns
    -------
    str
        Encode it as it is: :meth:`Tokenizer.encode` adds nothing.

    Raises
    ------
    UsageError
        If there is no message, a key is missing or a role is unknown.

    Examples
    --------
    >>> chat_prompt([{"role": "user", "content": "Hi "}])
    '<|startoftext|><|start_header_id|>user<|end_header_id|>\\n\\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n'
    """
    if not messages:
        raise UsageError("there is no message; allowed: at least one")
    turns = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise UsageError(f"message {index} has role {role!r} and content {content!r}; allowed: {', '.join(ROLES)}, and a string")
        turns.append(f"{_START}{role}{_END}\n\n{content.strip()}{_TURN}")
    return (_BOS if first else "") + "".join(turns) + f"{_START}assistant{_END}\n\n"
