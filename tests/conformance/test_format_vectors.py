"""Vectors of formats and blocks against other people's code, and published streams against the oracle."""

import ml_dtypes
import numpy as np
import pytest

from refquant.conformance.catalog import find_operation
from refquant.conformance.folder import read_vectors
from refquant.conformance.locate import golden_directory
from refquant.conformance.operations.format_decode import by_oracle as decoded
from refquant.conformance.operations.format_encode import by_oracle as encoded
from refquant.formats import FLOATS, find_format

PEERS = {
    "bfloat16": ml_dtypes.bfloat16,
    "binary16": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
CASES = {name: read_vectors(golden_directory(), name).cases for name in ("format.encode", "format.decode")}


@pytest.mark.parametrize("name", PEERS)
def test_expected_codes_are_those_of_ml_dtypes(name):
    """float32 and float16, half to even, where both saturate or stay inside: NaN, signs of NaN and overflow differ by design."""
    fmt, seen = find_format(name), 0
    for case in CASES["format.encode"].values():
        x = case.inputs["x"]
        if case.parameters["format"] != name or case.parameters["rounding"] != "half_even" or x.dtype == np.float64:
            continue
        inside = np.abs(x.astype(np.float64)) <= fmt.hi
        codes = x[inside].astype(PEERS[name]).view(fmt.dtype)
        assert np.array_equal(codes, case.expected["codes"][inside]), case.id
        seen += int(inside.sum())
    assert seen > 50


@pytest.mark.parametrize("name", PEERS)
def test_expected_numbers_are_those_of_ml_dtypes(name):
    fmt = find_format(name)
    for case in CASES["format.decode"].values():
        if case.parameters["format"] == name:
            y = case.inputs["codes"].view(PEERS[name]).astype(np.float32)
            expected = case.expected["y"]
            assert np.array_equal(y, expected, equal_nan=True), case.id
            numbers = ~np.isnan(expected)
            assert np.array_equal(np.signbit(y[numbers]), np.signbit(expected[numbers])), case.id
    assert fmt.name == name


@pytest.mark.parametrize("fmt", FLOATS, ids=lambda fmt: fmt.name)
def test_every_code_of_small_formats_is_in_a_case(fmt):
    cases = [case for case in CASES["format.decode"].values() if case.parameters["format"] == fmt.name]
    codes = {int(code) for case in cases for code in case.inputs["codes"]}
    if fmt.bits <= 8:
        assert codes == set(range(1 << fmt.bits))
    else:
        (stream,) = [s for s in find_operation("format.decode").streams if s.parameters["format"] == fmt.name]
        whole = set(stream.make(0, stream.rows)["codes"].tolist()) | codes
        assert set(np.flatnonzero(np.isfinite(fmt.table)).tolist()) <= whole


@pytest.mark.parametrize("operation", ["format.encode", "format.decode"])
def test_samples_of_streams_are_those_of_the_oracle(operation):
    declared = find_operation(operation)
    for stream in declared.streams:
        # The first row of every block, and a few that fall anywhere.
        rows = sorted({*range(0, stream.rows, stream.block), *range(777, stream.rows, stream.rows // 37)})
        inputs = {part: np.concatenate([stream.make(row, row + 1)[part] for row in rows]) for part in [declared.inputs[0].name]}
        (found,) = declared.reference(inputs, stream.parameters).values()
        (given,) = inputs.values()
        fmt = find_format(stream.parameters["format"])
        expected = encoded(given, stream.parameters) if operation == "format.encode" else decoded(given, fmt)
        assert np.array_equal(found, expected), stream.slug
