"""Checkpoints in and out: guarded safetensors, shard index, JSON without ambiguity, atomic writes."""

from refquant.storage.atomic import new_directory, write_bytes, write_text
from refquant.storage.checkpoint import Checkpoint, open_checkpoint
from refquant.storage.header import Header, TensorEntry, read_header
from refquant.storage.json_text import canonical_json, digest, read_json, read_json_lines
from refquant.storage.tensors import read_tensors, write_tensors

__all__ = [
    "Checkpoint",
    "Header",
    "TensorEntry",
    "canonical_json",
    "digest",
    "new_directory",
    "open_checkpoint",
    "read_header",
    "read_json",
    "read_json_lines",
    "read_tensors",
    "write_bytes",
    "write_tensors",
    "write_text",
]
