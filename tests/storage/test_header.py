"""Hostile headers: every rule of the format broken on its own, then bytes flipped and cut at every position."""

import json
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest

from refquant.errors import InputError
from refquant.storage import read_header, read_tensors, write_tensors


def file_of(tmp_path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def one(**changes):
    """A header of one correct tensor of 4 bytes, with some of its parts exchanged."""
    parts = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes
    return {"w": {key: value for key, value in parts.items() if value is not ...}}


def test_the_unchanged_header_is_accepted(tmp_path):
    header = read_header(file_of(tmp_path, one(), bytes(4)))
    assert header.tensors["w"].shape == (1,)
    assert header.metadata == {}


def test_no_tensors_at_all_is_a_file(tmp_path):
    assert read_tensors(file_of(tmp_path, b"{}")) == {}


def test_frozen(tmp_path):
    header = read_header(file_of(tmp_path, one(), bytes(4)))
    with pytest.raises(TypeError):
        header.tensors["v"] = header.tensors["w"]
    with pytest.raises(AttributeError):
        header.tensors["w"].nbytes = 3


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (one(dtype="F31"), 4, r"tensor 'w': dtype 'F31', known are U64, I64"),
        (one(dtype="f32"), 4, r"dtype 'f32'"),
        (one(dtype=["F32"]), 4, r"dtype \['F32'\]"),
        (one(dtype="C64", data_offsets=[0, 8]), 8, r"dtype 'C64'"),
        (one(dtype=...), 4, r"exactly dtype, shape and data_offsets"),
        (one(shape=...), 4, r"exactly dtype"),
        (one(data_offsets=...), 4, r"exactly dtype"),
        (one(extra=1), 4, r"exactly dtype"),
        ({"w": [1]}, 4, r"exactly dtype"),
        ({"w": None}, 4, r"exactly dtype"),
        (one(shape=[True]), 4, r"shape \[True\]"),
        (one(shape=[1.0]), 4, r"shape \[1.0\]"),
        (one(shape=["1"]), 4, r"shape \['1'\]"),
        (one(shape=[-1]), 4, r"shape \[-1\]"),
        (one(shape=1), 4, r"shape 1,"),
        (one(shape=[1] * 33), 4, r"at most 32"),
        (one(shape=[2]), 4, r"4 bytes, F32 of shape \[2\] needs 8"),
        (one(shape=[2**62, 2**62]), 4, r"beyond 2\^63 bytes"),
        (one(shape=[2**32, 2**32], dtype="U8"), 4, r"beyond 2\^63 bytes"),
        (one(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), 0, r"beyond 2\^63 bytes"),
        (one(data_offsets=[False, 4]), 4, r"data_offsets \[False, 4\]"),
        (one(data_offsets=[0.0, 4]), 4, r"data_offsets"),
        (one(data_offsets=[-4, 0]), 4, r"data_offsets \[-4, 0\]"),
        (one(data_offsets=[4, 0]), 4, r"data_offsets \[4, 0\]"),
        (one(data_offsets=[0, 4, 8]), 4, r"data_offsets"),
        (one(data_offsets=[4]), 4, r"data_offsets"),
        (one(data_offsets=[1, 5]), 5, r"begins at data byte 1 and leaves a gap before it, byte 0"),
        (one(data_offsets=[2**63, 2**63 + 4]), 4, r"leaves a gap"),
        (one(), 3, r"3 bytes of data, the tensors need exactly 4"),
        (one(), 5, r"5 bytes of data, the tensors need exactly 4"),
        ({}, 1, r"1 bytes of data, the tensors need exactly 0"),
        ({**one(), "v": one()["w"]}, 4, r"tensor 'w': begins at data byte 0 and overlaps"),
        ({**one(), "v": one(data_offsets=[2, 6])["w"]}, 6, r"tensor 'v': begins at data byte 2 and overlaps"),
        ({**one(), "v": one(data_offsets=[5, 9])["w"]}, 9, r"tensor 'v': begins at data byte 5 and leaves a gap"),
        ({**one(), "v": one(shape=[0], data_offsets=[2, 2])["w"]}, 4, r"tensor 'v': begins at data byte 2 and overlaps"),
        ({**one(), "v": one(shape=[0], data_offsets=[9, 9])["w"]}, 4, r"tensor 'v': begins at data byte 9 and leaves"),
        ({"__metadata__": [], **one()}, 4, r"__metadata__ is \[\]"),
        ({"__metadata__": None, **one()}, 4, r"__metadata__ is None"),
        ({"__metadata__": {"a": 1}, **one()}, 4, r"__metadata__ maps 'a' to 1"),
        (b'{"w":1,"w":2}', 0, r"the key 'w' occurs twice"),
        (b'{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, r"the key 'dtype' occurs twice"),
        (b'{"__metadata__":{"a":"b","a":"c"}}', 0, r"the key 'a' occurs twice"),
        (b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4, r"the number NaN"),
        (b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', 4, r"beyond the range"),
        (b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', 4, r"not valid JSON: Exceeds"),
        (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, r"lone surrogate"),
        (b'{"\xff":1}', 0, r"byte 2 is not valid UTF-8"),
        (b"[1,2]", 0, r"begins with b'\['"),
        (b" {}", 0, r"begins with b' '"),
        (b"\xef\xbb\xbf{}", 0, r"begins with"),
        (b"{}x", 0, r"not valid JSON: Extra data"),
        (b'{"a":' * 100000, 0, r"nested too deep"),
        (b"", 0, r"header length 0"),
    ],
)
def test_each_broken_rule_is_told_in_one_line(tmp_path, header, data, message):
    path = file_of(tmp_path, header, bytes(data))
    with pytest.raises(InputError, match=message) as caught:
        read_tensors(path)
    told = str(caught.value)
    assert told.startswith(str(path))
    assert "\n" not in told
    assert len(told) < len(str(path)) + 300


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 99, 1])
def test_a_false_header_length_allocates_nothing(tmp_path, length):
    path = file_of(tmp_path, one(), bytes(4), length=length)
    with pytest.raises(InputError, match=f"header length {length}, allowed is 2 to {path.stat().st_size - 8}"):
        read_header(path)


def test_a_sparse_file_with_a_giant_header_is_refused_within_little_memory(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**39))
        file.truncate(2**40)
    program = (
        "import sys; from refquant.storage import read_header; from refquant.errors import InputError\n"
        "try: read_header(sys.argv[1])\n"
        "except InputError as error: print(error)"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))  # noqa: E731
    ran = subprocess.run([sys.executable, "-c", program, str(path)], preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "header length 549755813888, allowed is 2 to 100000000" in ran.stdout


@pytest.mark.parametrize("size", range(8))
def test_shorter_than_its_own_length_field(tmp_path, size):
    (tmp_path / "a").write_bytes(bytes(size))
    with pytest.raises(InputError, match=f"{size} bytes, a safetensors file begins with an 8-byte header length"):
        read_header(tmp_path / "a")


def test_a_name_cannot_break_the_line(tmp_path):
    path = file_of(tmp_path, {"x\n\x1b[2J" + "y" * 10**6: 1})
    with pytest.raises(InputError, match=r"tensor 'x\\n\\x1b\[2Jyyy"):
        read_header(path)


def test_bool_bytes_other_than_0_and_1(tmp_path):
    path = file_of(tmp_path, one(dtype="BOOL", shape=[3], data_offsets=[0, 3]), bytes([0, 1, 2]))
    with pytest.raises(InputError, match="byte 2 in a BOOL tensor, only 0 and 1 are allowed"):
        read_tensors(path)


def test_a_tensor_larger_than_memory(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    path = file_of(tmp_path, one(), bytes(4))
    monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(InputError, match="tensor 'w': 4 bytes do not fit into memory"):
        read_tensors(path)


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("nowhere", tmp_path / "dangling")
    for name, message in [
        ("pipe", "it is a pipe"),
        (".", "it is a folder"),
        ("missing", "No such file"),
        ("dangling", "No such file"),
        ("a\0b", "NUL character"),
    ]:
        with pytest.raises(InputError, match=message):
            read_header(tmp_path / name)
    with pytest.raises(InputError, match="it is a pipe, socket or device"):
        read_header("/dev/zero")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "a"
    tensors = {"a": np.array([1.5, -2], "f4"), "b": np.array([True]), "c": np.zeros((2, 0), "i2"), "d": np.arange(3, dtype="u1")}
    write_tensors(path, tensors, {"k": "v"})
    return path.read_bytes()


def header_length(data):
    return 8 + struct.unpack("<Q", data[:8])[0]


def test_cut_at_every_position(tmp_path, small):
    for size in range(len(small)):
        (tmp_path / "a").write_bytes(small[:size])
        with pytest.raises(InputError):
            read_tensors(tmp_path / "a")


def test_every_byte_changed_in_every_bit(tmp_path, small):
    """A damaged byte gives InputError, or tensors that an independent reading of the changed file explains."""
    accepted = 0
    for position in range(len(small)):
        for bit in range(8):
            data = bytearray(small)
            data[position] ^= 1 << bit
            (tmp_path / "a").write_bytes(data)
            try:
                found = read_tensors(tmp_path / "a")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            accepted += 1
            end = header_length(data)
            stated = json.loads(bytes(data[8:end]))
            stated.pop("__metadata__", None)
            assert set(found) == set(stated)
            for name, array in found.items():
                begin, stop = stated[name]["data_offsets"]
                assert array.tobytes() == bytes(data[end + begin : end + stop])
                assert list(array.shape) == stated[name]["shape"]
    assert 0 < accepted < 4 * len(small)  # names, data and some dtypes of equal width may change; structure may not


def test_accepts_no_more_than_the_package(tmp_path, small):
    """Whatever the guard lets pass, the package must open too: the guard is a strict narrowing."""
    import safetensors

    generator = np.random.default_rng(5)
    for _ in range(3000):
        data = bytearray(small)
        for _ in range(generator.integers(1, 4)):
            data[generator.integers(0, header_length(small))] = generator.integers(32, 127)
        (tmp_path / "a").write_bytes(data)
        try:
            found = read_tensors(tmp_path / "a")
        except InputError:
            continue
        with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
            assert sorted(file.keys()) == list(found)
