"""Streams: as the docstring says, and their published outputs against integer arithmetic and the oracle."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from refquant.conformance.catalog import find_operation
from refquant.conformance.folder import read_vectors
from refquant.conformance.generate import stream_entry
from refquant.conformance.locate import golden_directory
from refquant.conformance.operations.uniform_quantize import by_oracle
from refquant.conformance.streams import bisect, dyadics, running_digests, words
from refquant.core import SCHEMES
from refquant.errors import UsageError
from refquant.oracle import round_to_integer

MASK = (1 << 64) - 1


def splitmix64(seed, i):
    """The ten lines, with Python's integers."""
    z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_words_are_the_documented_ones_wherever_a_block_begins():
    assert words(7, 5, 12).tolist() == [splitmix64(7, i) for i in range(5, 12)]
    assert words(MASK, (1 << 40), (1 << 40) + 2).tolist() == [splitmix64(MASK, i) for i in (1 << 40, (1 << 40) + 1)]


@pytest.mark.parametrize("mode", ["half_even", "half_away", "floor", "ceil"])
def test_rounded_dyadics_against_fractions(mode):
    """Every 257th input of the million; the published digest is that of the reference."""
    operation = find_operation(f"rounding.{mode}")
    (stream,) = operation.streams
    x = stream.make(0, stream.rows)["x"]
    y = operation.reference({"x": x}, {})["y"]
    assert np.count_nonzero(np.abs(x - np.trunc(x)) == 0.5) > 10_000  # ties
    for i in range(0, stream.rows, 257):
        w = splitmix64(1, i)
        exact = Fraction((w >> 40) - (1 << 23), 1 << (w % 25))
        assert x[i] == exact
        assert y[i] == round_to_integer(exact, mode)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_streams_against_the_oracle(scheme):
    operation = find_operation("uniform.quantize")
    stream = next(s for s in operation.streams if s.slug.startswith(f"{scheme}-b4"))
    x = stream.make(0, stream.rows)["x"][::1237]
    found, (expected, _, _) = operation.reference({"x": x}, stream.parameters), by_oracle(x, stream.parameters)
    for part, array in expected.items():
        assert np.array_equal(found[part], array), part


def small():
    """A stream of 8 blocks of 16 of the same kind."""
    operation = find_operation("rounding.half_even")
    return operation, replace(operation.streams[0], rows=128, block=16)


def test_blocks_and_whole_agree():
    operation, stream = small()
    digests = list(running_digests(stream, operation.reference, ["y"]))
    (one,) = running_digests(replace(stream, block=128), operation.reference, ["y"])
    assert digests[-1] == one
    assert len(set(digests)) == 8


@pytest.mark.parametrize("wrong_at", [0, 15, 16, 77, 127])
def test_bisect_names_the_first_departure(wrong_at):
    operation, stream = small()
    published = stream_entry(operation, stream)["digests"]
    x = stream.make(0, 128)["x"]

    def wrong(inputs, parameters):
        y = np.rint(inputs["x"])
        return {"y": np.where((inputs["x"] == x[wrong_at]), y + 1, y)}

    first = int(np.flatnonzero(x == x[wrong_at])[0])
    found = bisect(stream, published, wrong, operation.reference, ["y"])
    assert (found.block, found.row, found.part, found.index) == (first // 16, first, "y", (first % 16,))
    assert found.found == found.expected + 1
    assert bisect(stream, published, operation.reference, operation.reference, ["y"]) is None


def test_bisect_says_when_the_reference_departs_too():
    operation, stream = small()
    found = bisect(stream, ["0" * 64] * 8, operation.reference, operation.reference, ["y"])
    assert (found.block, found.row) == (0, None)


def test_a_backend_with_another_dtype_is_told():
    operation, stream = small()
    with pytest.raises(UsageError, match="float64"):
        bisect(stream, ["0" * 64] * 8, lambda i, p: {"y": np.rint(i["x"]).astype(float)}, operation.reference, ["y"])


def test_blocks_must_fit():
    _, stream = small()
    with pytest.raises(UsageError, match="no multiple"):
        replace(stream, rows=130)


def test_dyadics_round_nothing():
    w = words(3, 0, 1000)
    assert all(Fraction(float(x)) == Fraction((int(v) >> 40) - (1 << 23), 1 << (int(v) % 32)) for x, v in zip(dyadics(w), w, strict=True))


def test_every_declared_stream_is_published():
    for name in ("rounding.floor", "uniform.quantize"):
        operation = find_operation(name)
        published = read_vectors(golden_directory(), name).streams
        assert set(published) == {f"{name}/{stream.slug}" for stream in operation.streams}
        for stream in operation.streams:
            assert len(published[f"{name}/{stream.slug}"]["digests"]) == stream.rows // stream.block
