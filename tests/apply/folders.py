"""Quantized folders of tiny models."""

from __future__ import annotations

import numpy as np

import model
from refquant.apply.checkpoint import Provenance, save_quantized
from refquant.apply.quantize import quantize_model
from refquant.apply.states import CalibrationState
from tests.apply.tiny import write_folder

PROVENANCE = Provenance(input_digest="a" * 64, calibration_digest="b" * 64, seed=7, run_digest="c" * 64)
STATIC = {"activations": {"method": "static", "bits": 8}, "values": {"method": "minmax", "bits": 4}}


def states(m, lengths=(9, 12, 9)):
    rng, found = np.random.default_rng(2), []
    mask = m.config.mask_token_id
    for length in lengths:
        final = rng.integers(4, 100, length)
        masked = np.arange(length) % 3 == 2
        found.append(CalibrationState(ids=np.where(masked, mask, final), masked=masked, final_ids=final, line=0))
    return found


def saved(tmp_path, plan, source=None, dtype="float32"):
    source = source or write_folder(tmp_path / "source")
    m = model.load(source, dtype)
    quantized = quantize_model(m, plan, states(m))
    save_quantized(tmp_path / "out", source, quantized, PROVENANCE)
    return m, quantized, tmp_path / "out"
