"""The GGUF file: back as written, and every lie a file can tell refused in one line."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, RefquantError, UsageError
from refquant.layout.gguf import Value, quantize, read_gguf, write_gguf, writing_gguf

METADATA = {
    "general.architecture": Value(kind="text", value="none"),
    "a.number": Value(kind="uint32", value=7),
    "a.float": Value(kind="float32", value=0.5),
    "a.flag": Value(kind="bool", value=True),
    "texts": Value(kind="text", value=["", "ü", "\0"], array=True),
    "numbers": Value(kind="int64", value=[-(2**63), 2**63 - 1], array=True),
    "flags": Value(kind="bool", value=[True, False], array=True),
    "nothing": Value(kind="uint8", value=[], array=True),
}


def tensors():
    rng = np.random.default_rng(0)
    return {name: quantize(rng.standard_normal((3, 256)).astype(np.float32), name) for name in ("f32", "q8_0", "q4_k", "tq1_0", "mxfp4")}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, METADATA, tensors())
    return path


def text(word):
    return struct.pack("<Q", len(word)) + word


def head(tensors=0, values=0, magic=b"GGUF", version=3):
    return magic + struct.pack("<IQQ", version, tensors, values)


def described(name=b"w", extents=(32,), kind=0, offset=0, axes=None):
    return text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents) if axes is None else axes, *extents, kind, offset)


def padded(data, payload=b""):
    return data + bytes(-len(data) % 32) + payload


def test_everything_comes_back(whole):
    found = read_gguf(whole)
    assert dict(found.metadata) == METADATA
    for name, tensor in tensors().items():
        assert found.read(name).digest() == tensor.digest()
        assert found.tensors[name].position % 32 == 0


def test_bytes_by_hand(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, {"k": Value(kind="uint8", value=5)}, {"w": quantize(np.array([1.0, -2.0], np.float32), "f32")})
    wanted = b"GGUF\x03\0\0\0" + b"\x01" + bytes(7) + b"\x01" + bytes(7) + text(b"k") + b"\0\0\0\0\x05"
    wanted += text(b"w") + struct.pack("<IQIQ", 1, 2, 0, 0)
    assert path.read_bytes() == padded(wanted, struct.pack("<ff", 1, -2) + bytes(24))


def test_another_alignment(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, {"general.alignment": Value(kind="uint32", value=256)}, tensors())
    found = read_gguf(path)
    assert all(place.position % 256 == 0 for place in found.tensors.values())
    assert found.read("q4_k").digest() == tensors()["q4_k"].digest()


def test_version_2_is_read(whole):
    data = bytearray(whole.read_bytes())
    data[4] = 2
    whole.write_bytes(data)
    assert read_gguf(whole).version == 2


HUGE = 2**63
LIES = {
    "empty": (b"", "0 bytes; a GGUF file has at least 24"),
    "magic": (head(magic=b"GGML"), r"begins with b'GGML'; a GGUF file begins with b'GGUF'"),
    "version": (head(version=1), "version 1; 2 and 3 are read"),
    "big-endian": (head(version=3 << 24), "a big-endian file"),
    "many tensors": (head(tensors=HUGE), f"{HUGE} tensors; the file has 0 bytes left"),
    "many values": (head(values=HUGE), f"{HUGE} metadata values; the file has 0 bytes left"),
    "long key": (head(values=1) + struct.pack("<Q", HUGE) + bytes(64), f"key 0 is {HUGE} bytes long"),
    "no utf-8": (head(values=1) + text(b"\xff") + bytes(64), "key 0 is no UTF-8"),
    "twice": (head(values=2) + 2 * (text(b"k") + struct.pack("<IB", 0, 1)) + bytes(64), "the key 'k' occurs twice"),
    "kind": (head(values=1) + text(b"k") + struct.pack("<I", 13) + bytes(64), "value of 'k' is of kind 13; 0 to 12 are known"),
    "bool": (head(values=1) + text(b"k") + struct.pack("<IB", 7, 2) + bytes(64), "is the byte 2; a bool is 0 or 1"),
    "long array": (head(values=1) + text(b"k") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(64), f"'k' has {HUGE} elements; the file has 64"),
    "long texts": (
        head(values=1) + text(b"k") + struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", HUGE) + bytes(64),
        f"is {HUGE} bytes long",
    ),
    "nested": (head(values=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64), "arrays inside arrays are not read"),
    "long text": (head(values=1) + text(b"k") + struct.pack("<IQ", 8, HUGE) + bytes(64), f"value of 'k' is {HUGE} bytes long"),
    "axes": (padded(head(tensors=1) + described(axes=2**31), bytes(256)), f"{2**31} axes; 1 to 4"),
    "extent": (padded(head(tensors=1) + described(extents=(HUGE,)), bytes(128)), "positive ones whose product is below 2\\^63"),
    "product": (padded(head(tensors=1) + described(extents=(2**32, 2**32)), bytes(128)), "positive ones whose product is below 2\\^63"),
    "zero": (padded(head(tensors=1) + described(extents=(0, 4)), bytes(128)), "positive ones"),
    "type": (padded(head(tensors=1) + described(kind=99), bytes(128)), "'w': type 99, which ggml does not know"),
    "other type": (padded(head(tensors=1) + described(kind=9), bytes(128)), "type 9, Q8_1, which is not read"),
    "rows": (padded(head(tensors=1) + described(extents=(31,), kind=8), bytes(128)), "rows of 31; Q8_0 has blocks of 32"),
    "offset": (padded(head(tensors=1) + described(offset=8), bytes(256)), "offset 8; a multiple of 32"),
    "far offset": (padded(head(tensors=1) + described(offset=HUGE), bytes(128)), "the file has"),
    "end": (padded(head(tensors=1) + described(), bytes(127)), "128 bytes from byte"),
    "name": (padded(head(tensors=1) + described(name=b"x" * 64), bytes(128)), "name of tensor 0 is 64 bytes long; 63 are possible"),
    "same name": (padded(head(tensors=2) + described() * 2, bytes(256)), "the tensor 'w' occurs twice"),
    "overlap": (padded(head(tensors=2) + described() + described(name=b"v", offset=32), bytes(256)), "overlaps 'w'"),
    "alignment": (head(values=1) + text(b"general.alignment") + struct.pack("<II", 4, 24) + bytes(64), "general.alignment is 24"),
    "alignment kind": (head(values=1) + text(b"general.alignment") + struct.pack("<IB", 0, 32) + bytes(64), "as uint32 is needed"),
    "no alignment": (head(values=1) + text(b"general.alignment") + struct.pack("<II", 4, 0) + bytes(64), "general.alignment is 0"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_one_line_and_little_memory(tmp_path, lie):
    data, message = LIES[lie]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            read_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert peak < 200_000


def test_every_cut_of_a_file_is_refused(whole):
    data = whole.read_bytes()
    needed = max(place.position + place.nbytes for place in read_gguf(whole).tensors.values())
    for length in range(0, needed, 37):
        whole.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_gguf(whole)


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_byte_is_read_or_refused_and_nothing_else(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    write_gguf(path, METADATA, {"w": quantize(np.ones((2, 32), np.float32), "q8_0")})
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(data)
    message = ""
    try:
        found = read_gguf(path)
        for name in found.tensors:
            found.read(name).dequantize()
    except RefquantError as error:
        message = str(error)
    assert "\n" not in message


def test_written_a_tensor_at_a_time_it_is_the_same_file(whole, tmp_path):
    other = tmp_path / "b.gguf"
    shapes = {name: tensor.shape for name, tensor in tensors().items()}
    with writing_gguf(other, METADATA, shapes) as out:
        for name, tensor in tensors().items():
            out.put(name, tensor)
            assert not other.exists()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]
    assert other.read_bytes() == whole.read_bytes()
    # A value that is known at the end may be changed, as long as the head keeps its length.
    with writing_gguf(other, METADATA, {}) as out:
        out.metadata["a.number"] = Value(kind="uint32", value=8)
    assert read_gguf(other).metadata["a.number"].value == 8


def test_what_is_not_written_as_announced_leaves_nothing(tmp_path):
    one = quantize(np.ones((1, 32), np.float32), "q8_0")
    path = tmp_path / "a.gguf"

    def write(*puts, longer=False):
        with writing_gguf(path, METADATA, {"w": (1, 32), "v": (1, 32)}) as out:
            for name in puts:
                out.put(name, one)
            if longer:
                out.metadata["more"] = Value(kind="bool", value=True)

    for puts, message in (
        (["v"], r"the next tensor is w of shape \(1, 32\), not v of"),
        (["w", "w"], "the next tensor is v"),
        (["w"], "tensor v was announced and not written"),
        (["w", "v", "x"], r"the next tensor is None of shape None, not x"),
    ):
        with pytest.raises(UsageError, match=message):
            write(*puts)
        assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="the metadata became longer or shorter"):
        write("w", "v", longer=True)
    with pytest.raises(UsageError, match=r"not w of \(1, 32\)"), writing_gguf(path, {}, {"w": (2, 16)}) as out:
        out.put("w", one)
    assert not list(tmp_path.iterdir())


def test_a_digest_is_that_of_the_tensor(whole, monkeypatch):
    monkeypatch.setattr("refquant.layout.gguf.container.CHUNK", 100)
    found = read_gguf(whole)
    for name in found.tensors:
        assert found.digest(name) == found.read(name).digest()
    with pytest.raises(InputError, match="no tensor 'none'"):
        found.digest("none")
    whole.write_bytes(whole.read_bytes()[:-300])
    last = list(found.tensors)[-1]
    for look in (found.read, found.digest):
        with pytest.raises(InputError, match="bytes early: it changed while it was being read"):
            look(last)


def test_a_tensor_larger_than_memory(whole, monkeypatch):
    """A sparse file costs nothing on the disk."""

    def no_memory(*_, **__):
        raise MemoryError

    found = read_gguf(whole)
    monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(InputError, match="tensor 'f32': 3072 bytes do not fit into memory"):
        found.read("f32")


def test_heads_that_no_model_has(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    for count, message in (((1 << 17) + 1, "131073 metadata values; at most 131072 are read"), (0, "")):
        path.write_bytes(head(values=count) + bytes(13 * count))
        if message:
            with pytest.raises(InputError, match=message):
                read_gguf(path)
    path.write_bytes(head(tensors=(1 << 17) + 1) + bytes(24 * ((1 << 17) + 1)))
    with pytest.raises(InputError, match="131073 tensors; at most 131072 are read"):
        read_gguf(path)
    monkeypatch.setattr("refquant.layout.gguf.container.MAX_HEAD", 1000)
    for kind, count in ((8, 120), (0, 960), (7, 960), (11, 120)):
        path.write_bytes(head(values=1) + text(b"k") + struct.pack("<IIQ", 9, kind, count) + bytes(2000))
        with pytest.raises(InputError, match="ends behind byte 1000; keys and descriptions of tensors are read up to there"):
            read_gguf(path)


def test_what_cannot_be_written(tmp_path):
    one = quantize(np.ones((1, 32), np.float32), "q8_0")
    for name in ("", "x" * 64):
        with pytest.raises(UsageError, match="GGUF cannot hold a tensor"):
            write_gguf(tmp_path / "a.gguf", {}, {name: one})
    with pytest.raises(UsageError, match=r"a uint8 lies in 0..255"):
        write_gguf(tmp_path / "a.gguf", {"k": Value(kind="uint8", value=256)}, {})
    with pytest.raises(UsageError, match="'real' is no kind of GGUF value"):
        write_gguf(tmp_path / "a.gguf", {"k": Value(kind="real", value=1)}, {})
    assert not list(tmp_path.iterdir())


def test_a_value_of_another_kind(whole):
    found = read_gguf(whole)
    assert found.value("a.number", int) == 7
    assert found.value("b", int, 3) == 3
    with pytest.raises(InputError, match=r"a.float is 0.5; a value of type int is needed"):
        found.value("a.float", int)
    with pytest.raises(InputError, match="there is missing"):
        found.value("there", str)
    with pytest.raises(InputError, match="no tensor 'none'"):
        found.read("none")


EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@given(st.lists(st.tuples(st.integers(4, 700), st.sampled_from(EXTREMES), st.sampled_from([4, 8])), min_size=1, max_size=3))
def test_numbers_that_overflow_reserve_nothing(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    write_gguf(path, METADATA, {"w": quantize(np.ones((2, 32), np.float32), "q8_0")})
    data = bytearray(path.read_bytes())
    for place, number, size in changes:
        at = place % (len(data) - 8)
        data[at : at + size] = (number % 256**size).to_bytes(size, "little")
    path.write_bytes(data)
    message = ""
    tracemalloc.start()
    try:
        found = read_gguf(path)
        for name in found.tensors:
            found.read(name).dequantize()
    except RefquantError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "\n" not in message
    assert peak < 400_000
