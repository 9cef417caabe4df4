"""Checking a quantized folder against its own description, a tensor at a time: for folders that do not fit into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from refquant.apply.description import DESCRIPTION, Description, check_digests, read_description
from refquant.apply.saving import read_whole
from refquant.apply.stored_parts import read_weight
from refquant.storage import Checkpoint, canonical_json, digest, open_checkpoint


def verify_folder(path: Path) -> Description:
    """Check every digest of a quantized folder, holding one linear's codes at a time.

    Raises
    ------
    InputError
        If anything is missing, damaged or not recorded.
    """
    description = read_description(path)
    files = {name: digest(read_whole(path / name)) for name in description.files if (path / name).is_file()}
    check_digests(str(path), files, description.files)
    stored, parts = open_checkpoint(path), set[str]()
    for name, entry in description.weights.items():
        parts |= {f"{name}.{part}" for part in read_weight(stored, name, entry, path / DESCRIPTION).parts()}
    untouched = {name: _streamed_digest(stored, name) for name in stored.names if name not in parts}
    check_digests(str(path), untouched, description.untouched)
    return description


def _streamed_digest(stored: Checkpoint, name: str) -> str:
    """What :func:`~refquant.apply.description.tensor_digest` says of a stored tensor, piece by piece."""
    found = hashlib.sha256(canonical_json([stored.dtype(name).name, list(stored.shape(name))]).encode() + b"\n")
    for piece in stored.pieces(name):
        found.update(piece)
    return found.hexdigest()
