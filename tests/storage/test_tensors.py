"""Single files: round trips over dtypes and memory layouts, against bytes put together by hand and against the safetensors package."""

import json
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from refquant.errors import InputError, UsageError
from refquant.storage import read_header, read_tensors, write_tensors

NATIVE = [np.dtype(code) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")]
EXTRA = [np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)]
SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def same(a, b):
    """Same dtype, shape and bits: NaN payloads and negative zeros included."""
    assert (a.dtype.newbyteorder("="), a.shape) == (b.dtype.newbyteorder("="), b.shape)
    assert a.astype(a.dtype.newbyteorder("=")).tobytes() == b.astype(b.dtype.newbyteorder("=")).tobytes()


@st.composite
def raw_arrays(draw):
    """Arrays of every dtype with arbitrary bit patterns, then bent into every kind of memory layout."""
    dtype = draw(st.sampled_from(NATIVE + EXTRA))
    shape = draw(SHAPES)
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = (raw & 1).astype(bool) if dtype.kind == "b" else raw.view(dtype)
    array = array.reshape(shape)
    bend = draw(st.sampled_from(["none", "transpose", "fortran", "reverse", "stride", "swap", "broadcast"]))
    if bend == "transpose":
        return array.T
    if bend == "fortran":
        return np.asfortranarray(array)
    if bend == "reverse" and array.ndim:
        return array[::-1]
    if bend == "stride" and array.ndim:
        return array[..., ::2]
    if bend == "swap" and dtype in NATIVE:
        return array.astype(dtype.newbyteorder(">"))
    if bend == "broadcast":
        return np.broadcast_to(array, (2, *shape))
    return array


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda name: name != "__metadata__")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, raw_arrays(), max_size=4), metadata=st.dictionaries(NAMES, NAMES, max_size=3))
def test_round_trip(tmp_path, tensors, metadata):
    path = tmp_path / "a.safetensors"
    before = {name: array.tobytes() for name, array in tensors.items()}
    write_tensors(path, tensors, metadata)
    found = read_tensors(path)
    assert list(found) == sorted(tensors)
    for name, array in tensors.items():
        same(found[name], array)
        assert array.tobytes() == before[name]
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
    assert dict(read_header(path).metadata) == metadata


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, raw_arrays(), max_size=4))
def test_same_bytes_as_the_package(tmp_path, tensors):
    plain = {name: np.array(array, dtype=array.dtype.newbyteorder("="), order="C") for name, array in tensors.items()}
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    assert path.read_bytes() == safetensors.numpy.save(plain)
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            if not plain[name].dtype.name.startswith("float8"):  # which the package cannot hand to NumPy
                same(file.get_tensor(name), plain[name])


def test_order_of_every_dtype_is_the_package_s(tmp_path):
    tensors = {f"{name}{dtype}": np.ones(3, dtype) for dtype in NATIVE + EXTRA for name in "ab"}
    write_tensors(tmp_path / "a", tensors)
    assert (tmp_path / "a").read_bytes() == safetensors.numpy.save(tensors)


def test_bytes_by_hand(tmp_path):
    """Every byte of a file, put together with struct."""
    text = (
        b'{"__metadata__":{"a":"1","b":"2"},"z":{"dtype":"F64","shape":[],"data_offsets":[0,8]},'
        b'"t":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"h":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},'
        b'"n":{"dtype":"I16","shape":[0,3],"data_offsets":[28,28]},"q":{"dtype":"BOOL","shape":[3],"data_offsets":[28,31]}}'
    )
    text += b" " * (-len(text) % 8)
    data = struct.pack("<d", -0.5) + struct.pack("<4f", 1, 3, 2, 4) + struct.pack("<2H", 0x3F80, 0xC040) + bytes([1, 0, 1])
    expected = struct.pack("<Q", len(text)) + text + data
    tensors = {
        "q": np.array([True, False, True]),
        "n": np.zeros((0, 3), ">i2"),
        "h": np.array([1, -3], ml_dtypes.bfloat16),
        "t": np.array([[1, 2], [3, 4]], ">f4").T,
        "z": np.array(-0.5),
    }
    write_tensors(tmp_path / "a", tensors, {"b": "2", "a": "1"})
    assert (tmp_path / "a").read_bytes() == expected
    for name, array in read_tensors(tmp_path / "a").items():
        same(array, tensors[name])


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    program = (
        "import sys, numpy as np; from refquant.storage import write_tensors;"
        "write_tensors(sys.argv[1], {c: np.ones(1) for c in set('abcdef')}, {c: c for c in set('uvwxyz')})"
    )
    for seed in "123":
        path = tmp_path / seed
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, env={"PYTHONHASHSEED": seed})
    assert len({(tmp_path / seed).read_bytes() for seed in "123"}) == 1


def test_why_the_package_is_guarded(tmp_path):
    """What the package does today with a strided array and with duplicate names. If this fails, the guard's reasons have changed."""
    array = np.arange(6, dtype=np.int8).reshape(2, 3).T
    assert safetensors.numpy.load(safetensors.numpy.save({"a": array}))["a"].tolist() != array.tolist()
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + b"\xff")
    assert safetensors.numpy.load_file(tmp_path / "a")["a"] == [-1]
    with pytest.raises(InputError, match="the key 'a' occurs twice"):
        read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a": np.zeros(1, complex)}, None, "tensor 'a': dtype complex128, allowed are"),
        ({"a": np.array(["x"])}, None, "tensor 'a': dtype <U1"),
        ({"a": np.array([None])}, None, "tensor 'a': dtype object"),
        ({"a": np.zeros(1, "f4,i4")}, None, "tensor 'a': dtype "),
        ({"a": [1.0]}, None, "tensor 'a': found a list"),
        ({"__metadata__": np.zeros(1)}, None, "tensor name '__metadata__'"),
        ({3: np.zeros(1)}, None, "tensor name 3"),
        ({"\ud800": np.zeros(1)}, None, "lone surrogate"),
        ({}, {"a": 1}, "metadata maps 'a' to 1"),
        ({"a": np.zeros((1,) * 33)}, None, "33 axes, at most 32"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path, tensors, metadata, message):
    with pytest.raises(UsageError, match=message) as caught:
        write_tensors(tmp_path / "a", tensors, metadata)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_package_refuses_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr("refquant.storage.tensors._header_bytes", lambda *_: struct.pack("<Q", 2) + b"[]")
    with pytest.raises(InputError, match="the safetensors package refuses"):
        write_tensors(tmp_path / "a", {})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_header_is_json_that_everyone_reads(tmp_path):
    name = 'q"\n\\é\x7f\x01'
    write_tensors(tmp_path / "a", {name: np.zeros(1)}, {"k": "v"})
    data = (tmp_path / "a").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    assert set(json.loads(data[8 : 8 + length])) == {"__metadata__", name}
