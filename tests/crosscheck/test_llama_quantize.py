"""Files that llama.cpp quantized, with the mixtures of types that it chooses, as our folders and back: every tensor's bytes again."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import model
from refquant.apply.checkpoint import load
from refquant.apply.exporting import export
from refquant.apply.gguf_model import load_gguf
from refquant.apply.importing import import_folder
from refquant.layout.gguf import read_gguf

TOKENS = np.array([[5, 3, 900, 17, 3, 3, 60]])
# llama.cpp's numbers of its file types; M and S are mixtures.
FILES = {
    **{"F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_S": 14},
    **{"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "TQ1_0": 36, "TQ2_0": 37},
}


def quantized(llama, source, target, number):
    settings = llama.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = number, 1
    assert llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)) == 0


@pytest.fixture
def llama(peer):
    found = peer("llama_cpp")
    quiet = found.llama_log_callback(lambda level, text, user: None)
    found.llama_log_set(quiet, ctypes.c_void_p(0))
    yield found
    found.llama_log_set(found.llama_log_callback(0), ctypes.c_void_p(0))


def test_files_that_llama_cpp_quantized_come_back(llama, record, tmp_path):
    export(model.embedded_directory(), "gguf", tmp_path / "f32", variant="f32")
    kinds = set()
    for name, number in FILES.items():
        path = tmp_path / f"{name}.gguf"
        quantized(llama, tmp_path / "f32" / "model.gguf", path, number)
        import_folder(path, tmp_path / name)
        export(tmp_path / name, "gguf", tmp_path / f"{name} again")
        theirs, ours = read_gguf(path), read_gguf(tmp_path / f"{name} again" / "model.gguf")
        assert set(theirs.tensors) == set(ours.tensors)
        for tensor in theirs.tensors:
            assert ours.read(tensor).digest() == theirs.read(tensor).digest()
        wanted = load_gguf(path, products="plain", angles="plain").logits(TOKENS)
        assert np.array_equal(load(tmp_path / name, "float64").logits(TOKENS), wanted)
        kinds |= {place.kind.name for place in theirs.tensors.values()}
    mixed = f"{len(FILES)} file types of llama_model_quantize, {len(kinds)} types of tensors: imported, run, exported"
    record("GGUF file", "llama_cpp_python", "writes, we read", "equal", mixed)
