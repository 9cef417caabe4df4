"""A whole model on its way to workers."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import model
from model import DenseLinear
from refquant.apply.layers import OnlineLinear, QuantizedAttentionProduct, QuantizedScoreOperands
from refquant.apply.whole_model import WholeModel, reached
from refquant.apply.workforce import HERE, Workforce
from refquant.core import Tiling, spec
from refquant.core.transform import Scale
from tests.apply.tiny import write_folder


def test_a_whole_model_is_itself_where_it_arrives(tmp_path):
    """Streamed or not, with layers and operands of its own; and one that is streamed stays where its files cannot be seen."""
    source, ids = write_folder(tmp_path / "source"), np.arange(24).reshape(2, 12)
    plain = model.load(source)
    one = plain.linears["model.transformer.blocks.0.q_proj"]
    spun = OnlineLinear(one.weight, one.bias, (Scale(factors=np.full(16, 2.0)),))
    product = QuantizedAttentionProduct(4, "unit", None, None)
    operands = QuantizedScoreOperands(spec("int4", tiling=Tiling.token(), scheme="sym_full"))
    changed = plain.replace({"model.transformer.blocks.0.q_proj": spun}, {1: product}, {0: operands})
    assert changed.logits(ids).tobytes() != changed.replace(score_operands={0: None}).logits(ids).tobytes()
    doubled = plain.replace({"model.transformer.blocks.0.q_proj": one.with_weight(2 * one.weight)})  # its parameters are as they were
    shifted = plain.replace({"model.transformer.blocks.0.q_proj": DenseLinear(one.weight, None)})
    assert len({m.logits(ids).tobytes() for m in (plain, changed, doubled, shifted)}) == 4
    assert WholeModel.of(plain).linears == {}  # nothing travels twice
    for m in (plain, model.load(source, stream=True), changed, doubled, shifted):
        assert pickle.loads(pickle.dumps(WholeModel.of(m))).model().logits(ids).tobytes() == m.logits(ids).tobytes()
    with ThreadPoolExecutor(1) as pool:
        seeing, blind = Workforce(pool, 1), Workforce(pool, 1, shared_files=False)
        streamed = model.load(source, stream=True)
        assert [reached(workers, m) for m in (plain, streamed) for workers in (seeing, blind)] == [seeing, blind, seeing, HERE]
