"""bitsandbytes on CPU beyond 4-bit blocks of float32: 8-bit blocks, half inputs, LLM.int8, special and subnormal numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.core import spec
from refquant.errors import InputError, NumericalError
from refquant.formats import decode, encode, find_format, table_of
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from tests.formats.peers import nibbles
from tests.layout.tensors import DATA

PEER, SPECIAL = load_file(DATA / "bitsandbytes.safetensors"), load_file(DATA / "bitsandbytes_nonfinite.safetensors")
DYNAMIC = find_format("dynamic8")


def steps_of_table(x: Array, absmax: Array) -> Array:
    """Finding: 8-bit blocks do not search their table, but one of 65536 equal steps over [-1, 1], whose entries are nearest to the step."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit = np.where(absmax > 0, x * (np.float32(1) / absmax), np.float32(-1))
    step = np.floor((unit + np.float32(1)) * np.float32(32767.5) + np.float32(0.5))
    return (step / 32767.5 - 1).astype(np.float32)


@pytest.mark.parametrize("block", [64, 256, 4096])
def test_blocks_of_8_bits(block: int) -> None:
    x, case = PEER["input"].reshape(-1), f"blockwise.b{block}"
    top = np.abs(np.pad(x, (0, -x.size % block)).reshape(-1, block)).max(axis=1)
    np.testing.assert_array_equal(top, PEER[f"{case}.absmax"])
    absmax = np.repeat(top, block)[: x.size]
    codes = PEER[f"{case}.q"].reshape(-1)
    np.testing.assert_array_equal(encode(steps_of_table(x, absmax), DYNAMIC), codes)
    np.testing.assert_array_equal(decode(codes, DYNAMIC) * absmax, PEER[f"{case}.deq"].reshape(-1))
    # Ours is the nearest entry: never farther, and nearer in a good part of them.
    table = table_of(DYNAMIC)
    unit = np.where(absmax > 0, x / np.where(absmax > 0, absmax, 1), 0).astype(np.float32)
    ours, theirs = np.abs(table[encode(unit, DYNAMIC)] - unit), np.abs(table[codes] - unit)
    assert (ours <= theirs).all()
    assert (ours < theirs).mean() > 0.1


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_half_inputs(name: str, dtype: str, kind: type) -> None:
    """Numbers are widened to float32, and what is decoded is rounded once."""
    case = f"{name}.b64.{dtype}"
    q = rtn(PEER["input"].astype(kind), spec(name))
    np.testing.assert_array_equal(q.codes, nibbles(PEER[f"{case}.packed"], high_first=True).reshape(q.shape))
    absmax = PEER[f"{case}.absmax"].reshape(q.scale.shape)
    np.testing.assert_array_equal(np.where(absmax == 0, 1, absmax), q.scale)
    theirs = PEER[f"{case}.deq"].view(kind).astype(np.float32)
    np.testing.assert_array_equal(q.dequantize().astype(kind).astype(np.float32), theirs)


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_special_numbers_in_4_bit_blocks(name: str) -> None:
    """An infinity or NaN spoils its block there (row 1: what is finite becomes NaN); here it is refused. Huge finite blocks are ours."""
    x, codes = SPECIAL["nf.input"], nibbles(SPECIAL[f"nf.{name}.packed"], high_first=True).reshape(7, 64)
    finite = np.isfinite(x).all(axis=1)
    q = rtn(x[finite], spec(name))
    np.testing.assert_array_equal(q.codes, codes[finite])
    np.testing.assert_array_equal(q.scale[:, 0], SPECIAL[f"nf.{name}.absmax"][finite])
    np.testing.assert_array_equal(q.dequantize(), SPECIAL[f"nf.{name}.deq"][finite])
    lost = SPECIAL[f"nf.{name}.deq"][~finite]
    assert (np.isnan(lost) | np.isinf(lost)).all()
    for row in x[~finite]:
        with pytest.raises(InputError, match=r"NaN|infinity"):
            rtn(row[None], spec(name))


def test_special_numbers_in_8_bit_blocks() -> None:
    """Finding: NaN is left out of the maximum and gets the lowest code; beside an infinity everything gets the code of 0."""
    x, codes, top = SPECIAL["nf.input"], SPECIAL["nf.blockwise.q"], SPECIAL["nf.blockwise.absmax"]
    np.testing.assert_array_equal(top, np.where(np.isnan(x), 0, np.abs(x)).max(axis=1))
    finite = np.isfinite(top)
    numbers = ~np.isnan(x[finite])
    ours = encode(np.where(numbers, steps_of_table(x[finite], top[finite][:, None]), 0), DYNAMIC)
    np.testing.assert_array_equal(ours[numbers], codes[finite][numbers])
    assert (codes[finite][~numbers] == 0).all()
    beside = np.isfinite(x[~finite])
    assert (codes[~finite][beside] == encode(steps_of_table(np.zeros(1, np.float32), np.ones(1, np.float32)), DYNAMIC)).all()


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_subnormal_blocks_of_4_bits(name: str) -> None:
    """Finding: numbers are multiplied with ``1 / max(absmax, 1e-38)`` and decoded with absmax, so blocks below 1e-38 shrink, to 0 at last.

    Ours multiplies with ``1 / absmax``, and refuses where that overflows.
    """
    fmt, x, top = find_format(name), SPECIAL["sub.input"].reshape(-1, 64), SPECIAL[f"sub.{name}.absmax"]
    np.testing.assert_array_equal(top, np.abs(x).max(axis=1))
    codes = nibbles(SPECIAL[f"sub.{name}.packed"], high_first=True).reshape(-1, 64)
    np.testing.assert_array_equal(encode(x * (np.float32(1) / np.maximum(top, np.float32(1e-38)))[:, None], fmt), codes)
    np.testing.assert_array_equal(decode(codes, fmt) * top[:, None], SPECIAL[f"sub.{name}.deq"].reshape(-1, 64))
    usual = top >= 1e-38
    assert 0 < usual.sum() < len(top)
    q = rtn(x[usual], spec(name))
    np.testing.assert_array_equal(q.codes, codes[usual])
    np.testing.assert_array_equal(q.dequantize(), SPECIAL[f"sub.{name}.deq"].reshape(-1, 64)[usual])
    with pytest.raises(NumericalError, match="reciprocal"):
        rtn(x[top < 2.0**-128], spec(name))


def test_subnormal_blocks_of_8_bits() -> None:
    x, codes, top = SPECIAL["sub.input"].reshape(-1, 64), SPECIAL["sub.blockwise.q"].reshape(-1, 64), SPECIAL["sub.blockwise.absmax"]
    np.testing.assert_array_equal(top, np.abs(x).max(axis=1))
    with np.errstate(divide="ignore", over="ignore"):
        usual = np.isfinite(np.float32(1) / top)
    np.testing.assert_array_equal(encode(steps_of_table(x[usual], top[usual][:, None]), DYNAMIC), codes[usual])


@pytest.mark.parametrize("threshold", [0, 6])
def test_llm_int8_rows(threshold: int) -> None:
    """Entries from the threshold on are left out of a row's maximum, and columns that hold one are coded as 0 (here: every column)."""
    x, case = PEER["int8.A_f16"].astype(np.float32), f"int8.t{threshold}"
    outlier = (np.abs(x) >= threshold) if threshold else np.zeros(x.shape, bool)
    columns = np.flatnonzero(outlier.any(axis=0))
    np.testing.assert_array_equal(columns, PEER.get(f"{case}.outlier_cols", np.zeros(0, np.int64)))
    top = np.where(outlier, 0, np.abs(x)).max(axis=1)
    np.testing.assert_array_equal(top, PEER[f"{case}.row_absmax"])
    factor = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    codes = np.rint(x * factor[:, None])
    codes[:, columns] = 0
    np.testing.assert_array_equal(codes, PEER[f"{case}.q"])
    np.testing.assert_array_equal((codes * top[:, None]).astype(np.float32) * np.float32(1 / 127), PEER[f"{case}.deq"])


def test_llm_int8_products() -> None:
    """Finding: the integer product is decoded with 6.200124e-5, where 1 / 127^2 is 6.2000124e-5; nine of 384 numbers differ for it."""
    rows = {}
    for name in "AB":
        x = PEER[f"llmint8.{name}"].astype(np.float32)
        top = np.abs(x).max(axis=1)
        np.testing.assert_array_equal(top, PEER[f"llmint8.s{name}"])
        rows[name] = np.rint(x * (np.float32(127) / top)[:, None]), top
        np.testing.assert_array_equal(rows[name][0], PEER[f"llmint8.q{name}"])
    (a, a_top), (b, b_top) = rows["A"], rows["B"]
    products = np.einsum("ik,jk->ij", a.astype(np.int64), b.astype(np.int64))
    np.testing.assert_array_equal(products, PEER["llmint8.C_i32"])

    def decoded(constant: float) -> Array:
        return (products.astype(np.float32) * np.float32(constant) * a_top[:, None] * b_top).astype(np.float16)

    np.testing.assert_array_equal(decoded(6.200124e-5), PEER["llmint8.D_f16"])
    assert (decoded(1 / 127**2) != PEER["llmint8.D_f16"]).sum() == 9


def test_tables_that_no_format_here_is() -> None:
    """Three maps of its Python side. Finding: the subnormal numbers of its e5m2 are a quarter of what they should be."""
    linear, normal, floats = (PEER[f"code.create_{name}_map"] for name in ("linear", "normal", "fp8"))
    np.testing.assert_allclose(linear, np.sort(np.r_[np.linspace(-1, 1, 255), 0]), rtol=2e-7, atol=1e-8)
    np.testing.assert_array_equal(normal, np.sort(np.r_[table_of(find_format("nf4")), np.zeros(240)]).astype(np.float32))
    normals = [(4 + m) / 7 * 2.0**-k for m in range(4) for k in range(31)]
    magnitudes = [*normals, *(m / 7 * 2.0**-32 for m in range(4))]
    np.testing.assert_allclose(floats, np.sort([*magnitudes, *(-m for m in magnitudes)]), rtol=2e-7)
