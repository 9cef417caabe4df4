"""ggml's products: logits of a tiny LLaDA as llama.cpp computed them, and how far one is off that forgets the activations."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import model
from model import Config
from refquant.apply.gguf_llada import metadata, rotated_rows, tensor_names, unrotated, with_rows
from refquant.apply.gguf_model import GgufModel, ggml_angles, load_gguf
from refquant.errors import InputError, NumericalError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, write_gguf
from refquant.layout.gguf.activations import activation_margin, seen_as
from refquant.layout.gguf.products import GgmlLinear
from tests.layout.tensors import peer

RECORDED = peer("llada_gguf")
PRODUCTS = {**peer("ggml_products"), **peer("ggml_products_of_tables")}
CONFIG = Config(
    d_model=64,
    n_heads=4,
    n_layers=2,
    mlp_hidden_size=96,
    vocab_size=48,
    embedding_size=48,
    max_sequence_length=64,
    rope=True,
    rope_theta=500000.0,
    layer_norm_type="rms",
    activation_type="silu",
    block_type="llama",
    weight_tying=False,
    mask_token_id=1,
    eos_token_id=0,
    pad_token_id=0,
)


def logits(kind, activations):
    """Of our model, float64 outside the linears, its blocks' matrices and head as `kind`, with ggml's activations or without."""
    tensors, linears = {}, {}
    for theirs, ours in tensor_names(CONFIG).items():
        array, order = RECORDED[f"w.{theirs}.weight"], rotated_rows(theirs, CONFIG)
        if array.ndim == 2 and theirs != "token_embd" and kind != "f32":
            held = quantize(array, kind)
            array = held.dequantize()
            linears[ours] = GgmlLinear(with_rows(held, None if order is None else np.argsort(order)))
        tensors[f"{ours}.weight"] = unrotated(array, order)
    made = GgufModel(transformer=model.build(CONFIG, tensors, "float64"))
    made = made.with_linears(linears) if activations else made
    return made.logits(RECORDED["tokens"][None].astype(np.int64))[0]


def off(found, kind):
    wanted = RECORDED[f"logits.{kind}"].astype(np.float64)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_f32():
    assert off(logits("f32", False), "f32") < 2e-7


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "mxfp4"])
def test_quantized_types_need_ggmls_activations(kind):
    assert off(logits(kind, True), kind) < 2e-7
    assert 4e-3 < off(logits(kind, False), kind) < 6e-3


def test_f16_needs_activations_in_f16():
    # A number that lies next to a middle may go the other way; then one activation differs by one part in 2048.
    assert off(logits("f16", True), "f16") < 2e-5
    assert off(logits("f16", False), "f16") > 1e-4


@pytest.mark.parametrize("kind", [name.removeprefix("logits.") for name in RECORDED if name.startswith("logits.")])
def test_files_of_every_recorded_type(kind, tmp_path):
    """The way a user goes: a file of the recorded weights, loaded, with ggml's activations and angles."""
    tensors = {}
    for name, array in RECORDED.items():
        if name.startswith("w."):
            block = "f32" if array.ndim == 1 or name == "w.token_embd.weight" else kind
            tensors[name.removeprefix("w.")] = quantize(array, block)
    write_gguf(tmp_path / "model.gguf", metadata(CONFIG, {}, 0)[0], tensors)
    tokens = RECORDED["tokens"][None].astype(np.int64)
    assert off(load_gguf(tmp_path).logits(tokens)[0], kind) < {"f16": 2e-5}.get(kind, 2e-7)
    if kind != "f32":
        assert off(load_gguf(tmp_path, products="plain").logits(tokens)[0], kind) > 1e-4


FORMS = ("Q8_0", "Q8_1", "Q8_K")


def packed(form):
    """Scale, sums and codes as ggml's rows have them, out of bytes."""
    rows = PRODUCTS[form].reshape(-1, {"Q8_0": 34, "Q8_1": 36, "Q8_K": 292}[form])
    if form == "Q8_K":
        return rows[:, :4].copy().view("<f4")[:, 0], None, rows[:, 4:260].view(np.int8)
    sums = rows[:, 2:4].copy().view("<f2")[:, 0] if form == "Q8_1" else None
    return rows[:, :2].copy().view("<f2")[:, 0], sums, rows[:, -32:].view(np.int8)


@pytest.mark.parametrize("form", FORMS)
def test_activations_are_ggmls(form):
    found = seen_as(PRODUCTS["input"], form)
    scale, sums, codes = packed(form)
    wanted = codes * scale.astype(np.float64)[:, None]
    assert np.array_equal(found.numbers, wanted.reshape(found.numbers.shape))
    if sums is not None:
        assert np.array_equal(found.sums, sums.astype(np.float64).reshape(found.sums.shape))
    else:
        assert found.sums is None


def sizes_of_terms(weight, seen):
    """What float32 sums are off by a few roundings of: the terms' magnitudes, where ggml's code has signed codes moved to 0 and up."""
    if weight.kind.name.startswith(("IQ", "NV")):  # codes are multiplied as they are; IQ1's eighths apart from the points
        return np.abs(seen.numbers) @ np.abs(weight.dequantize(np.dtype(np.float64))).T
    fields, x = weight.fields(), np.abs(seen.numbers).reshape(len(seen.numbers), -1)
    rows, top = weight.shape[0], int(np.abs(fields.codes.astype(int)).max()) * (2 if fields.codes.dtype == np.int8 else 1)
    scale = 2.0 ** (fields.d.astype(float) - 128)[:, None] if weight.kind.name == "MXFP4" else np.abs(fields.d.astype(float))[:, None]
    if fields.scales is not None:
        scale = scale * np.abs(fields.scales.astype(float))
    sizes = x @ np.repeat(scale.reshape(rows, -1) * top, 256 * rows // scale.size, axis=1).T
    if fields.mins is not None:
        lows = fields.m.astype(float)[:, None] * fields.mins
        sizes += x @ np.repeat(np.abs(lows).reshape(rows, -1), 256 * rows // lows.size, axis=1).T
    elif fields.m is not None:
        sizes += np.abs(seen.sums) @ np.abs(fields.m.astype(float)).reshape(rows, -1).T
    return sizes


@pytest.mark.parametrize("kind", [name.removesuffix(".product") for name in PRODUCTS if name.endswith(".product")])
def test_products_are_ggmls(kind):
    rows, x = PRODUCTS[f"{kind}.weight"], PRODUCTS["input"]
    weight = GgufTensor(kind=BLOCK_TYPES[kind], blocks=rows.reshape(-1, BLOCK_TYPES[kind].nbytes), shape=(len(rows), 256))
    layer = GgmlLinear(weight)
    sizes = sizes_of_terms(weight, layer.seen(x))
    assert (np.abs(layer(x) - PRODUCTS[f"{kind}.product"]) <= 8 * 2.0**-24 * sizes + 1e-37).all()
    plain = x.astype(float) @ weight.dequantize(np.dtype(np.float64)).T
    assert (np.abs(plain - PRODUCTS[f"{kind}.product"]) > 64 * 2.0**-24 * sizes).any()


def test_results_are_float32_numbers_in_the_inputs_dtype():
    layer = GgmlLinear(quantize(np.full((1, 32), 0.1), "q8_0"))
    found = layer(np.full((2, 1, 32), 1 / 3))
    assert found.dtype == np.float64  # what comes next is computed in it
    assert found.shape == (2, 1, 1)
    assert np.array_equal(found, found.astype(np.float32))
    assert layer(np.ones((1, 32), np.float32)).dtype == np.float32


def test_q8_1_rounds_the_sum_and_not_its_terms():
    x = np.full((1, 32), 1.0, np.float32)
    found = seen_as(x, "Q8_1")
    step = np.float32(1) / np.float32(127)
    assert found.sums[0, 0] == np.float16(step * np.float32(127 * 32))
    assert found.sums[0, 0] != found.numbers.sum()


def test_q8_k_takes_the_first_of_the_largest():
    x = np.zeros((2, 256), np.float32)
    x[0, [3, 5]] = -2, 2
    x[1, [3, 5]] = 2, -2
    one = 127 * float(np.float32(1) / (np.float32(127) / np.float32(2)))
    assert seen_as(x, "Q8_K").numbers[:, [3, 5]].tolist() == [[-one, one], [one, -one]]


def test_blocks_of_zeros_and_of_next_to_nothing():
    for form, size in (("Q8_0", 32), ("Q8_1", 32), ("Q8_K", 256)):
        for value in (0.0, 1e-38, 1e-44):
            found = seen_as(np.full((1, size), value), form)
            assert not found.numbers.any()
            assert found.sums is None or not found.sums.any()


def test_activations_by_hand():
    x = np.zeros((1, 32))
    x[0, :4] = 254, 1, 3, -5  # halves of a step of 2: ties
    assert seen_as(x, "Q8_0").numbers[0, :4].tolist() == [254, 0, 4, -4]
    assert seen_as(x, "Q8_0", "away").numbers[0, :4].tolist() == [254, 2, 4, -6]
    assert not seen_as(np.zeros((2, 64)), "Q8_0").numbers.any()


def test_the_scale_is_rounded_to_float16_and_the_codes_are_not():
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 1
    assert seen_as(x, "Q8_0").numbers[0, 0] == 127 * float(np.float16(np.float32(1) / np.float32(127)))


@pytest.mark.parametrize(("form", "dtype"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_margins_of_sixteen_bit_floats(form, dtype):
    for start in (0.75, 1.0, 3.0, 100.0, -0.01, 1e-6):
        below = np.array(start).astype(dtype)
        above = float(np.nextafter(below, dtype(np.inf)))
        for share, distance in ((0.5, 0.0), (0.25, 0.25), (0.6, 0.1)):
            x = np.array([200.0, float(below) + share * (above - float(below))])
            assert activation_margin(x, form) == pytest.approx(distance * (above - float(below)) / 200, rel=1e-3, abs=1e-15)
    assert activation_margin(x, "F32") == np.inf


def test_ggmls_angles_against_fractions():
    # One multiplication after the other, each rounded to float32 out of exact products.
    factor, angle = np.float32(10000.0 ** float(np.float32(-2 / 8))), Fraction(5)
    found = ggml_angles(6, 8, 10000.0)
    for pair in range(4):
        assert Fraction(float(found[5, pair])) == angle
        angle = Fraction(float(np.float32(float(angle * Fraction(float(factor))))))


def test_refusals():
    with pytest.raises(UsageError, match=r"allowed: \[out, in\]"):
        GgmlLinear(quantize(np.ones(32, np.float32), "q8_0"))
    with pytest.raises(UsageError, match="'up'"):
        seen_as(np.ones((1, 32)), "Q8_0", "up")
    with pytest.raises(UsageError, match="not 'Q4_0'"):
        seen_as(np.ones((1, 32)), "Q4_0")
    with pytest.raises(InputError, match="do not divide into blocks of 256"):
        seen_as(np.ones((1, 32)), "Q8_K")
    with pytest.raises(InputError, match="not finite"):
        seen_as(np.full((1, 32), np.nan), "Q8_0")
    with pytest.raises(NumericalError, match="65504"):
        seen_as(np.full((1, 32), 1e8), "Q8_1")
    with pytest.raises(NumericalError, match="largest float16 number"):
        seen_as(np.full((1, 32), 1e8), "F16")
