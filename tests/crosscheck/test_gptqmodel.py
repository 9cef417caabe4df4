"""GPTQModel's own layer packs what we pack, and decodes what we packed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from refquant.core import spec
from refquant.layout.gptq import pack, unpack
from refquant.methods.grid.rtn import rtn

GROUP, ROWS, COLUMNS = 32, 64, 128
SCHEMES = {False: "asym_incl0", True: "sym_gptq"}


@pytest.fixture
def torch(peer):
    return peer("torch")


@pytest.fixture
def program(peer):
    return peer("gptqmodel.nn_modules.qlinear.torch").TorchLinear


def quantized(bits, symmetric, ordered):
    """Weights of uneven columns; with activation order, groups are runs of columns in another order."""
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * rng.uniform(0.1, 3, COLUMNS).astype(np.float32)
    chosen = spec(f"int{bits}", group_size=GROUP, scheme=SCHEMES[symmetric], scale_format="float16")
    if not ordered:
        return rtn(weight, chosen)
    order = rng.permutation(COLUMNS)
    q = rtn(weight[:, order], chosen)
    return replace(q, codes=np.ascontiguousarray(q.codes[:, np.argsort(order)]), permutation=order)


def layer(program, bits, symmetric, ordered):
    from gptqmodel.quantization import FORMAT

    made = program(bits, GROUP, symmetric, ordered, COLUMNS, ROWS, format=FORMAT.GPTQ_V2)
    return made.eval()


CASES = [(bits, symmetric, ordered) for bits in range(2, 9) for symmetric in (False, True) for ordered in (False, True)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "int{}-{}-{}".format(*case))
def test_what_it_decodes_and_packs(program, torch, record, case):
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    bits, symmetric, ordered = case
    q = quantized(*case)
    ours = {version: pack(q, version) for version in ("v2", "v1_gptqmodel")}
    reader = layer(program, *case)
    for name, array in ours["v2"].items():
        getattr(reader, name).copy_(torch.from_numpy(np.array(array)))
    reader.post_init()
    theirs = reader.dequantize_weight().T.float().numpy()
    assert np.array_equal(theirs, q.dequantize().astype(np.float16).astype(np.float32))  # its product is rounded to float16

    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = torch.from_numpy(q.dequantize())
    writer = layer(program, *case)
    index = torch.from_numpy(np.array(ours["v2"]["g_idx"]))
    zero = q.zero if q.zero is not None else np.full(q.scale.shape, 1 << (bits - 1))
    writer.pack(linear, torch.from_numpy(q.scale.astype(np.float32)), torch.from_numpy(zero.astype(np.float32)), index)
    for version in ("v2", "v1_gptqmodel"):
        if version != "v2":
            convert_gptq_v2_to_v1_format_module(writer, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
        found = {name: getattr(writer, name).numpy() for name in ours[version]}
        for name, array in ours[version].items():
            assert np.array_equal(found[name], array), (version, name)
        again = unpack(found, q.spec, version)
        assert np.array_equal(again.codes, q.codes)
        assert np.array_equal(again.dequantize(), q.dequantize())
    covers = f"int{bits} {SCHEMES[symmetric]}, groups of {GROUP}{', activation order' if ordered else ''}, v1 and v2"
    record("GPTQ", "gptqmodel", "reads ours, writes, we read", "equal", covers)
