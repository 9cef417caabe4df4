"""bitsandbytes on CPU dequantizes what we write, and we read what it quantizes."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.layout.bitsandbytes import block_spec, pack, unpack
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import peer as recorded

INPUT = recorded("bitsandbytes")["input"]


@pytest.fixture
def torch(peer):
    peer("bitsandbytes")
    return peer("torch")


def quant_state(torch, parts):
    from bitsandbytes.functional import QuantState

    found = {name.removeprefix("weight."): torch.from_numpy(np.array(array)) for name, array in parts.items() if name != "weight"}
    return QuantState.from_dict(found, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_it_dequantizes_ours(torch, record, kind, nested):
    from bitsandbytes.functional import dequantize_4bit

    for block in (64, 128, 256):
        q = rtn(INPUT, block_spec(kind, block, nested))
        parts = pack(q)
        state = quant_state(torch, parts)
        values = dequantize_4bit(torch.from_numpy(parts["weight"].copy()), state).numpy()
        assert np.array_equal(values, q.dequantize())
    record(f"bitsandbytes {kind}{', nested' * nested}", "bitsandbytes", "reads ours", "equal", "blocks of 64, 128, 256")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_we_read_its(torch, record, kind, nested):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for block in (64, 128, 256):
        packed, state = quantize_4bit(torch.from_numpy(INPUT.copy()), blocksize=block, compress_statistics=nested, quant_type=kind)
        parts = {"weight": packed.numpy()}
        parts |= {f"weight.{name}": tensor.numpy() for name, tensor in state.as_dict(packed=True).items()}
        q = unpack(parts)
        assert np.array_equal(q.dequantize(), dequantize_4bit(packed, state).numpy())
        ours = pack(q)
        assert {name: array.tobytes() for name, array in ours.items()} == {name: array.tobytes() for name, array in parts.items()}
    record(f"bitsandbytes {kind}{', nested' * nested}", "bitsandbytes", "writes, we read", "equal", "the same bytes again")
