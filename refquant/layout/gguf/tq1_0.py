"""TQ1_0: 256 ternary codes, five a byte, on a float16 scale, 54 bytes.

    bytes 0-31   byte l: elements l, l + 32, ..., l + 128
    bytes 32-47  byte l: elements 160 + l, 160 + l + 16, ..., 160 + l + 64
    bytes 48-51  byte l: elements 240 + l, 240 + l + 4, ..., 240 + l + 12; a fifth trit of 0
    bytes 52-53  d, float16                                   x = d * (trit - 1)

A byte is ``ceil(t * 256 / 243)``, with ``t`` the number whose base-3 digits are the trits, the first element's highest: a fraction of 243
as a fraction of 256, so that multiplying by 3 pushes digit after digit over the byte's upper end. Trit ``k`` is
``((byte * 3^k mod 256) * 3) div 256``. Bytes that are no such fraction read as the next one; packing what was read makes them canonical.

Quantizing is TQ2_0's.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, records, side_by_side, take_half
from refquant.layout.gguf.tq2_0 import quantize
from refquant.numerics.arrays import Array

# First byte, bytes, trits a byte, first element.
RUNS = ((0, 32, 5, 0), (32, 16, 5, 160), (48, 4, 4, 240))
FRACTIONS = np.array([-(-number * 256 // 243) for number in range(243)], np.uint8)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 54]``; codes are -1..1."""
    rest = records(blocks[:, :52]).copy().view(np.uint8).reshape(-1, 52)
    trits = np.empty((5, *rest.shape), np.int8)
    for digit in trits:
        np.add(rest >= 86, rest >= 171, out=digit, dtype=np.int8)  # 3 * 86 lies beyond one turn of a byte, 3 * 171 beyond two
        rest *= np.uint8(3)  # modulo 256
    trits -= np.int8(1)
    codes = np.empty((len(blocks), 256), np.int8)
    for byte, run, count, element in RUNS:
        into, taken = codes[:, element : element + count * run], trits[:count, :, byte : byte + run]
        into.view(f"V{run}")[:] = taken.view(f"V{run}")[..., 0].T
    return Fields(codes=codes, d=take_half(blocks, 52))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 54]``."""
    codes = (fields.codes + np.int8(1)).view(np.uint8)
    trits = np.zeros((5, len(codes), 52), np.uint8)
    for byte, run, count, element in RUNS:
        into, taken = trits[:count, :, byte : byte + run], codes[:, element : element + count * run]
        into.view(f"V{run}")[..., 0] = taken.view(f"V{run}").T
    total = trits[0]
    for digit in trits[1:]:
        total *= np.uint8(3)
        total += digit
    return side_by_side(np.take(FRACTIONS, total), put_half(np.asarray(fields.d)))


TQ1_0 = BlockType(name="TQ1_0", number=34, size=256, nbytes=54, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
