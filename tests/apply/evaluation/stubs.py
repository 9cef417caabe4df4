"""Models whose every logit is known, and a tiny real one."""

from types import SimpleNamespace

import numpy as np

import model
from model.names import tensor_shapes
from refquant.numerics import FAST

MASK = 0


class Table:
    """Logits by a rule: ``rule(ids) -> [T, V]`` for one sequence."""

    def __init__(self, rule, vocabulary):
        self.rule = rule
        self.config = SimpleNamespace(mask_token_id=MASK, embedding_rows=vocabulary)
        self.arithmetic = FAST
        self.rows_seen = 0

    def logits(self, ids, attention_mask=None, observer=None):
        self.rows_seen += len(ids)
        return np.stack([self.rule(np.asarray(row)) for row in ids]).astype(np.float32)


def hashed(vocabulary, salt=0):
    """Logits that look random and depend on the whole sequence."""
    return Table(lambda ids: np.random.default_rng([salt, *ids.tolist()]).normal(size=(len(ids), vocabulary)), vocabulary)


def uniform(vocabulary):
    return Table(lambda ids: np.zeros((len(ids), vocabulary)), vocabulary)


def tiny(seed=0, vocabulary=11):
    values = {
        "rope": True,
        "d_model": 8,
        "n_heads": 2,
        "n_layers": 1,
        "mlp_ratio": 2,
        "vocab_size": vocabulary,
        "embedding_size": vocabulary,
    }
    values |= {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "mask_token_id": MASK}
    values |= {"eos_token_id": 1, "pad_token_id": 1, "max_sequence_length": 32}
    config = model.Config.from_dict(values)
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in tensor_shapes(config).items()}
    return model.build(config, tensors)
