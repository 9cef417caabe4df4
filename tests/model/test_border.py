"""What comes from outside and cannot be used: one clear line, of the right class."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import model
from model.likelihood import masked_copies
from refquant.errors import InputError, NumericalError, UsageError
from tests.model.golden import FOLDER, RICH, loaded

BAD_IDS = {
    "negative": ([[1, -1]], r"input_ids\[0, 1\] is -1; allowed: 0 to 257"),
    "beyond": ([[1, 2], [258, 0]], r"input_ids\[1, 0\] is 258; allowed: 0 to 257"),
    "one axis": ([1, 2], r"input_ids has shape \(2,\); allowed: 2 axes, \[batch, length\]"),
    "three axes": (np.zeros((1, 2, 3), int), r"shape \(1, 2, 3\)"),
    "floats": ([[1.0, 2.0]], "input_ids has dtype float64; allowed: integers"),
    "bools": ([[True]], "dtype bool; allowed: integers"),
    "no token": (np.zeros((1, 0), int), r"shape \(1, 0\); allowed: at least one token"),
    "no row": (np.zeros((0, 3), int), r"shape \(0, 3\); allowed: at least one token"),
    "text": ([["a"]], "dtype <U1; allowed: integers"),
}


@pytest.mark.parametrize(("ids", "message"), BAD_IDS.values(), ids=BAD_IDS)
def test_ids(ids, message):
    with pytest.raises(InputError, match=message):
        loaded(RICH, "float32").logits(ids)


BAD_MASKS = {
    "two": ([[1, 2]], r"attention_mask\[0, 1\] is 2; allowed: 0 or 1"),
    "half": ([[0.5, 1]], r"attention_mask\[0, 0\] is 0.5; allowed: 0 or 1"),
    "nan": ([[np.nan, 1]], r"attention_mask\[0, 0\] is nan"),
    "shape": ([[1, 1, 1]], r"shape \(1, 3\); allowed: \(1, 2\)"),
    "text": ([["1", "0"]], "dtype <U1"),
}


@pytest.mark.parametrize(("mask", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_masks(mask, message):
    with pytest.raises(InputError, match=message):
        loaded(RICH, "float32").logits([[1, 2]], mask)


def test_unsigned_and_narrow_ids_are_fine():
    m = loaded(RICH, "float32")
    for dtype in (np.uint8, np.int16, np.uint64):
        np.testing.assert_array_equal(m.logits(np.array([[1, 200]], dtype)), m.logits([[1, 200]]))


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FOLDER / "bias_everywhere_f32", tmp_path / "m")
    return tmp_path / "m"


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


V = "model.transformer.blocks.1.v_proj.weight"


def put(name, value):
    return lambda tensors: tensors.update({name: value(tensors.get(name))})


def poisoned(array):
    array = array.copy()
    array[3, 5] = np.nan
    return array


DAMAGE = {
    "missing": (lambda t: t.pop(V), f"1 of the 41 tensors that the config asks for are missing: {V}"),
    "many missing": (lambda t: [t.pop(name) for name in list(t)[:5]], "5 of the 41 tensors .*, \\.\\.\\."),
    "unexpected": (
        put("extra.weight", lambda _: np.zeros(2, np.float32)),
        "1 unexpected in a model of this config: extra.weight",
    ),
    "shape": (
        put(V, lambda a: np.ascontiguousarray(a.T)),
        rf"{V} has shape \(48, 24\); the config asks for \(24, 48\)",
    ),
    "nan": (put(V, poisoned), rf"{V}\[3, 5\] is nan; allowed: finite numbers"),
    "inf": (put("model.transformer.ln_f.bias", lambda a: a + np.float32(np.inf)), r"ln_f.bias\[0\] is inf"),
    "integers": (
        put(V, lambda a: a.astype(np.int8)),
        f"{V} is stored as int8; allowed for float32: float32, float16, bfloat16",
    ),
    "float64": (put(V, lambda a: a.astype(np.float64)), f"{V} is stored as float64; allowed for float32"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_tensors(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        model.load(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_float64_weights_load_as_float64(folder):
    rewrite(folder, put(V, lambda a: a.astype(np.float64) + 1e-12))
    assert model.load(folder, "float64").parameters[V][0, 0] != np.float32(model.load(folder, "float64").parameters[V][0, 0])


def test_rotary_buffers_of_other_tools_are_ignored(folder):
    before = model.load(folder).logits([[1, 2]])
    rewrite(folder, put("model.transformer.blocks.0.rotary_emb.inv_freq", lambda _: np.zeros(6, np.float32)))
    np.testing.assert_array_equal(model.load(folder).logits([[1, 2]]), before)


def test_a_head_beside_a_tied_embedding(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weight_tying": True}))
    with pytest.raises(InputError, match=r"ff_out.bias, model.transformer.ff_out.weight; weight_tying is true"):
        model.load(folder)


def test_files(folder):
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError):
        model.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError):
        model.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError):
        model.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError):
        model.load(folder)
    with pytest.raises(InputError):
        model.load(folder / "nowhere")


def test_a_refused_config_names_its_file(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_type": "parallel"}))
    with pytest.raises(InputError, match=r"m/config.json: block_type is 'parallel'; allowed: llama, sequential"):
        model.load(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", ""])
def test_dtypes_of_arithmetic(dtype):
    with pytest.raises(UsageError, match="allowed: float32, float64"):
        model.load(FOLDER / RICH, dtype)


SETTINGS = {
    "blocks": ({"gen_length": 8, "block_length": 3}, "block_length is 3; allowed: a divisor of gen_length 8"),
    "steps": ({"gen_length": 8, "block_length": 2, "steps": 6}, "steps is 6; allowed: a multiple of the 4 blocks"),
    "no length": ({"gen_length": 0}, "gen_length is 0; allowed: an integer of at least 1"),
    "float steps": ({"steps": 8.0}, "steps is 8.0; allowed: an integer of at least 1"),
    "negative block": ({"block_length": -1}, "block_length is -1"),
    "temperature": ({"temperature": -0.5}, "temperature is -0.5; allowed: a finite number of at least 0"),
    "temperature nan": ({"temperature": float("nan")}, "temperature is nan"),
    "guidance": ({"cfg_scale": float("inf")}, "cfg_scale is inf"),
    "remasking": ({"remasking": "high"}, "remasking is 'high'; allowed: low_confidence, random"),
    "no rng": ({"temperature": 0.5}, "rng is None with temperature 0.5"),
    "no rng for random": ({"remasking": "random"}, "rng is None with remasking 'random'"),
    "no eot": ({"confidence_eos_eot_inf": True}, "eot_id is None; allowed: a token id, 0 to 257"),
    "eos": ({"logits_eos_inf": True, "eos_id": 258}, "eos_id is 258; allowed: a token id, 0 to 257"),
}


@pytest.mark.parametrize(("given", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_the_sampler(given, message):
    usual = {"gen_length": 8, "block_length": 8, "steps": 8}
    with pytest.raises(UsageError, match=message):
        model.denoise(loaded(RICH, "float32"), [[1]], **{**usual, **given})  # at the call, not at the first step
    with pytest.raises(UsageError, match=message):
        model.generate(loaded(RICH, "float32"), [[1]], **{**usual, **given})


def test_prompts():
    m = loaded(RICH, "float32")
    with pytest.raises(InputError, match=r"prompt_ids\[0, 0\] is 999"):
        model.generate(m, [[999]], gen_length=4, block_length=4, steps=4)
    with pytest.raises(InputError, match=r"attention_mask has shape \(1, 2\); allowed: \(1, 1\)"):
        model.generate(m, [[1]], attention_mask=[[1, 1]], gen_length=4, block_length=4, steps=4)
    with pytest.raises(InputError, match="prompt_ids has shape"):
        model.generate(m, [1], gen_length=4, block_length=4, steps=4)
    assert model.generate(m, np.zeros((2, 0), int), gen_length=4, block_length=4, steps=4).shape == (2, 4)


def test_a_model_without_a_mask_id():
    config = model.Config.from_dict({**json.loads((FOLDER / RICH / "config.json").read_text()), "mask_token_id": None})
    m = model.build(config, loaded(RICH, "float32").parameters)
    with pytest.raises(UsageError, match="the config's mask_token_id is None; allowed: a token id, 0 to 257"):
        model.generate(m, [[1]], gen_length=4, block_length=4, steps=4)


def test_logits_that_are_not_finite_stop_the_sampler():
    m = loaded(RICH, "float32")
    name = m.linear_groups(0)[3][0]
    broken = m.replace({name: lambda x: np.full((*x.shape[:-1], 64), np.nan, np.float32)})
    with pytest.raises(NumericalError, match="step 0: the logits are not finite"):
        model.generate(broken, [[1]], gen_length=4, block_length=4, steps=4)


def test_likelihood():
    m, rng = loaded(RICH, "float32"), np.random.default_rng(0)
    with pytest.raises(UsageError, match="mc_num is 10; allowed: a multiple of batch_size 4"):
        model.nll_bound(m, [1], [2], mc_num=10, batch_size=4, rng=rng)
    with pytest.raises(UsageError, match="mc_num is 0"):
        model.nll_bound(m, [1], [2], mc_num=0, rng=rng)
    with pytest.raises(UsageError, match="cfg_scale is -1"):
        model.nll_bound(m, [1], [2], cfg_scale=-1, rng=rng)
    with pytest.raises(InputError, match=r"answer has shape \(0,\); allowed: at least one token"):
        model.nll_bound(m, [1], [], rng=rng)
    with pytest.raises(InputError, match=r"prompt\[0\] is 300"):
        masked_copies(m, [300], [1], mc_num=1, batch_size=1, rng=rng)
    with pytest.raises(InputError, match=r"answer has shape \(1, 1\)"):
        model.nll_bound(m, [1], [[1]], rng=rng)
