"""Checkpoint folders: both forms, every disagreement between index and shards, names that try to leave the folder."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

from refquant.errors import InputError
from refquant.storage import open_checkpoint, read_tensors, write_tensors

TENSORS = {
    "model.embed": np.arange(12, dtype=np.float32).reshape(3, 4),
    "model.blocks.0.q": np.array([[1.5, -2]], ml_dtypes.bfloat16),
    "model.blocks.0.k": np.array([3], np.float16),
    "model.scalar": np.array(7, np.int64),
    "model.empty": np.zeros((0, 5), np.uint8),
}
INDEX = "model.safetensors.index.json"


def single(folder, tensors=TENSORS):
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def sharded(folder, shards, weight_map=None):
    """Write `shards` (file name to tensor names) and an index, truthful unless `weight_map` says otherwise."""
    folder.mkdir(exist_ok=True)
    for shard, names in shards.items():
        write_tensors(folder / shard, {name: TENSORS[name] for name in names}, {"format": "pt"})
    truth = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {"total_size": 1}, "weight_map": truth if weight_map is None else weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


NAMES = sorted(TENSORS)
SPLITS = [
    {"a.safetensors": NAMES},
    {"a.safetensors": NAMES[:2], "b.safetensors": NAMES[2:]},
    {f"model-0000{i}-of-00005.safetensors": [name] for i, name in enumerate(reversed(NAMES))},
]


def test_single(tmp_path):
    checkpoint = open_checkpoint(str(single(tmp_path)))
    assert checkpoint.names == tuple(NAMES)
    assert checkpoint.files == (tmp_path / "model.safetensors",)
    assert checkpoint.directory == tmp_path
    with pytest.raises(AttributeError):
        checkpoint.names = ()


@pytest.mark.parametrize("rows", [[0], [2, 0], [1, 1, 0], [0, 1, 2], [], [2, 1, 0, 2]])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_, np.float64])
def test_rows(tmp_path, rows, dtype):
    tensors = {"a": np.ones(5, np.int8), "m": (np.arange(24).reshape(3, 2, 4) % 5).astype(dtype), "z": np.zeros(3, dtype)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    found = open_checkpoint(tmp_path).read_rows("m", rows)
    np.testing.assert_array_equal(found.astype(np.float64), tensors["m"][np.array(rows, int)].astype(np.float64))
    assert found.dtype == tensors["m"].dtype
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.base is None or found.base.nbytes == found.nbytes


def test_rows_are_read_and_nothing_else(tmp_path, monkeypatch):
    tensors = {"m": np.arange(40, dtype=np.float32).reshape(10, 4)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    sizes = []
    from refquant.storage import checkpoint as module

    original = module.read_entry

    def counting(file, name, entry, path):
        sizes.append(entry.nbytes)
        return original(file, name, entry, path)

    monkeypatch.setattr(module, "read_entry", counting)
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read_rows("m", [7, 2, 3, 7]), tensors["m"][[7, 2, 3, 7]])
    assert sizes == [32, 16]


@pytest.mark.parametrize("rows", [[3], [-1], [0.5], [[0]], 1, ["a"]])
def test_rows_that_are_not_there(tmp_path, rows):
    with pytest.raises(InputError, match=r"model\.embed"):
        open_checkpoint(single(tmp_path)).read_rows("model.embed", rows)


def test_rows_of_a_tensor_without_axes(tmp_path):
    with pytest.raises(InputError, match=r"from a tensor of shape \(\)"):
        open_checkpoint(single(tmp_path)).read_rows("model.scalar", [0])


@pytest.mark.parametrize("split", SPLITS)
def test_sharded_reads_the_same(tmp_path, split):
    checkpoint = open_checkpoint(sharded(tmp_path, split))
    assert checkpoint.names == tuple(NAMES)
    assert checkpoint.files == tuple(tmp_path / name for name in sorted(split))
    for name, array in TENSORS.items():
        found = checkpoint.read(name)
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert (checkpoint.dtype(name), checkpoint.shape(name)) == (array.dtype, array.shape)
        found[...] = 0
        assert checkpoint.read(name).tobytes() == array.tobytes()


def test_digest_does_not_depend_on_the_sharding(tmp_path):
    folders = [single(tmp_path / "single")] + [sharded(tmp_path / str(i), split) for i, split in enumerate(SPLITS)]
    assert len({open_checkpoint(folder).digest() for folder in folders}) == 1


def test_digest_by_hand(tmp_path):
    import hashlib

    tensors = {"b": np.array([[1, 2]], np.uint8), "a": np.array(-1.0, np.float32), "é": np.zeros((2, 0), np.int16)}
    text = b'["a","F32",[]]\n\x00\x00\x80\xbf["b","U8",[1,2]]\n\x01\x02["\\u00e9","I16",[2,0]]\n'
    assert open_checkpoint(single(tmp_path, tensors)).digest() == hashlib.sha256(text).hexdigest()


def test_digest_reads_in_pieces(tmp_path, monkeypatch):
    whole = open_checkpoint(single(tmp_path)).digest()
    monkeypatch.setattr("refquant.storage.checkpoint._CHUNK", 3)
    assert open_checkpoint(tmp_path).digest() == whole


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([1, 2], np.uint8), "c": np.array([3], np.uint8)},
        {"a": np.array([1, 2], np.int8), "b": np.array([3], np.uint8)},
        {"a": np.array([[1, 2]], np.uint8), "b": np.array([3], np.uint8)},
        {"a": np.array([1, 3], np.uint8), "b": np.array([3], np.uint8)},
        {"a": np.array([1], np.uint8), "b": np.array([2, 3], np.uint8)},
        {"a": np.array([1, 2], np.uint8)},
    ],
)
def test_digest_sees_name_dtype_shape_and_bytes(tmp_path, other):
    tensors = {"a": np.array([1, 2], np.uint8), "b": np.array([3], np.uint8)}
    one, two = (open_checkpoint(single(tmp_path / name, value)) for name, value in [("1", tensors), ("2", other)])
    assert one.digest() != two.digest()


def test_unknown_name(tmp_path):
    checkpoint = open_checkpoint(single(tmp_path))
    for call in (checkpoint.read, checkpoint.shape, checkpoint.dtype):
        with pytest.raises(InputError, match=r"no tensor 'model.blocks.0.kk'; near matches: 'model.blocks.0.k', "):
            call("model.blocks.0.kk")
    with pytest.raises(InputError, match=r"no tensor 'zzz'; none of its 5 names is near"):
        checkpoint.read("zzz")


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=f"no checkpoint here, looked for model.safetensors and {INDEX}"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_checkpoint(tmp_path / "missing")
    single(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    checkpoint = open_checkpoint(single(tmp_path))
    os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size - 1)
    for call in (lambda: [checkpoint.read(name) for name in NAMES], checkpoint.digest):
        with pytest.raises(InputError, match="bytes early: it changed"):
            call()


def test_both_forms(tmp_path):
    """Accepted only where they agree; a stale neighbour is an error."""
    sharded(tmp_path / "agree", {"model.safetensors": NAMES})
    assert open_checkpoint(tmp_path / "agree").names == tuple(NAMES)
    for split in SPLITS:
        folder = single(sharded(tmp_path / f"differ{len(split)}", split))
        with pytest.raises(InputError, match="both present, only one may be"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, r"weight_map is None"),
        ([], r"weight_map is \[\]"),
        ({}, r"weight_map is \{\}"),
        ({"model.embed": 3}, r"tensor 'model.embed' is placed in 3, a plain file name"),
        ({NAMES[0]: "a.safetensors"}, r"tensor 'model.blocks.0.q' is not listed in model.safetensors.index.json"),
        (dict.fromkeys([*NAMES, "x"], "a.safetensors"), r"tensor 'x' is placed in 'a.safetensors', but no shard holds it"),
        (
            dict.fromkeys(NAMES, "a.safetensors") | {"x": "c\n.safetensors", "w": "c\n.safetensors"},
            r"missing; the index places 2 tensors there, first 'w'",
        ),
    ],
)
def test_index_against_one_shard(tmp_path, weight_map, message):
    sharded(tmp_path, {"a.safetensors": NAMES})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map} if weight_map is not None else {}))
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


def test_index_that_is_not_json(tmp_path):
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(InputError, match="the key 'a' occurs twice"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    sharded(tmp_path, {"a.safetensors": NAMES[:3], "b.safetensors": NAMES[2:]})
    with pytest.raises(InputError, match=r"b.safetensors: tensor '.*' is in 'a.safetensors' too"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_another_shard_than_stated(tmp_path):
    truth = dict.fromkeys(NAMES[:3], "a.safetensors") | dict.fromkeys(NAMES[3:], "b.safetensors")
    sharded(tmp_path, SPLITS[1], truth)
    with pytest.raises(InputError, match=r"is placed in 'a.safetensors', but it is in 'b.safetensors'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shard", ["../a", "/etc/passwd", "sub/a", "..", ".", "", "..\\a", "C:a", "a\0", "sub\\a"])
def test_names_that_are_not_plain(tmp_path, shard):
    single(tmp_path / "sub")
    sharded(tmp_path, {"a.safetensors": NAMES[:1]}, {NAMES[0]: shard})
    with pytest.raises(InputError, match="a plain file name in the folder is needed"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("absolute", [True, False])
def test_links_that_leave_the_folder(tmp_path, absolute):
    outside = single(tmp_path / "outside") / "model.safetensors"
    inside = tmp_path / "inside"
    inside.mkdir()
    os.symlink(outside if absolute else "../outside/model.safetensors", inside / "a.safetensors")
    (inside / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(NAMES, "a.safetensors")}))
    with pytest.raises(InputError, match="a link that leads out of the folder"):
        open_checkpoint(inside)
    (inside / INDEX).unlink()
    os.rename(inside / "a.safetensors", inside / "model.safetensors")
    with pytest.raises(InputError, match="a link that leads out of the folder"):
        open_checkpoint(inside)


def test_links_inside_the_folder_and_to_the_folder(tmp_path):
    real = single(tmp_path / "real")
    os.rename(real / "model.safetensors", real / "blob")
    os.symlink("blob", real / "model.safetensors")
    os.symlink("real", tmp_path / "link")
    assert open_checkpoint(tmp_path / "link").names == tuple(NAMES)


def test_the_cache_of_the_hub(tmp_path):
    """snapshots/<revision>/ links to blobs/ of the same repository, and to nowhere else."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    single(blobs)
    os.symlink("../../blobs/model.safetensors", snapshot / "model.safetensors")
    assert open_checkpoint(snapshot).names == tuple(NAMES)
    (snapshot / "model.safetensors").unlink()
    single(tmp_path / "elsewhere")
    os.symlink("../../elsewhere/model.safetensors", snapshot / "model.safetensors")
    with pytest.raises(InputError, match="leads out of the folder"):
        open_checkpoint(snapshot)


def test_a_loop_of_links_and_a_dangling_one(tmp_path):
    os.symlink("model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.symlink("nowhere", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="No such file"):
        open_checkpoint(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    sharded(tmp_path, SPLITS[1])
    os.truncate(tmp_path / "b.safetensors", 100)
    with pytest.raises(InputError, match=r"b.safetensors: "):
        open_checkpoint(tmp_path)


def test_read_touches_only_its_own_bytes(tmp_path, monkeypatch):
    """A tensor is read although the file's other tensors are on a hole as long as a disk."""
    text = json.dumps(
        {
            "big": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]},
            "w": {"dtype": "U8", "shape": [2], "data_offsets": [2**40, 2**40 + 2]},
        }
    ).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2**40)
        file.seek(0, 2)
        file.write(b"\x01\x02")
    assert open_checkpoint(tmp_path).read("w").tolist() == [1, 2]


def test_the_header_may_be_the_package_s(tmp_path):
    import safetensors.numpy

    safetensors.numpy.save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt", "x": "y"})
    checkpoint = open_checkpoint(tmp_path)
    for name, array in read_tensors(tmp_path / "model.safetensors").items():
        assert checkpoint.read(name).tobytes() == array.tobytes() == TENSORS[name].tobytes()
