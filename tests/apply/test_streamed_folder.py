"""A quantized folder, streamed: the same bytes as in memory, without the memory; what it cannot do is told."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

import model
from refquant.apply.checkpoint import load
from refquant.apply.recipe import find_recipe
from refquant.apply.run import open_workbench, save_run
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, ORDERED
from tests.apply.tiny import write_folder

SMALL = {"samples": 2, "prompts": 2, "gen_length": 8, "block_length": 4, "states": "iid", "min_expert_tokens": 1}
IDS = np.arange(24).reshape(2, 12) % 39


def made(folder, name, arithmetic=FAST, **config):
    """A tiny model quantized by a recipe, with groups that fit it."""
    source = write_folder(folder / "source", **config)
    rng = np.random.default_rng(0)
    (source / "calib.jsonl").write_text("".join(json.dumps({"ids": rng.integers(4, 39, 24).tolist()}) + "\n" for _ in range(3)))
    plan = find_recipe(name)
    changes = {"group_size": 8} if plan.weights.group_size else {}
    plan = plan.replace(weights=changes, calibration=SMALL if plan.needs_calibration else {})
    bench = open_workbench(source, model.load(source, arithmetic=arithmetic), source / "calib.jsonl", 0)
    save_run(folder / "out", bench, bench.quantize(plan))
    return folder / "out"


@pytest.mark.parametrize("name", ["rtn-w4a16", "gptq-w4a4", "dllmquant-w4a4", "w8a8", "quant-dllm-w2", "tac-gptq-w4a4"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bytes_are_those_of_the_folder_in_memory(tmp_path, name, dtype):
    out = made(tmp_path, name)
    whole, streamed = load(out, dtype), load(out, dtype, stream=True)
    assert "streamed" in repr(streamed)
    assert streamed.logits(IDS).tobytes() == whole.logits(IDS).tobytes()
    assert streamed.logits(IDS).tobytes() != load(tmp_path / "source", dtype).logits(IDS).tobytes()


def test_it_holds_in_the_ordered_lane(tmp_path):
    out = made(tmp_path, "dllmquant-w4a4", ORDERED)
    assert load(out, arithmetic=ORDERED, stream=True).logits(IDS).tobytes() == load(out, arithmetic=ORDERED).logits(IDS).tobytes()


def test_a_checkpoint_in_full_precision_streams_too(tmp_path):
    source = write_folder(tmp_path / "source")
    assert load(source, stream=True).logits(IDS).tobytes() == load(source).logits(IDS).tobytes()


def test_codes_are_not_held(tmp_path):
    out = made(tmp_path, "gptq-w4a4", d_model=64, mlp_hidden_size=256, n_layers=8)
    peaks = {}
    for stream in (False, True):
        tracemalloc.start()
        load(out, stream=stream).logits(IDS)
        peaks[stream] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[True] < 0.5 * peaks[False]


def test_what_is_damaged_is_told_at_the_start_and_at_every_use(tmp_path):
    out = made(tmp_path, "gptq-w4a4")
    streamed = load(out, stream=True)
    file = out / "model.safetensors"
    raw = bytearray(file.read_bytes())
    start = raw.index(b'"model.transformer.blocks.0.q_proj.codes"')
    entry = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])[raw[start + 1 : raw.index(b'"', start + 1)].decode()]
    raw[8 + int.from_bytes(raw[:8], "little") + entry["data_offsets"][0]] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InputError, match="q_proj is damaged"):
        load(out, stream=True)
    with pytest.raises(InputError, match="q_proj is damaged"):
        streamed.logits(IDS)


def test_what_cannot_be_streamed_is_refused(tmp_path):
    for name in ("integer", "smooth"):
        (tmp_path / name).mkdir()
    out = made(tmp_path / "integer", "w8a8")
    with pytest.raises(UsageError, match="integer arithmetic keeps every linear's codes at hand"):
        load(out, stream=True, linears="integer")
    out = made(tmp_path / "smooth", "smoothquant-w8a8")
    with pytest.raises(UsageError, match=r"is of a rewritten model \(smoothquant\); a streamed model cannot be"):
        load(out, stream=True)
