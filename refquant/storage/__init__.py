"""Checkpoints in and out: guarded safetensors, shard index, JSON without ambiguity, atomic writes, streams, journal and lock."""

from refquant.storage.atomic import new_directory, write_bytes, write_text
from refquant.storage.checkpoint import Checkpoint, open_checkpoint, open_file
from refquant.storage.header import Header, TensorEntry, read_header
from refquant.storage.journal import Journal
from refquant.storage.json_text import canonical_json, digest, read_json, read_json_lines
from refquant.storage.lock import locked
from refquant.storage.streaming import Shard, TensorSource, plan_shards, write_index, write_streamed
from refquant.storage.tensors import read_tensors, write_tensors

__all__ = [
    "Checkpoint",
    "Header",
    "Journal",
    "Shard",
    "TensorEntry",
    "TensorSource",
    "canonical_json",
    "digest",
    "locked",
    "new_directory",
    "open_checkpoint",
    "open_file",
    "plan_shards",
    "read_header",
    "read_json",
    "read_json_lines",
    "read_tensors",
    "write_bytes",
    "write_index",
    "write_streamed",
    "write_tensors",
    "write_text",
]
