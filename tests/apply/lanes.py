"""The way from a checkpoint to codes and to a likelihood in the ordered lane, as one digest; run in processes of their own."""

from __future__ import annotations

import hashlib

import numpy as np

import model
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import find_recipe
from refquant.apply.rewrite_parts import Awq, BlockRotations, RandomBlockRotations, Rotations, Smoothing
from refquant.apply.run import open_workbench
from refquant.apply.states import calibration_states
from refquant.numerics import LANES
from tests.apply.sampled import EOS, LINES
from tests.apply.tiny import config_of, recipe, states_of, tensors_of

PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out")

EVERYTHING = recipe(
    tokens={"weighting": "certainty"},
    activations={"method": "per_token", "bits": 4},
    values={"method": "ia_aq", "bits": 4},
    probabilities={"bits": 16},
    calibration={"states": "tmas", "gen_length": 8, "block_length": 4, "min_distinct": 0.0, "prompts": 4, "samples": 10},
)


def tiny_model(lane, dtype="float32"):
    config = config_of()
    tensors = {name: array.astype(np.float32) for name, array in tensors_of(config).items()}
    return model.build(config, tensors, dtype, LANES[lane])


def quantize_everything(m):
    rng = np.random.Generator(np.random.PCG64(0))
    states = calibration_states(m, LINES, EVERYTHING.calibration, rng, eos_id=EOS)
    return quantize_model(m, EVERYTHING, states.states)


def tiny_digest(lane):
    m = tiny_model(lane)
    return digest_of(quantize_everything(m), m)


REWRITTEN = {
    "smoothquant": (Smoothing(places=PLACES, inapplicable="online"),),
    "awq": (Awq(candidates=5, inapplicable="online"),),
    "awq, weighted": (Awq(candidates=5, inapplicable="skip", scaling="duo", weighted=True),),
    "quarot": (Rotations(seed=1),),
    "quarot, orthogonal": (Rotations(matrix="orthogonal", seed=1),),
    "duquant": (BlockRotations(block=4, steps=5),),
    "duquant, a rotation a block": (BlockRotations(block=8, steps=3, shared=False, tokens="mean", target="row"),),
    "soloq": (RandomBlockRotations(block=4),),
    "quarot, then awq": (Rotations(rotations=("R1", "R3", "R4")), Awq(candidates=4, inapplicable="skip")),
    "smoothquant, then duquant": (Smoothing(alpha=0.7), BlockRotations(block=8, steps=3)),
}


def rewritten_model(lane, name):
    """A tiny model behind rewrites, quantized by GPTQ with AWQ's limits, TAC and 4-bit activations; and the model as it came."""
    m = tiny_model(lane)
    plan = recipe(
        {"limits": "awq", "limit_steps": 4, "scheme": "asym_minmax"},
        rewrites=REWRITTEN[name],
        tokens={"weighting": "certainty"},
        activations={"method": "per_token", "bits": 4},
        attention_output={"method": "tac", "block": 4},
    )
    return quantize_model(m, plan, states_of((12, 12, 12))), m


def rewritten_digest(lane, name):
    quantized, m = rewritten_model(lane, name)
    found = hashlib.sha256(digest_of(quantized, m).encode())
    for tensor, array in sorted(quantized.rewritten.tensors.items()):
        found.update(tensor.encode() + array.tobytes())
    for linear, transforms in sorted(quantized.rewritten.online.items()):
        for transform in transforms:
            found.update(f"{linear} {transform.kind}".encode() + b"".join(a.tobytes() for _, a in sorted(transform.parts().items())))
    found.update(repr([sorted(note.items()) for note in quantized.rewritten.notes]).encode())
    return found.hexdigest()


def rewritten_digests(lane):
    """All of them by name, for one process."""
    return {name: rewritten_digest(lane, name) for name in REWRITTEN}


def embedded_digest(lane):
    """`dllmquant-w4a4` of the embedded model with 8 calibration sequences."""
    source = model.embedded_directory()
    m = model.load(source, arithmetic=LANES[lane])
    bench = open_workbench(source, m, source / "calib.jsonl", seed=0)
    plan = find_recipe("dllmquant-w4a4").replace(calibration={"samples": 8, "prompts": 2})
    return digest_of(bench.quantize(plan), m)


def digest_of(quantized, m):
    """SHA-256 over codes, scales, value scales, recorded errors, and the logits and likelihood of the quantized model."""
    found = hashlib.sha256()
    for name, weight in sorted(quantized.weights.items()):
        found.update(f"{name} {weight.digest()}".encode())
    for index, grid in sorted(quantized.value_grids.items()):
        found.update(f"{index}".encode() + grid.scale.tobytes())
    for record in quantized.records:
        found.update(repr((record.name, record.tokens, record.error, record.rtn_error)).encode())
    attached = quantized.attach(m)
    ids = np.arange(48, dtype=np.int64).reshape(2, 24) % 30
    found.update(np.ascontiguousarray(attached.logits(ids)).tobytes())
    bound = model.nll_bound(attached, ids[0, :8], ids[0, 8:], mc_num=4, batch_size=2, rng=np.random.Generator(np.random.PCG64(0)))
    found.update(repr(bound).encode())
    return found.hexdigest()
