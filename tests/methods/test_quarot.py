"""QuaRot's steps on small layers, against the authors' recorded numbers and dense matrices; whole models: tests/apply/test_rotating.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.core.rewrite import Fold, Joint, Rewrite, rewrite_tensors
from refquant.core.rotation import HadamardRotation, Part
from refquant.core.transform import BlockRotation, Permutation, Scale, transform_kind
from refquant.errors import InputError, UsageError
from refquant.methods.rotate.network import BlockSite, Network, NormSite
from refquant.methods.rotate.quarot import norm_folds, quarot
from refquant.numerics.draws import words
from refquant.numerics.hadamard import hadamard

PEER = load_file(Path(__file__).parents[1] / "data" / "quant" / "quarot_hadamard.safetensors")


def norm(name: str) -> NormSite:
    return NormSite(name=name, rms=True, gain=True, bias=False)


def network(**changes: object) -> Network:
    block = BlockSite(
        attn_norm=norm("n1"), qkv=("q", "k", "v"), attn_out="o", ff_norm=norm("n2"), ff_readers=("gate", "up"), ff_writers=(("down", 12),)
    )
    plain = Network(width=8, heads=4, kv_heads=2, head_dim=2, embedding="e", head="h", final_norm=norm("n3"), blocks=(block,))
    return replace(plain, **changes)  # type: ignore[arg-type]


def dense(size: int) -> np.ndarray:
    """The orthonormal matrix itself, from the recorded base or the definition of Sylvester's."""
    if size & (size - 1) == 0:
        return np.array([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)]) / np.sqrt(size)
    return PEER[f"had.{size}.hadK_int8"] / np.sqrt(size)


def rewritten(rewrite: Rewrite, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random tensors of the network above before and after."""
    rng = np.random.default_rng(seed)
    shapes = {
        "e": (20, 8),
        "q": (8, 8),
        "k": (4, 8),
        "v": (4, 8),
        "o": (8, 8),
        "gate": (12, 8),
        "up": (12, 8),
        "down": (8, 12),
        "h": (20, 8),
    }
    before = {f"{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}
    before |= {f"{name}.weight": rng.standard_normal(8) for name in ("n1", "n2", "n3")}
    before |= {"v.bias": rng.standard_normal(4), "o.bias": rng.standard_normal(8), "q.bias": rng.standard_normal(8)}
    roles = dict.fromkeys(shapes, "linear") | {"e": "embedding", "n1": "norm", "n2": "norm", "n3": "norm"}
    after = {**before, **rewrite_tensors(rewrite, before, roles)}  # type: ignore[arg-type]
    return before, after


def test_rotation_invariance_of_the_recorded_layer() -> None:
    """[QUAROT-1] and [QUAROT-2]: gain folded and rotated on both sides, W (x / rms) gives the recorded output."""
    weight, gain, x, q = PEER["inv.W"], PEER["inv.gain"], PEER["inv.x"], PEER["randhad.128.Q"]
    roles = {"n": "norm", "w": "linear"}
    folded = rewrite_tensors(Rewrite(method="t", steps=(Fold(norm="n", consumers=("w",)),)), {"n.weight": gain, "w.weight": weight}, roles)  # type: ignore[arg-type]
    assert np.array_equal(folded["n.weight"], np.ones(128))
    signs = PEER["randhad.128.signs"]
    rotation = HadamardRotation(plan=hadamard(128), signs=signs)
    np.testing.assert_allclose(rotation.apply(x), x @ q, rtol=1e-6, atol=1e-6)  # theirs divides by a float32 root
    ours = rotation.undo(folded["w.weight"])
    np.testing.assert_allclose(ours, PEER["inv.W_rot"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rotation.apply(x), PEER["inv.x_rot"], rtol=1e-6, atol=1e-6)
    turned = rotation.apply(x)
    root = np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    assert np.abs((turned / root) @ ours.T - (x / root * gain) @ weight.T).max() < 1e-12
    np.testing.assert_allclose(PEER["inv.y"], (turned / np.sqrt((x * x).mean(axis=1, keepdims=True))) @ ours.T, rtol=1e-3, atol=1e-3)


def test_the_stream() -> None:
    """[QUAROT-1] and [QUAROT-2] with dense matrices; signs are the generator's first words."""
    rewrite = quarot(network(), np.random.default_rng(7), rotations=("R1",))
    before, after = rewritten(rewrite)
    signs = np.where(words(np.random.default_rng(7), 8) >> np.uint64(63), -1.0, 1.0)
    q = np.diag(signs) @ dense(8).T
    np.testing.assert_allclose(after["e.weight"], before["e.weight"] @ q, atol=1e-13)
    for name, gain in (("q", "n1"), ("v", "n1"), ("up", "n2"), ("gate", "n2"), ("h", "n3")):
        np.testing.assert_allclose(after[f"{name}.weight"], before[f"{name}.weight"] * before[f"{gain}.weight"] @ q, atol=1e-13)
    for name in ("o", "down"):
        np.testing.assert_allclose(after[f"{name}.weight"], q.T @ before[f"{name}.weight"], atol=1e-13)
    np.testing.assert_allclose(after["o.bias"], before["o.bias"] @ q, atol=1e-13)
    for name in ("q.bias", "v.bias"):
        assert np.array_equal(after[name], before[name])
    for name in ("n1", "n2", "n3"):
        assert np.array_equal(after[f"{name}.weight"], np.ones(8))


def test_the_values() -> None:
    """[QUAROT-3] and [QUAROT-4]: two key-value heads for four heads, biases turned like rows, the part across heads online."""
    rewrite = quarot(network(), np.random.default_rng(0), rotations=("R2",))
    before, after = rewritten(rewrite)
    inside, across = dense(2), dense(4)
    per_kv, per_head = np.kron(np.eye(2), inside), np.kron(np.eye(4), inside)
    np.testing.assert_allclose(after["v.weight"], per_kv @ before["v.weight"], atol=1e-14)
    np.testing.assert_allclose(after["v.bias"], per_kv @ before["v.bias"], atol=1e-14)
    np.testing.assert_allclose(after["o.weight"], before["o.weight"] @ per_head.T @ np.kron(across, np.eye(2)).T, atol=1e-14)
    (online,) = rewrite.online["o"]
    x = np.random.default_rng(1).standard_normal((3, 8))
    np.testing.assert_allclose(online.apply(x), x @ np.kron(across, np.eye(2)).T, atol=1e-14)
    whole = np.kron(across, inside)  # both parts together are the paper's H_nh (x) H_dh
    np.testing.assert_allclose(np.kron(across, np.eye(2)) @ per_head, whole, atol=1e-14)
    alone = quarot(network(), np.random.default_rng(0), rotations=("R2",), cross_heads=False)
    assert not alone.online


def test_values_of_a_fused_projection() -> None:
    """[QUAROT-3] touches the last rows alone."""
    fused = replace(network().blocks[0], qkv=("qkv",))
    (step, _) = quarot(network(blocks=(fused,)), np.random.default_rng(0), rotations=("R2",)).steps
    assert isinstance(step, Joint)
    x = np.random.default_rng(0).standard_normal((2, 16))  # 8 query, 4 key, 4 value features
    turned = step.transform.apply(x)
    assert np.array_equal(turned[:, :12], x[:, :12])
    np.testing.assert_allclose(turned[:, 12:], x[:, 12:] @ np.kron(np.eye(2), dense(2)).T, atol=1e-15)


def test_hidden_features_queries_and_keys() -> None:
    """[QUAROT-5] with the recorded base of order 12, [QUAROT-6]."""
    rewrite = quarot(network(), np.random.default_rng(0), rotations=("R3", "R4"))
    before, after = rewritten(rewrite)
    np.testing.assert_allclose(after["down.weight"], before["down.weight"] @ dense(12).T, atol=1e-14)
    (online,) = rewrite.online["down"]
    z = np.random.default_rng(1).standard_normal((3, 12))
    np.testing.assert_allclose(online.apply(z), z @ dense(12).T, atol=1e-14)
    turn = rewrite.scores[0]
    queries, keys = np.random.default_rng(2).standard_normal((2, 5, 2))
    np.testing.assert_allclose(turn.apply(queries), queries @ dense(2).T, atol=1e-15)
    np.testing.assert_allclose(turn.apply(queries) @ turn.undo(keys).T, queries @ keys.T, atol=1e-14)


def test_folds_leave_out_norms_without_a_gain() -> None:
    plain = replace(norm("n3"), gain=False)
    folds = norm_folds(network(final_norm=plain))
    assert [fold.norm for fold in folds if isinstance(fold, Fold)] == ["n1", "n2"]
    assert [fold.consumers for fold in folds if isinstance(fold, Fold)] == [("q", "k", "v"), ("gate", "up")]


def test_a_random_orthogonal_matrix_instead() -> None:
    rewrite = quarot(network(), np.random.default_rng(7), rotations=("R1",), matrix="orthogonal")
    joint = rewrite.steps[-1]
    assert isinstance(joint, Joint)
    assert isinstance(joint.transform, BlockRotation)
    before, after = rewritten(rewrite)
    np.testing.assert_allclose(
        after["e.weight"] @ after["q.weight"].T, before["e.weight"] * before["n1.weight"] @ before["q.weight"].T, atol=1e-13
    )


def test_a_base_of_somebody_else() -> None:
    theirs = -PEER["had.12.hadK_int8"]
    rewrite = quarot(network(), np.random.default_rng(0), rotations=("R4",), bases={12: theirs})
    z = np.random.default_rng(1).standard_normal((3, 12))
    np.testing.assert_allclose(rewrite.online["down"][0].apply(z), -z @ dense(12).T, atol=1e-14)


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"final_norm": NormSite(name="n3", rms=False, gain=True, bias=False)}, {"rotations": ("R1",)}, "n3 subtracts the mean"),
        ({"final_norm": NormSite(name="n3", rms=True, gain=True, bias=True)}, {"rotations": ("R1",)}, "n3 adds a bias"),
        ({"clips_values": True}, {"rotations": ("R2",)}, "clip_qkv"),
        ({"heads": 6, "kv_heads": 3}, {"rotations": ("R2",)}, "order 6"),
        ({}, {"rotations": ("R5",)}, "R1, R2, R3, R4"),
        ({}, {"rotations": ("R1", "R1")}, "each once"),
        ({}, {"rotations": ()}, "each once"),
        ({}, {"matrix": "dct"}, "matrix is one of 'hadamard', 'orthogonal'"),
        ({}, {"odd_sizes": "pad"}, "odd_sizes is one of"),
    ],
)
def test_refusals(changed: dict[str, object], options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quarot(network(**changed), np.random.default_rng(0), **options)  # type: ignore[arg-type]


def test_sizes_without_a_matrix_are_divided_if_asked_for_and_it_is_said() -> None:
    rewrite = quarot(network(heads=6, kv_heads=3), np.random.default_rng(0), rotations=("R2", "R3"), odd_sizes="blocks")
    assert rewrite.notes["blocks of size 6"] == 3
    assert "blocks of size 2" not in rewrite.notes


@pytest.mark.parametrize(
    "transform",
    [
        HadamardRotation(plan=hadamard(24, blocks=2), inner=3),
        HadamardRotation(plan=hadamard(4), signs=np.array([1.0, -1.0, -1.0, 1.0])),
        Part(inner=HadamardRotation(plan=hadamard(4)), start=2, total=9),
        Part(inner=Scale(factors=np.array([2.0, 3.0])), start=0, total=2),
    ],
)
def test_transforms_are_saved_and_read_back(transform: HadamardRotation | Part) -> None:
    again = transform_kind(transform.kind).from_parts(transform.parts(), transform.settings())
    x = np.random.default_rng(0).standard_normal((2, transform.width))
    assert np.array_equal(again.apply(x), transform.apply(x))
    assert np.array_equal(again.undo(x), transform.undo(x))
    np.testing.assert_allclose(transform.apply(x) @ transform.undo(x).T, x @ x.T, atol=1e-13)


def test_broken_transforms_are_refused() -> None:
    four = hadamard(4)
    for build, message in [
        (lambda: HadamardRotation(plan=hadamard(8, normalization="float32")), "not"),
        (lambda: HadamardRotation(plan=four, inner=0), "positive number"),
        (lambda: HadamardRotation(plan=four, signs=np.ones(3)), "signs"),
        (lambda: HadamardRotation(plan=four, signs=np.array([1, 1, 0, 1])), "signs"),
        (lambda: HadamardRotation.from_parts({"base": np.ones((1, 1))}, {"size": 4, "blocks": 1}), "made of base"),
        (lambda: Part(inner=Permutation(order=np.arange(3)), start=2, total=4), "does not lie within 4"),
        (lambda: Part.from_parts({}, {"part_of": "part", "part_start": 0, "part_total": 3}), "another kind"),
    ]:
        with pytest.raises(InputError, match=message):
            build()
