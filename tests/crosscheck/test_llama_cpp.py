"""llama.cpp running the embedded model as we export it, in every type.

Where an activation lies next to a tie, the last bits of float32 decide which way it is rounded, and logits then differ by what a code is
worth. So each type is compared twice: as it comes, and with llama.cpp's own decision wherever ours is another, each of which has to be one
that float32's noise can turn. The second leaves nothing but float32's roundings, at any length.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import model
from refquant.apply.exporting import export
from refquant.apply.gguf_export import VARIANTS
from refquant.apply.gguf_llada import rotated_rows, tensor_names
from refquant.apply.gguf_model import head_name, load_gguf
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor
from refquant.layout.gguf.activations import FORM_FOR, Seen, activation_margin, seen_as
from refquant.layout.gguf.products import GgmlLinear
from tests.crosscheck.llama import FORM_BYTES, Llama, products, quantized_row
from tests.layout.tensors import peer as recorded
from tests.layout.test_gguf_products import sizes_of_terms

NOISE = 2e-6
"""What activations of the two programs may differ by, of the largest of their row: float32's roundings on the way there."""
SAME = 1e-6
"""Logits, of the largest: the same but for float32."""


@pytest.fixture
def run(peer, tmp_path):
    llama = peer("llama_cpp")

    def made(variant):
        export(model.embedded_directory(), "gguf", tmp_path / "out", variant=variant, requantize=True)
        return Llama(llama, tmp_path / "out" / "model.gguf"), tmp_path / "out"

    return made


def sequences(count, length):
    found = np.random.default_rng(5).integers(4, 1024, (count, length))
    found[:, 1::3] = 3  # masks
    return found


def off(found, theirs):
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


class Guided:
    """A linear that takes llama.cpp's decision where its own is another."""

    def __init__(self, layer, theirs):
        self.layer, self.theirs, self.moved, self.margin = layer, theirs, 0, np.inf

    def __call__(self, x):
        rows = x.reshape(self.theirs.shape)
        assert np.abs(rows - self.theirs).max() <= NOISE * np.abs(self.theirs).max()
        self.margin = activation_margin(rows, self.layer.form)
        mine, theirs = self.layer.seen(rows), self.layer.seen(self.theirs)
        seen = Seen(numbers=self._decided(mine.numbers, theirs.numbers), sums=self._decided(mine.sums, theirs.sums))
        return self.layer.product(seen).astype(x.dtype).reshape(*x.shape[:-1], -1)

    def _decided(self, mine, theirs):
        if mine is None or self.layer.form == "F32":
            return mine
        other = np.abs(mine - theirs) > 1e-5 * np.abs(theirs)  # codes are 1/127 apart at least, float16 numbers 2^-11
        self.moved += int(other.sum())
        return np.where(other, theirs, mine)


def guided(made, llama):
    """The model with llama.cpp's decisions of its last run, and the linears that take them."""
    names = {ours: f"{theirs}.weight" for theirs, ours in tensor_names(made.transformer.config).items()}
    head = head_name(made.transformer)
    layers = {**made.transformer.linears, head: made.transformer._head}
    linears = {name: Guided(layer, llama.inputs[names[name]]) for name, layer in layers.items()}
    return made.with_linears(linears), linears.values()


def test_f32(run, record):
    """float32 alone: ours in float64, with ggml's rotary angles and with exact ones."""
    llama, path = run("f32")
    made, exact = load_gguf(path), load_gguf(path, angles="plain")
    errors, without = [], []
    for tokens in (*sequences(8, 16), *sequences(4, 48), *sequences(2, 256)):
        theirs = llama.logits(tokens)
        errors.append(off(made.logits(tokens[None])[0], theirs))
        without.append(off(exact.logits(tokens[None])[0], theirs))
    assert max(errors) < SAME
    assert max(without[:8]) < SAME < max(without) < 1e-5
    note = f"8 x 16, 4 x 48, 2 x 256 positions; with exact rotary angles {max(without[:8]):.1e}, {max(without[8:12]):.1e}, "
    note += f"{max(without[12:]):.1e}"
    record("GGUF F32, model", "llama_cpp_python", "runs ours", f"{max(errors):.1e}", note)


@pytest.mark.parametrize("variant", [name for name in FORM_FOR if name != "F32" and name.lower() in VARIANTS])
def test_rounded_activations(run, record, variant):
    llama, path = run(variant.lower())
    made, plain = load_gguf(path), load_gguf(path, products="plain")
    found, moved, decisions = [], 0, 0
    for tokens in (*sequences(12, 2), *sequences(6, 6), *sequences(2, 48)):
        theirs = llama.logits(tokens)
        with_theirs, linears = guided(made, llama)
        agreed = off(with_theirs.logits(tokens[None])[0], theirs)
        moved += sum(linear.moved for linear in linears)
        decisions += sum(linear.theirs.size for linear in linears)
        alone, without = off(made.logits(tokens[None])[0], theirs), off(plain.logits(tokens[None])[0], theirs)
        found.append((agreed, alone, without, min(linear.margin for linear in linears)))
    agreed, alone, without, margins = np.array(found).T
    # ggml adds ternary codes moved to 0, 1, 2, and takes the sum of activations off at the end: float32 loses a bit more there.
    limit = 2 * SAME if variant.startswith("TQ") else SAME
    assert agreed.max() < limit
    assert (alone < limit)[margins > NOISE].all()
    assert moved < (0.01 if variant == "F16" else 1e-3) * decisions
    assert np.median(without) > 1e-4
    assert (alone < limit).sum() >= {"F16": 0, "BF16": 1}.get(variant, 9)
    note = f"with its decisions at {moved} ties of {decisions:.1e}, 20 sequences of 2, 6, 48; without them {(alone < limit).sum()} as near"
    note += f", the rest up to {alone.max():.0e}; without rounding activations {np.median(without):.0e}"
    record(f"GGUF {variant}, model", "llama_cpp_python", "runs ours", f"{agreed.max():.1e}", note)


def test_every_matrix_is_multiplied_as_by_ggml(run):
    """The same input as llama.cpp's, the same output: also where several rows go through code of their own."""
    for variant in ("q4_0", "q4_1", "q4_k", "q6_k", "iq4_nl", "iq3_s", "f16"):
        llama, path = run(variant)
        made = load_gguf(path)
        llama.logits(sequences(1, 13)[0])
        for theirs, ours in tensor_names(made.transformer.config).items():
            if ours not in made.transformer.linears:
                continue
            order = rotated_rows(theirs, made.transformer.config)
            found = made.transformer.linears[ours](llama.inputs[f"{theirs}.weight"])
            assert off(found if order is None else found[:, order], llama.outputs[f"{theirs}.weight"]) < SAME, (variant, theirs)
        shutil.rmtree(path)


@pytest.mark.parametrize("form", FORM_BYTES)
def test_activations_are_rounded_as_by_ggml(peer, record, form):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((400, 256)) * np.exp2(rng.integers(-20, 10, (400, 1)))
    x[:200] = np.rint(x[:200] * 2) / 2
    x[200:220] *= rng.random((20, 256)) < 0.1
    x = x.astype(np.float32)
    rows = quantized_row(peer("llama_cpp"), form, x).reshape(-1, FORM_BYTES[form])
    codes = (rows[:, 4:260] if form == "Q8_K" else rows[:, -32:]).view(np.int8)
    scale = rows[:, :4].copy().view("<f4")[:, 0] if form == "Q8_K" else rows[:, :2].copy().view("<f2")[:, 0]
    found = seen_as(x, form)
    assert np.array_equal(found.numbers, (codes * scale.astype(float)[:, None]).reshape(x.shape))
    if form == "Q8_1":
        assert np.array_equal(found.sums, rows[:, 2:4].copy().view("<f2").astype(float).reshape(len(x), -1))
    record(f"GGUF activations, {form}", "llama_cpp_python", "computes as we do", "equal", f"{len(x)} rows of 256")


def test_recorded_products_are_this_programs(peer):
    data = {**recorded("ggml_products"), **recorded("ggml_products_of_tables")}
    for kind in [name.removesuffix(".product") for name in data if name.endswith(".product")]:
        block = BLOCK_TYPES[kind]
        weight = data[f"{kind}.weight"]
        again = products(peer("llama_cpp"), kind, FORM_FOR[kind], weight, data["input"])
        held = GgufTensor(kind=block, blocks=weight.reshape(-1, block.nbytes), shape=(len(weight), 256))
        sizes = sizes_of_terms(held, GgmlLinear(held).seen(data["input"]))
        assert (np.abs(again - data[f"{kind}.product"]) <= 8 * 2.0**-24 * sizes + 1e-37).all()


def test_text_is_split_as_the_tokenizer_does(run, record):
    llama, _ = run("f32")
    lines = (model.embedded_directory() / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = model.Tokenizer.from_directory(model.embedded_directory())
    texts = [text for line in lines[:200] for text in json.loads(line).values() if isinstance(text, str)]
    texts += ["1234 and 5.6", "  two  spaces\n\nlines\t", "ünïcödé — dash", "it's 7am"]
    assert len(texts) > 100
    for text in texts:
        assert llama.tokens(text) == tokenizer.encode(text), text
    record("GGUF vocabulary", "llama_cpp_python", "runs ours", "equal", f"{len(texts)} texts split the same")
