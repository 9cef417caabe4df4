"""ggml's products: logits of a tiny LLaDA as llama.cpp computed them, and how far one is off that forgets the activations."""

from __future__ import annotations

import numpy as np
import pytest

import model
from model import Config
from refquant.apply.gguf_llada import rotated_rows, tensor_names, unrotated, with_rows
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import quantize
from refquant.layout.gguf.products import GgmlLinear, quantized_activations
from tests.layout.tensors import peer

RECORDED = peer("llada_gguf")
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
    head = linears.pop("model.transformer.ff_out", None)
    made = model.build(CONFIG, tensors, "float64", linears=linears if activations else {})
    seen = {}
    found = made.logits(RECORDED["tokens"][None].astype(np.int64), observer=seen.__setitem__)
    return (head(seen["head.input"]) if head is not None and activations else found)[0]


def off(found, kind):
    wanted = RECORDED[f"logits.{kind}"].astype(np.float64)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_f32():
    assert off(logits("f32", False), "f32") < 2e-7


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "mxfp4"])
def test_quantized_types_need_ggmls_activations(kind):
    assert off(logits(kind, True), kind) < 1e-7
    assert 4e-3 < off(logits(kind, False), kind) < 6e-3


def test_f16_needs_activations_in_f16():
    # A number that lies next to a middle may go the other way; then one activation differs by one part in 2048.
    assert off(logits("f16", True), "f16") < 2e-5
    assert off(logits("f16", False), "f16") > 1e-4


def test_activations_by_hand():
    x = np.zeros((1, 32))
    x[0, :4] = 254, 1, 3, -5  # halves of a step of 2: ties
    assert quantized_activations(x)[0, :4].tolist() == [254, 0, 4, -4]
    assert quantized_activations(x, "away")[0, :4].tolist() == [254, 2, 4, -6]
    assert not quantized_activations(np.zeros((2, 64))).any()


def test_the_scale_is_rounded_to_float16_and_the_codes_are_not():
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 1
    assert quantized_activations(x)[0, 0] == 127 * float(np.float16(np.float32(1) / np.float32(127)))


def test_refusals():
    with pytest.raises(UsageError, match="products with Q4_K are not here"):
        GgmlLinear(quantize(np.ones((1, 256), np.float32), "q4_k"))
    with pytest.raises(UsageError, match=r"allowed: \[out, in\]"):
        GgmlLinear(quantize(np.ones(32, np.float32), "q8_0"))
    with pytest.raises(UsageError, match="'up'"):
        quantized_activations(np.ones(32), "up")
    with pytest.raises(InputError, match="do not divide into blocks of 32"):
        quantized_activations(np.ones(31))
    with pytest.raises(InputError, match="not finite"):
        quantized_activations(np.full(32, np.nan))
