"""A corpus, a tiny model, and calibration states and rollouts made of them."""

from __future__ import annotations

import numpy as np

from refquant.apply.corpus import CalibrationLine, split_line
from refquant.apply.parts import Calibration
from refquant.apply.rollout import roll_out
from refquant.apply.states import calibration_states
from refquant.storage import canonical_json, digest
from tests.apply.tiny import tiny

MASK, EOS = 39, 37
M = tiny(include_bias=False)
SMALL = {"gen_length": 8, "block_length": 4, "min_distinct": 0.0, "prompts": 6, "samples": 20}


def corpus(count=8, seed=0):
    """Texts, answered prompts of several lengths, in turn."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        ids = tuple(int(t) for t in rng.integers(0, 37, 20 + i % 3))
        if i % 2:
            lines.append(CalibrationLine(prompt=ids[:6], response=ids[6 : 9 + i % 5], cut=False))
        else:
            lines.append(CalibrationLine(prompt=(), response=ids, cut=True))
    return lines


LINES = corpus()


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def made(states, lines=LINES, seed=0, tokens=None, m=M, eos=EOS, **changes):
    plan = Calibration(**SMALL | {"states": states} | changes)
    return calibration_states(m, lines, plan, generator(seed), eos_id=eos, tokens=tokens)


def pinned(found):
    return digest(canonical_json([[s.line, s.ids.tolist(), s.final_ids.tolist()] for s in found.states]))[:16]


def prompt_of(line, eos=EOS):
    return split_line(line, SMALL["gen_length"], SMALL["block_length"], eos)[0]


def rolled(lines=LINES, seed=0, **changes):
    plan = Calibration(**SMALL | {"states": "rollout"} | changes)
    return roll_out(M, lines, range(len(lines)), plan, generator(seed), EOS)
