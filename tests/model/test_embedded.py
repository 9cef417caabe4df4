"""The model that comes with the package: what torch computes with it, and what it can do."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import model

DATA = Path(__file__).parent.parent / "data" / "tiny"
FOLDER = model.embedded_directory()
REFERENCE = np.load(DATA / "reference.npz")
DECODED = json.loads((DATA / "reference_gen.json").read_text())


@pytest.fixture(scope="module")
def m():
    return model.embedded()


def test_logits_are_those_of_torch(m):
    found = m.logits(REFERENCE["ids"])
    assert np.abs(found - REFERENCE["logits"]).max() < 1e-5 * np.abs(REFERENCE["logits"]).max()


def test_block_outputs_are_those_of_torch(m):
    keep = model.Keep()
    m.logits(REFERENCE["ids"], observer=keep)
    for index, wanted in enumerate(REFERENCE["layer_out"][:-1]):
        found = keep.last(f"blocks.{index + 1}.input")[0]
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("case", DECODED, ids=[f"{i}-{case['task']}" for i, case in enumerate(DECODED)])
def test_greedy_decodes_are_those_of_torch(m, case):
    given = {key: case[key] for key in ("gen_length", "steps", "block_length")}
    out = model.generate(m, [case["prompt_ids"]], **given)
    assert out[0, len(case["prompt_ids"]) :].tolist() == case["output_ids"]


def test_it_solves_held_out_tasks(m):
    tokenizer = model.Tokenizer.from_directory(FOLDER)
    rows = [json.loads(line) for line in (FOLDER / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    for task in ("add", "sub", "sort", "reverse"):
        by_length = {}
        for row in [row for row in rows if row["task"] == task][:12]:
            prompt = [tokenizer.bos_id, *tokenizer.encode(row["prompt"])]
            by_length.setdefault(len(prompt), []).append((prompt, row["response"]))
        right = 0
        for length, items in by_length.items():
            out = model.generate(m, [prompt for prompt, _ in items], gen_length=12, block_length=12, steps=12)
            texts = [tokenizer.decode(ids).split("<|endoftext|>")[0] for ids in out[:, length:]]
            right += sum(text == response for text, (_, response) in zip(texts, items, strict=True))
        assert right >= 11, task


def test_held_out_text_is_likelier_than_shuffled_text(m):
    rows = [json.loads(line) for line in (FOLDER / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    ids = np.array(rows[0]["ids"][:32])
    shuffled = np.random.default_rng(0).permutation(ids)
    real, noise = (model.nll_bound(m, [], text, mc_num=16, batch_size=16, rng=np.random.default_rng(1)) for text in (ids, shuffled))
    assert real < 0.8 * noise


def test_readme_lists_every_file_and_its_digest():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([^`]+)` .*\| `([0-9a-f]{64})` \|$", text, flags=re.MULTILINE))
    here = {path.name for path in FOLDER.iterdir() if path.name != "README.md" and not path.name.startswith("__")}
    assert set(listed) == here
    for name, digest in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_it_is_found_from_anywhere(tmp_path):
    root = Path(model.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import model; print(model.embedded())"
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Transformer(4 blocks, width 256, 3,934,464 parameters, float32)"


def test_weights_are_bfloat16_numbers(m):
    for name, array in m.parameters.items():
        low_bits = np.ascontiguousarray(array).view(np.uint32) & 0xFFFF
        assert not low_bits.any(), name
