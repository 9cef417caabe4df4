"""Files written piece by piece: the bytes of the plain writer, shards that others read, sources that do not keep their word."""

import itertools
import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.storage import TensorSource, open_checkpoint, open_file, plan_shards, write_index, write_streamed, write_tensors

ARRAYS = {
    "b.codes": np.arange(35, dtype=np.uint8).reshape(5, 7)[:, ::-1],
    "a.scale": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3).T,
    "wte": np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 4), np.float16),
    "scalar": np.array(3.5),
    "truth": np.array([True, False]),
}


def sources(arrays):
    return {name: TensorSource.of(array) for name, array in arrays.items()}


def test_the_bytes_are_those_of_the_plain_writer(tmp_path):
    write_tensors(tmp_path / "plain", ARRAYS, {"format": "pt"})
    write_streamed(tmp_path / "streamed", sources(ARRAYS), {"format": "pt"})
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "plain").read_bytes()


def test_tensors_pass_from_file_to_file(tmp_path):
    write_tensors(tmp_path / "first", ARRAYS)
    first = open_file(tmp_path / "first")
    write_streamed(tmp_path / "second", {name: TensorSource.stored(first, name) for name in first.names})
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()


def test_a_tensor_is_never_in_memory_as_a_whole(tmp_path):
    """160 MiB pass through, from a sparse file to another file, in pieces of 16."""
    text = b'{"w":{"dtype":"U8","shape":[167772160],"data_offsets":[0,167772160]}}   '
    with open(tmp_path / "sparse", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 167772160)
    stored = open_file(tmp_path / "sparse")
    tracemalloc.start()
    try:
        write_streamed(tmp_path / "out", {"w": TensorSource.stored(stored, "w")})
        assert tracemalloc.get_traced_memory()[1] < 2.5 * (1 << 24)
    finally:
        tracemalloc.stop()
    assert open_file(tmp_path / "out").digest() == stored.digest()


@pytest.mark.parametrize(("pieces", "found"), [([b"123"], "fewer"), ([b"123", b"45"], "more"), ([], "fewer")])
def test_a_source_that_does_not_keep_its_word(tmp_path, pieces, found):
    source = TensorSource(dtype=np.dtype(np.uint8), shape=(2, 2), pieces=lambda: iter(pieces))
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(InputError, match=f"tensor 'w' has 4 bytes; its source handed over {found}"):
        write_streamed(tmp_path / "a", {"w": source})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"before"}


def test_what_has_no_place_in_the_format(tmp_path):
    with pytest.raises(UsageError, match="dtype complex64, allowed are"):
        write_streamed(tmp_path / "a", sources({"w": np.zeros(1, np.complex64)}))
    with pytest.raises(UsageError, match="a string other than '__metadata__'"):
        write_streamed(tmp_path / "a", sources({"__metadata__": np.zeros(1)}))
    assert list(tmp_path.iterdir()) == []


@given(sizes=st.lists(st.integers(0, 12), max_size=12), limit=st.integers(1, 12))
def test_shards_hold_every_group_once_in_order_and_no_more_than_fits(sizes, limit):
    shards = plan_shards(sizes, limit)
    assert [group for shard in shards for group in shard.groups] == list(range(len(sizes)))
    for shard in shards:
        total = sum(sizes[group] for group in shard.groups)
        assert total <= limit or len([group for group in shard.groups if sizes[group]]) == 1
    for one, other in itertools.pairwise(shards):  # none could have taken the next group
        assert sum(sizes[group] for group in one.groups) + sizes[other.groups[0]] > limit
    assert len({shard.file for shard in shards}) == len(shards)


def test_shards_and_their_index_are_read_by_us_and_by_the_package(tmp_path):
    names = sorted(ARRAYS)
    shards = plan_shards([ARRAYS[name].nbytes for name in names], limit=40)
    assert next(shard.file for shard in shards) == f"model-00001-of-{len(shards):05d}.safetensors"
    assert len(shards) > 2
    homes = {}
    for shard in shards:
        part = {names[i]: ARRAYS[names[i]] for i in shard.groups}
        homes |= dict.fromkeys(part, shard.file)
        write_streamed(tmp_path / shard.file, sources(part))
    write_index(tmp_path, homes, sum(array.nbytes for array in ARRAYS.values()))
    stored = open_checkpoint(tmp_path)
    theirs = {}
    for shard in shards:
        theirs |= safetensors.numpy.load_file(tmp_path / shard.file)
    assert set(stored.names) == set(theirs) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(stored.read(name), array), name
        assert np.array_equal(theirs[name], array), name
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(array.nbytes for array in ARRAYS.values())}


def test_pieces_of_a_file_that_was_cut(tmp_path):
    write_tensors(tmp_path / "a", {"w": np.arange(9)})
    stored = open_file(tmp_path / "a")
    with open(tmp_path / "a", "r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match="bytes early: it changed since it was opened"):
        list(stored.pieces("w"))
