"""What travels between processes arrives as it left: equal, checked, and read-only."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from refquant.core import Stats, spec
from refquant.core.qtensor import Origin
from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.methods.binary.quant_dllm import quant_dllm
from refquant.methods.grid.rtn import rtn
from refquant.numerics import ORDERED
from refquant.storage import open_checkpoint, write_tensors

RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((6, 32))
INPUTS = RNG.standard_normal((40, 32))


TENSORS = {
    "rtn": rtn(WEIGHT, spec("int4", group_size=8, scheme="asym_incl0")),
    "nested scales": rtn(WEIGHT, spec("nvfp4")),
    "signs": quant_dllm(WEIGHT, Stats.of(INPUTS).hessian, block=16),
}


@pytest.mark.parametrize("tensor", list(TENSORS.values()), ids=list(TENSORS))
@pytest.mark.parametrize("way", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "copy"])
def test_a_quantized_tensor(tensor, way):
    found = way(tensor)
    assert found.digest() == tensor.digest()
    assert found.origin == tensor.origin
    assert found.dequantize().tobytes() == tensor.dequantize().tobytes()
    for array in found.parts().values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_statistics_merge_as_they_did():
    first, second = (Stats.of(part, None, ORDERED) for part in (INPUTS[:11], INPUTS[11:]))
    found = pickle.loads(pickle.dumps(first)).merge(pickle.loads(pickle.dumps(second)))
    assert found.hessian.tobytes() == Stats.of(INPUTS, None, ORDERED).hessian.tobytes()
    assert not found.digits.parts.flags.writeable


def test_what_arrives_is_checked():
    tensor = rtn(WEIGHT, spec("int4", group_size=8, scheme="sym_full"))
    sent, codes = pickle.dumps(tensor), tensor.codes.tobytes()
    assert sent.count(codes) == 1
    with pytest.raises(InputError, match="int4"):
        pickle.loads(sent.replace(codes, b"\x7f" * len(codes)))


def test_an_origin_keeps_its_parameters_read_only():
    found = pickle.loads(pickle.dumps(Origin(method="gptq", version="2", parameters={"damping": 0.01, "act_order": True})))
    assert found == Origin(method="gptq", version="2", parameters={"damping": 0.01, "act_order": True})
    with pytest.raises(TypeError):
        found.parameters["damping"] = 1.0


def test_a_checkpoint_is_found_again_where_it_lies(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"w": WEIGHT})
    found = pickle.loads(pickle.dumps(open_checkpoint(tmp_path)))
    assert found.read("w").tobytes() == WEIGHT.tobytes()


def test_an_error_keeps_what_it_says():
    found = pickle.loads(pickle.dumps(NotPositiveDefiniteError("blocks.0.q_proj: pivot 3 is -1.0", 3)))
    assert (type(found), str(found), found.pivot) == (NotPositiveDefiniteError, "blocks.0.q_proj: pivot 3 is -1.0", 3)
