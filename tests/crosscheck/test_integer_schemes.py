"""torchao, hqq and optimum-quanto quantize other numbers than the recorded ones, and our schemes and methods give the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import Tiling, find_scheme, spec
from refquant.layout.stacked_rows import pack_rows, unpack_rows
from refquant.methods.grid.hqq import hqq
from refquant.methods.grid.offset import offset_rtn
from refquant.methods.grid.rtn import rtn

DRAWS = np.random.default_rng(20)
# Ordinary rows, small ones, outliers, ties, one sign, signed zeros, subnormal numbers.
ROWS = np.concatenate(
    [
        DRAWS.normal(size=(40, 128)),
        DRAWS.normal(size=(8, 128)) * 1e-9,
        DRAWS.standard_t(2, size=(20, 128)) * 30,
        DRAWS.integers(-30, 31, size=(20, 128)) / 2,
        np.abs(DRAWS.normal(size=(4, 128))) + 0.5,
        -np.abs(DRAWS.normal(size=(4, 128))),
        np.where(DRAWS.random((4, 128)) < 0.5, -0.0, 0.0),
        DRAWS.normal(size=(4, 128)) * 1e-40,
    ]
).astype(np.float32)


@pytest.mark.parametrize("mapping", ["SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC"])
def test_torchao_grids_and_codes(peer, record, mapping):
    torch, ao = peer("torch"), peer("torchao.quantization.quant_primitives")
    names = {"SYMMETRIC": "symmetric", "SYMMETRIC_NO_CLIPPING_ERR": "no_clipping", "ASYMMETRIC": "asymmetric"}
    for bits in (2, 3, 4, 8):
        for group in (32, 128):
            s = spec(f"int{bits}", group_size=group, scheme=f"torchao_{names[mapping]}")
            low, high, x = -(1 << (bits - 1)), (1 << (bits - 1)) - 1, torch.from_numpy(ROWS)
            scale, zero = ao.choose_qparams_affine(x, getattr(ao.MappingType, mapping), (1, group), torch.int8, low, high)
            codes = ao.quantize_affine(x, (1, group), scale, zero, torch.int8, low, high)
            q = rtn(ROWS, s)
            assert np.array_equal(q.scale.ravel(), scale.numpy().ravel())
            assert np.array_equal(q.codes, codes.numpy())
            if q.zero is not None:
                assert np.array_equal(q.zero.ravel(), zero.numpy().ravel())
            assert np.array_equal(q.dequantize(), ao.dequantize_affine(codes, (1, group), scale, zero, torch.int8, low, high).numpy())
    record(
        f"integers, torchao {mapping.lower()}", "torchao", "computes as we do", "equal", "scales, zero points, codes, numbers; 2 to 8 bits"
    )


def test_hqq_without_its_optimizer(peer, record):
    torch = peer("torch")
    quantizer = peer("hqq.core.quantize").Quantizer
    for bits in (1, 2, 3, 4, 8):
        x = ROWS[:80]
        packed, meta = quantizer.quantize(torch.from_numpy(x.copy()), nbits=bits, group_size=64, axis=1, optimize=False, device="cpu")
        q = hqq(x.reshape(-1, 64), spec(f"uint{bits}"), iterations=0)
        assert np.array_equal(q.codes, unpack_rows(packed.numpy(), bits, "hqq", 160))
        assert pack_rows(q.codes, bits, "hqq").tobytes() == packed.numpy().tobytes()
        assert np.array_equal(q.zero, meta["zero"].float().numpy())
        assert np.array_equal(q.scale, meta["scale"].float().numpy())
    record("hqq, grids and packing", "hqq", "computes as we do", "equal", "1, 2, 3, 4 and 8 bits, groups of 64, without the optimizer")


def test_quanto(peer, record):
    torch, quanto = peer("torch"), peer("optimum.quanto")
    for bits, kind in ((2, quanto.qint2), (4, quanto.qint4)):
        x = ROWS[:60]
        scale, shift = quanto.MaxOptimizer()(torch.from_numpy(x), qtype=kind, axis=0, group_size=32)
        made = quanto.quantize_weight(torch.from_numpy(x), qtype=kind, axis=0, scale=scale, shift=shift, group_size=32, optimized=False)
        q = offset_rtn(x, bits, Tiling.group(32))
        assert np.array_equal(q.scale.ravel(), scale.numpy().ravel())
        assert np.array_equal(q.offset.ravel(), shift.numpy().ravel())
        assert np.array_equal(q.dequantize(), made.dequantize().numpy())
    record("quanto int2, int4", "optimum-quanto", "computes as we do", "equal", "scales, offsets, numbers; groups of 32")


def test_torch_fake_quantize(peer, record):
    torch = peer("torch")
    for name in ("torch_symmetric", "torch_affine"):
        s = spec("int8", scheme=replace(find_scheme(name), zero="integer" if name == "torch_affine" else "none"))
        q = rtn(ROWS, s)
        zero = np.zeros(len(ROWS), np.int32) if q.zero is None else q.zero.ravel().astype(np.int32)
        low, high = (-128, 127) if q.zero is None else (0, 255)
        made = torch.fake_quantize_per_channel_affine(
            torch.from_numpy(ROWS), torch.from_numpy(q.scale.ravel().copy()), torch.from_numpy(zero), 0, low, high
        )
        assert np.array_equal(made.numpy(), q.dequantize())
    record("integers, torch", "torch", "computes as we do", "equal", "fake_quantize_per_channel_affine, 8 bits")
