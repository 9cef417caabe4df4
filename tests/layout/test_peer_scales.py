"""Scales and zero points beside packed codes, as their programs store them."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.formats import decode, find_format
from tests.layout.tensors import equal, peer

COMPRESSED, PACKED = peer("compressed_tensors"), peer("packing_gptq_awq")


def test_symmetric_files_of_compressed_tensors_have_zero_points_of_0() -> None:
    keys = [key for key in COMPRESSED if key.endswith(".zero") and ".asym." not in key]
    assert len(keys) > 20
    assert not any(COMPRESSED[key].any() for key in keys)


@pytest.mark.parametrize("kind", ["mxfp4", "mxfp6", "mxfp8"])
@pytest.mark.parametrize("which", ["input", "edge"])
def test_its_mx_scales_are_what_their_bytes_stand_for(kind: str, which: str) -> None:
    case = f"{kind}.{which}"
    scales = decode(COMPRESSED[f"{case}.scale_e8m0"], find_format("e8m0"))
    np.testing.assert_array_equal(scales, COMPRESSED[f"{case}.scale"])
    if f"{case}.deq" in COMPRESSED:
        numbers = COMPRESSED[f"{case}.q_value"] * np.repeat(scales, 32, axis=1)
        np.testing.assert_array_equal(numbers, COMPRESSED[f"{case}.deq"])


@pytest.mark.parametrize("case", sorted(key.removesuffix(".scales_in") for key in PACKED if key.endswith(".scales_in")))
def test_packers_round_scales_to_float16(case: str) -> None:
    assert equal(PACKED[f"{case}.scales_in"].astype(np.float16).T.copy(), PACKED[f"{case}.scales"])
