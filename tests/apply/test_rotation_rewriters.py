"""Rotations in recipes: what quantizers see behind them, what searches look at, and what they are worth where there are outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import model
from model import Keep, Transformer
from refquant.apply.checkpoint import load
from refquant.apply.layers import OnlineLinear, QuantizedScoreOperands, TransformedScoreOperands, online_transforms
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe, find_recipe
from refquant.apply.rewrite_parts import BlockRotations, Rotations
from refquant.apply.rewriting import rewrite_model
from refquant.apply.rotation_rewriters import RotationRewriter
from refquant.core import Stats, spec
from refquant.core.rewrite import Joint, Rewrite
from refquant.core.rotation import HadamardRotation
from refquant.core.transform import Scale, through
from refquant.errors import InputError, UsageError
from refquant.methods.activation.per_token import quantize_per_token
from refquant.methods.grid.rtn import rtn
from refquant.methods.rotate.duquant import duquant
from refquant.numerics import ORDERED, Arithmetic
from refquant.numerics.hadamard import hadamard, random_signs
from tests.apply.folders import saved
from tests.apply.tiny import states_of, tiny, write_folder

NOTHING = {"weights": {"method": "none"}, "calibration": {"states": "iid"}}
IDS = np.array([[1, 2, 39, 39, 5, 6, 7, 39, 9, 10]])
FF_OUT = "model.transformer.blocks.1.ff_out"


def recipe(*rewrites: Rotations | BlockRotations, **parts: object) -> Recipe:
    return Recipe(name="t").replace(rewrites=rewrites, **(NOTHING | parts))


def wide(**changes: object) -> Transformer:
    return tiny(d_model=64, mlp_hidden_size=96, **changes)


def distance(before: Transformer, after: Transformer) -> float:
    """Root mean square of the logits' change, relative to that of the logits."""
    y = before.logits(IDS)
    moved = after.logits(IDS) - y
    return float(np.sqrt((moved * moved).mean() / (y * y).mean()))


def change(before: Transformer, after: Transformer) -> float:
    y = before.logits(IDS)
    return float(np.abs(after.logits(IDS) - y).max() / np.abs(y).max())


@pytest.mark.parametrize(
    "rewrites",
    [
        (Rotations(),),
        (Rotations(rotations=("R2", "R4"), seed=5),),
        (Rotations(matrix="orthogonal", cross_heads=False),),
        (BlockRotations(block=8, steps=4),),
        (BlockRotations(block=4, steps=4, target="row", shared=False, permutations=2, inputs="float", search_tokens=0),),
        (Rotations(rotations=("R1", "R2", "R4")), BlockRotations(block=4, steps=3)),
    ],
    ids=["quarot", "some", "orthogonal", "duquant", "duquant options", "both"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_without_quantizers_the_function_stays(rewrites: tuple[Rotations | BlockRotations, ...], tied: bool) -> None:
    m = tiny(weight_tying=tied)
    quantized = quantize_model(m, recipe(*rewrites), states_of())
    assert change(m, quantized.attach(m)) < 1e-10


def test_a_seed_is_part_of_the_recipe() -> None:
    m = tiny()
    name = "model.transformer.wte.weight"
    one, same, other = (RotationRewriter(Rotations(seed=seed)).prepare(m).parameters[name] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert recipe(Rotations()).digest() != recipe(Rotations(seed=1)).digest()


def test_quantizers_stand_behind_the_online_rotation() -> None:
    """The MLP's last linear: its input is rotated, then quantized, then multiplied by the weight that was rotated, then quantized."""
    m = tiny()
    activations = {"method": "per_token", "bits": 4}
    plan = recipe(Rotations(rotations=("R4",)), weights={"method": "rtn", "scheme": "sym_full", "group_size": -1}, activations=activations)
    a = quantize_model(m, plan, states_of()).attach(m)
    x = np.random.default_rng(0).standard_normal((3, 24))
    rotated = rewrite_model(m, Rewrite(method="none")).linears[FF_OUT]
    h = RotationRewriter(Rotations(rotations=("R4",))).prepare(m).linears[FF_OUT]
    assert isinstance(h, OnlineLinear)
    (turn,) = online_transforms(h)
    weight = rtn(turn.apply(rotated.weight.astype(np.float64)), plan.weights.spec()).dequantize(np.dtype(np.float64))  # type: ignore[union-attr]
    seen = quantize_per_token(turn.apply(x), plan.activations.spec())
    np.testing.assert_allclose(a.linears[FF_OUT](x), seen @ weight.T + m.parameters[f"{FF_OUT}.bias"], rtol=1e-9, atol=1e-9)


def test_keys_alone_are_quantized_after_their_rotation() -> None:
    plan = recipe(Rotations(rotations=("R3",)), queries_keys={"method": "per_token", "operands": "keys", "bits": 3, "range_ratio": 0.9})
    m = tiny()
    operands = quantize_model(m, plan, states_of()).attach(m).score_operands[0]
    assert isinstance(operands, TransformedScoreOperands)
    queries, keys = np.random.default_rng(0).standard_normal((2, 1, 4, 5, 4))
    seen_queries, seen_keys = operands(queries, keys[:, :2])
    sylvester = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    np.testing.assert_allclose(seen_queries, queries @ sylvester, atol=1e-14)
    expected = quantize_per_token(
        (keys[:, :2] @ sylvester).reshape(-1, 4), spec("int3", scheme="sym_full", empty="unit_scale", range_ratio=0.9)
    )
    np.testing.assert_allclose(seen_keys, expected.reshape(1, 2, 5, 4), atol=1e-14)
    together = QuantizedScoreOperands(spec("int3", scheme="sym_full"), "keys", "token")(queries, keys)[1]
    scale = np.abs(keys).max(axis=(1, 3), keepdims=True) / 3  # one for all heads of a token
    np.testing.assert_allclose(together, np.rint(keys / scale) * scale, atol=1e-14)
    both = QuantizedScoreOperands(spec("int3", scheme="sym_full"))
    assert not np.array_equal(both(queries, keys)[0], queries)


def injected(m: Transformer) -> Transformer:
    """The same function with outliers: a few channels 60 times as large behind norms, and hidden features 60 times as large in MLPs."""
    steps = []
    for block in m.architecture.blocks:
        loud = np.ones(m.architecture.width)
        loud[[3, 17]] = 1 / 60
        names = tuple(linear.name for linear in block.qkv)
        steps.append(Joint(transform=Scale(factors=loud), producers=(block.attn_norm.name,), consumers=names))
        gate, up = block.mlp.gate_up  # type: ignore[union-attr]
        steps.append(Joint(transform=Scale(factors=loud), producers=(block.ff_norm.name,), consumers=(gate.name, up.name)))
        hidden = np.ones(up.out)
        hidden[[5, 40]] = 1 / 60
        steps.append(Joint(transform=Scale(factors=hidden), producers=(up.name,), consumers=(block.mlp.down.name,)))  # type: ignore[union-attr]
    return rewrite_model(m, Rewrite(method="injection", steps=tuple(steps)))


def test_rotations_recover_what_outliers_cost() -> None:
    """RTN at 6 bits on a model with injected outliers, with and without rotations, and without outliers.

    (Random weights forget everything at 4 bits; the embedded model does not.)
    """
    plain = wide()
    loud = injected(plain)
    assert change(plain, loud) < 1e-10
    parts = {
        "weights": {"method": "rtn", "bits": 6, "scheme": "sym_full", "group_size": -1, "scale_format": ""},
        "activations": {"method": "per_token", "bits": 6},
    }
    errors = {}
    for name, m, rewrites in (
        ("plain", plain, ()),
        ("loud", loud, ()),
        ("quarot", loud, (Rotations(),)),
        ("duquant", loud, (BlockRotations(block=16, steps=32),)),
    ):
        errors[name] = distance(m, quantize_model(m, recipe(*rewrites, **parts), states_of()).attach(m))
    assert errors["loud"] > 1.5 * errors["plain"]
    assert errors["quarot"] < 0.7 * errors["loud"]
    assert errors["duquant"] < 0.8 * errors["loud"]


def test_four_bits_on_the_embedded_model_with_outliers() -> None:
    """RTN W4A4 collapses, QuaRot recovers most of it: shares of positions whose likeliest token is another."""
    m = injected(model.embedded())
    ids = np.random.default_rng(0).integers(4, 1000, (4, 48))
    ids[:, 1::3] = 3
    best = m.logits(ids).argmax(axis=-1)
    flips = {}
    for name in ("rtn-w4a4", "quarot-rtn-w4a4"):
        plan = find_recipe(name).replace(weights={"clip_search": False}, values={"method": "none"}, calibration={"states": "none"})
        flips[name] = float((quantize_model(m, plan, ()).attach(m).logits(ids).argmax(axis=-1) != best).mean())
    assert flips["rtn-w4a4"] > 0.8
    assert flips["quarot-rtn-w4a4"] < 0.5


def test_duquant_searches_on_the_inputs_as_they_arrive() -> None:
    """On the tokens with the largest magnitudes, behind whatever is online already, from the recipe's seed."""
    m = tiny()
    part = BlockRotations(block=4, steps=3, search_tokens=6, seed=7, inputs="float")
    state = states_of((9,))
    before = Rotations(rotations=("R4",))
    quantized = quantize_model(m, recipe(before, part), state)
    prepared = RotationRewriter(before).prepare(m)
    keep = Keep()
    prepared.logits(state[0].ids[None], observer=keep)
    x = through(online_transforms(prepared.linears[FF_OUT]), keep.last(f"{FF_OUT}.input")[0])  # type: ignore[arg-type]
    loudest = sorted(sorted(range(9), key=lambda t: (-np.abs(x[t]).max(), t))[:6])
    expected = duquant(x[loudest], np.random.default_rng([7, 1, 3]), block=4, steps=3).transforms
    online = quantized.rewritten.online[FF_OUT]
    assert [t.kind for t in online] == ["hadamard", "block_rotation", "permutation", "block_rotation"]
    for ours, theirs in zip(online[1:], expected, strict=True):
        (a,), (b,) = ours.parts().values(), theirs.parts().values()
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_mean_over_sequences() -> None:
    m = tiny()
    states = states_of((9, 9, 9))
    part = BlockRotations(block=4, steps=3, tokens="mean", inputs="float")
    quantized = quantize_model(m, recipe(part), states)
    keep = Keep()
    m.logits(np.stack([state.ids for state in states]), observer=keep)
    name = "model.transformer.blocks.0.q_proj"
    expected = duquant(keep.last(f"{name}.input").mean(axis=0), np.random.default_rng([0, 0, 0]), block=4, steps=3).transforms
    np.testing.assert_allclose(quantized.rewritten.online[name][0].parts()["blocks"], expected[0].parts()["blocks"], atol=1e-12)
    with pytest.raises(InputError, match="sequences of one length"):
        quantize_model(m, recipe(part), states_of((9, 5)))


def test_notes_say_what_was_chosen() -> None:
    first, *blocks = quantize_model(
        tiny(), recipe(Rotations(rotations=("R1",)), BlockRotations(block=4, steps=2)), states_of()
    ).rewritten.notes
    assert (first["method"], first["block"], first["rotations"]) == ("quarot", -1, "R1")
    assert [note["block"] for note in blocks] == [0, 1]
    assert len(str(blocks[0][FF_OUT.replace("1", "0")]).split()) == 2  # steps kept by two searches


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('method = "quarot"\nrotations = ["R5"]', "R5"),
        ('method = "quarot"\nrotations = []', "at least one of R1"),
        ('method = "quarot"\nseed = -1', "seed"),
        ('method = "quarot"\nmatrix = "dct"', "matrix"),
        ('method = "duquant"\nblock = 0', "block"),
        ('method = "duquant"\ntarget = "token"', "target"),
        ('method = "duquant"\nalpha = 0.5', "unknown field 'alpha'"),
    ],
)
def test_wrong_tables_are_refused(table: str, message: str) -> None:
    with pytest.raises((InputError, UsageError), match=message):
        Recipe.from_toml(f'name = "a"\n[[rewrites]]\n{table}\n')


def test_a_block_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="blocks of 5 do not divide 16 features"):
        quantize_model(tiny(), recipe(BlockRotations(block=5)), states_of())


def test_shipped_recipes_differ_from_their_base_in_the_rotation_only() -> None:
    base, rotated = find_recipe("dllmquant-w4a4"), find_recipe("dllmquant++-w4a4")
    assert rotated.rewrites == (Rotations(),)
    assert rotated.replace(rewrites=()).digest() == base.digest()
    gptq, plain = find_recipe("quarot-gptq-w4a4"), find_recipe("quarot-rtn-w4a4")
    assert plain.replace(weights={"method": "gptq"}, calibration={"states": "clean"}).digest() == gptq.digest()


@pytest.mark.parametrize("name", ["quarot-rtn-w4a4", "quarot-gptq-w4a4", "dllmquant++-w4a4", "duquant-w4a4"])
@pytest.mark.parametrize("changes", [{}, {"weight_tying": True}, {"n_kv_heads": 4}], ids=["grouped", "tied", "plain"])
def test_shipped_recipes_run_and_come_back_from_their_folder(tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    """The same logits, bit for bit, after saving and loading: rotated tensors, online transforms, a tied model's own head."""
    plan = find_recipe(name)
    if name == "duquant-w4a4":
        smoothing, _ = plan.rewrites
        plan = plan.replace(rewrites=(smoothing, BlockRotations(block=4, steps=4)))
    plan = plan.replace(calibration={"states": plan.calibration.states if plan.calibration.states == "none" else "iid"})
    source = write_folder(tmp_path / "source", **changes)
    m, quantized, folder = saved(tmp_path, plan, source)
    before = quantized.attach(m).logits(IDS)
    assert np.array_equal(load(folder).logits(IDS), before)


@pytest.mark.parametrize("lane", [ORDERED])
def test_rotations_in_the_ordered_lane(lane: Arithmetic) -> None:
    m = tiny()
    slow = model.build(m.config, dict(m.parameters), "float64", lane)
    plan = recipe(Rotations(rotations=("R1", "R2", "R4")), BlockRotations(block=4, steps=2))
    quantized = quantize_model(slow, plan, states_of((9,)))
    assert change(slow, quantized.attach(slow)) < 1e-10


def test_the_hessian_of_rotated_inputs() -> None:
    """DLLMQuant on QuaRot: weights count tokens, not channels, so they commute with the rotation, H_rot = Q^T H Q."""
    x = np.random.default_rng(0).standard_normal((30, 16))
    weights = np.random.default_rng(1).random(30)
    turn = HadamardRotation(plan=hadamard(16), signs=random_signs(np.random.default_rng(2), 16))
    q = turn.apply(np.eye(16))
    plain, rotated = Stats.of(x, weights).hessian, Stats.of(turn.apply(x), weights).hessian
    np.testing.assert_allclose(rotated, q.T @ plain @ q, atol=1e-12)
