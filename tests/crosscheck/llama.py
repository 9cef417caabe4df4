"""llama.cpp through llama-cpp-python: logits of every position, what each matrix was multiplied with, and single functions of ggml's C."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np


class Tensor(ctypes.Structure):
    """ggml's ``struct ggml_tensor`` as far as its name."""


POINTER = ctypes.POINTER(Tensor)
Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", POINTER * 10),
    ("view_src", POINTER),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def held(tensor):
    """A float32 matrix of ggml's, copied."""
    rows, columns = tensor.ne[1], tensor.ne[0]
    assert tensor.type == 0
    assert (tensor.ne[2], tensor.ne[3], tensor.nb[0], tensor.nb[1]) == (1, 1, 4, 4 * columns)
    return np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_float)), (rows, columns)).copy()


class Llama:
    """A file as llama.cpp runs it, one thread, attention in float32.

    After :meth:`logits`, `inputs` and `outputs` hold what went into each product with a matrix of the file and what came out, by the
    matrix's name.
    """

    def __init__(self, llama, path):
        self.llama, self.inputs, self.outputs = llama, {}, {}
        self.quiet = llama.llama_log_callback(lambda level, text, user: None)
        self.watch = llama.ggml_backend_sched_eval_callback(self._watch)
        llama.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        assert self.model
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
        settings.n_threads = settings.n_threads_batch = 1
        settings.flash_attn_type = 0  # it would round keys and values to float16
        settings.cb_eval = self.watch
        self.context = llama.llama_init_from_model(self.model, settings)

    def _watch(self, pointer, ask, user):
        node = ctypes.cast(pointer, POINTER).contents
        name = node.src[0].contents.name.decode() if node.src[0] else ""
        if not name.endswith(".weight") or not node.src[1] or "norm" in name or name == "token_embd.weight":
            return False
        if not ask:
            self.inputs[name], self.outputs[name] = held(node.src[1].contents), held(node)
        return True

    def logits(self, tokens):
        batch = self.llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.llama.llama_decode(self.context, batch) == 0
        self.llama.llama_batch_free(batch)
        shape = (len(tokens), self.llama.llama_vocab_n_tokens(self.vocabulary))
        return np.ctypeslib.as_array(self.llama.llama_get_logits(self.context), shape).copy()

    def tokens(self, text):
        raw, room = text.encode(), (ctypes.c_int32 * 4096)()
        count = self.llama.llama_tokenize(self.vocabulary, raw, len(raw), room, 4096, False, False)
        return list(room[:count])


def library(llama, name):
    return ctypes.CDLL(str(Path(llama.__file__).parent / "lib" / name))


def processor_function(llama, name):
    found = library(llama, "libggml-cpu.so")
    found.ggml_cpu_init()  # fills tables, of float16 where the processor's own conversion is not compiled in
    return getattr(found, name)


FORM_BYTES = {"Q8_0": 34, "Q8_1": 36, "Q8_K": 292}


def quantized_row(llama, form, x):
    """Rows of float32 as ggml's ``quantize_row_q8_*`` for this processor has them: uint8 ``[rows, runs, bytes]``."""
    size = 256 if form == "Q8_K" else 32
    found = np.zeros((len(x), x.shape[1] // size, FORM_BYTES[form]), np.uint8)
    run = processor_function(llama, f"quantize_row_{form.lower()}".replace("_k", "_K"))
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    for row, packed in zip(x, found, strict=True):
        run(np.ascontiguousarray(row).ctypes.data, packed.ctypes.data, len(row))
    return found


def products(llama, kind, form, weights, x):
    """``[rows of x, rows of weights]``: ggml's ``vec_dot`` of packed weights with rows that it quantizes."""
    run = processor_function(llama, f"ggml_vec_dot_{kind.lower()}_{form.lower()}".replace("_k", "_K"))
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    run.argtypes, run.restype = [number, pointer, size, pointer, size, pointer, size, number], None
    seen = quantized_row(llama, form, x)
    found = np.zeros((len(x), len(weights)), np.float32)
    for i, row in enumerate(seen):
        for j, packed in enumerate(weights):
            out = ctypes.c_float()
            run(x.shape[1], ctypes.addressof(out), 0, packed.ctypes.data, 0, row.ctypes.data, 0, 1)
            found[i, j] = out.value
    return found
