"""The gguf package (llama.cpp's own Python) as a backend, for the operations that it has.

    pip install gguf
    refquant conform --backend peer:backend --allow-missing --expected expected.toml --strict

Its Q8_0 is symmetric 8-bit quantization of blocks of 32 with a float16 scale. A tile of at most 32 numbers is a block padded with zeros,
which do not change its largest magnitude; a longer tile of codes is several blocks with one scale. Differences that are Q8_0's definition,
and no mistakes, stand in expected.toml.
"""

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, np_roundf
from gguf.quants import quantize as to_blocks

BLOCK = 32
Q8_0 = GGMLQuantizationType.Q8_0


def padded(rows, width):
    """Rows with zeros at their end, as many as `width` takes."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def round_half_away(inputs, parameters):
    """The package's own rounding."""
    with np.errstate(invalid="ignore"):
        return {"y": np_roundf(inputs["x"])}


def quantize(inputs, parameters):
    """Tile by tile, each a block. The scale is given where the vector stores it in float16, too."""
    x, group = inputs["x"], parameters["group"]
    symmetric = parameters["scheme"] in ("sym_full", "sym_narrow") and parameters["rounding"] == "half_even"
    if not symmetric or parameters["bits"] != 8 or x.dtype != np.float32 or group is None or group > BLOCK:
        raise NotImplementedError("symmetric 8-bit codes in groups of at most 32 only")
    if parameters["granularity"] == "block":
        raise NotImplementedError("groups in rows only")
    if parameters["scale_format"] == "bfloat16":
        raise NotImplementedError("scales are float16")
    codes, scales = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.shape[1], group):
            tile = x[:, start : start + group]
            blocks = to_blocks(padded(tile, BLOCK), Q8_0)
            scales.append(blocks[:, :2].copy().view(np.float16))
            codes.append(blocks[:, 2:].view(np.int8)[:, : tile.shape[1]])
    found = {"codes": np.concatenate(codes, axis=1)}
    if parameters["scale_format"] == "float16":
        found["scale"] = np.concatenate(scales, axis=1)
    return found


def dequantized(inputs, parameters):
    """Every tile as blocks of 32 that share its scale."""
    codes, scale = inputs["codes"], inputs["scale"]
    if codes.dtype != np.int8 or scale.dtype != np.float16 or inputs["zero"].any() or parameters["dtype"] != "float32":
        raise NotImplementedError("signed 8-bit codes with float16 scales and no zero point only")
    group = parameters["group"] or codes.shape[1]
    values = []
    for tile, start in enumerate(range(0, codes.shape[1], group)):
        part = codes[:, start : start + group]
        blocks = padded(part, -(-part.shape[1] // BLOCK) * BLOCK).reshape(-1, BLOCK)
        scales = np.repeat(scale[:, tile], len(blocks) // len(codes))[:, None]
        raw = np.concatenate([scales.view(np.uint8), blocks.view(np.uint8)], axis=1)
        values.append(dequantize(raw, Q8_0).reshape(len(codes), -1)[:, : part.shape[1]])
    return {"values": np.concatenate(values, axis=1)}


backend = {"rounding.half_away": round_half_away, "uniform.quantize": quantize, "uniform.dequantize": dequantized}
