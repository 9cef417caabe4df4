"""Who carries out the rotations of a recipe: QuaRot before the pass over the blocks, DuQuant block by block on calibration inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from model import Transformer
from refquant.apply.block_view import BlockView
from refquant.apply.layers import online_transforms
from refquant.apply.rewrite_parts import BlockRotations, RandomBlockRotations, Rotations
from refquant.apply.rewriter import Rewriter
from refquant.apply.rewriting import rewrite_model, untied
from refquant.apply.rotating import network_of
from refquant.core.rewrite import Joint, Rewrite, Step
from refquant.core.rotation import HadamardRotation
from refquant.core.transform import Transform, through
from refquant.errors import InputError
from refquant.methods.rotate.duquant import duquant
from refquant.methods.rotate.quarot import quarot
from refquant.methods.rotate.soloq import soloq
from refquant.numerics.arrays import Array
from refquant.numerics.hadamard import hadamard
from refquant.storage.tensors import read_tensors


class RotationRewriter(Rewriter):
    """QuaRot, on the whole model; a tied one gets a head of its own.

    Parameters
    ----------
    part : Rotations
    """

    def __init__(self, part: Rotations) -> None:
        self.part = part

    def prepare(self, m: Transformer) -> Transformer:
        """Rotate the model."""
        m = untied(m)
        rewrite = self.rewrite(m)
        self.notes = ({"method": rewrite.method, "block": -1, **rewrite.notes},)
        return rewrite_model(m, rewrite)

    def sketch(self, m: Transformer, online: Collection[str] = ()) -> Rewrite | None:
        """The rotations themselves: they need no data."""
        return self.rewrite(m)

    def rewrite(self, m: Transformer) -> Rewrite:
        """The rotations of a model that has a head of its own."""
        part = self.part
        return quarot(
            network_of(m.architecture),
            np.random.default_rng(part.seed),
            rotations=part.rotations,
            matrix=part.matrix,
            cross_heads=part.cross_heads,
            odd_sizes=part.odd_sizes,
            bases=read_bases(Path(part.bases), part.bases_sha256) if part.bases else None,
            arithmetic=m.arithmetic,
        )


def read_bases(path: Path, sha256: str) -> dict[int, Array]:
    """Read base matrices of Hadamard transforms, by their size.

    Parameters
    ----------
    path : Path
        A safetensors file whose tensors are named by their sizes.
    sha256 : str
        Of the file, as 64 hex digits.

    Raises
    ------
    InputError
        If the file cannot be read, is another, or holds a tensor of another name.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if found != sha256:
        raise InputError(f"{path}: its SHA-256 is {found}, the recipe's bases_sha256 is {sha256}")
    tensors = read_tensors(path)
    for name, array in tensors.items():
        if not name.isdecimal() or array.shape != (int(name), int(name)):
            raise InputError(f"{path}: a base of size n is a tensor n x n named by n; found {name!r} of shape {array.shape}")
    return {int(name): array for name, array in tensors.items()}


class BlockRotationRewriter(Rewriter):
    """DuQuant: each group of linears that share an input gets transforms of its own, found on that input as it arrives.

    Parameters
    ----------
    part : BlockRotations
    """

    def __init__(self, part: BlockRotations) -> None:
        self.part = part
        self.inputs = part.inputs

    def block(self, view: BlockView) -> Rewrite | None:
        """The transforms of all groups of one block, and of its queries and keys."""
        part, m = self.part, view.m
        groups = m.linear_groups(view.index)
        rows = self._rows(view, [group[0] for group in groups])
        steps: list[Step] = []
        notes: dict[str, str | int | float] = {}
        for number, group in enumerate(groups):
            found = duquant(
                rows[group[0]],
                np.random.default_rng([part.seed, view.index, number]),
                block=part.block,
                steps=part.steps,
                permutations=part.permutations,
                target=part.target,
                shared=part.shared,
                arithmetic=m.arithmetic,
            )
            steps += found.joints(group)
            notes[group[0]] = " ".join(str(search.kept) for search in found.searches)
        head = HadamardRotation(plan=hadamard(m.architecture.head_dim)) if part.scores else None
        return Rewrite(method="duquant", steps=tuple(steps), scores={} if head is None else {view.index: head}, notes=notes)

    def sketch(self, m: Transformer, online: Collection[str] = ()) -> Rewrite | None:
        """Transforms of a search without steps."""
        part = self.part

        def transforms(width: int) -> tuple[Transform, ...]:
            searches = (part.permutations + 1) * (1 if part.shared else width // part.block)
            return duquant(
                np.ones((1, width)),
                np.random.default_rng(0),
                block=part.block,
                steps=0,
                permutations=part.permutations,
                shared=part.shared,
                mixers=(np.eye(part.block - 1),) * searches,
            ).transforms

        return _online_everywhere("duquant", m, transforms, part.scores)

    def _rows(self, view: BlockView, names: list[str]) -> dict[str, Array]:
        """What the searches look at, ``[tokens, features]`` by the first linear of a group: its input behind what is online already."""
        if self.part.tokens == "mean":
            return {name: through(online_transforms(view.linear(name)), x, view.m.arithmetic) for name, x in _means(view, names).items()}
        return {name: _loudest(x, self.part.search_tokens) for name, (x, _) in view.rows(names).items()}


class RandomRotationRewriter(Rewriter):
    """SoloQ: each group of linears that share an input gets a rotation of its own, drawn without looking at anything.

    Parameters
    ----------
    part : RandomBlockRotations
    """

    def __init__(self, part: RandomBlockRotations) -> None:
        self.part = part

    def block(self, view: BlockView) -> Rewrite | None:
        """The rotations of all groups of one block, and of its queries and keys."""
        part, m = self.part, view.m
        steps: list[Step] = []
        for number, group in enumerate(m.linear_groups(view.index)):
            rng = np.random.default_rng([part.seed, view.index, number])
            width = view.linear(group[0]).weight.shape[1]
            steps += [Joint(transform=t, consumers=tuple(group)) for t in soloq(width, rng, block=part.block, arithmetic=m.arithmetic)]
        head = HadamardRotation(plan=hadamard(m.architecture.head_dim)) if part.scores else None
        return Rewrite(method="soloq", steps=tuple(steps), scores={} if head is None else {view.index: head})

    def sketch(self, m: Transformer, online: Collection[str] = ()) -> Rewrite | None:
        """The same rotation for all inputs of a width."""

        def transforms(width: int) -> tuple[Transform, ...]:
            return soloq(width, np.random.default_rng(self.part.seed), block=self.part.block, arithmetic=m.arithmetic)

        return _online_everywhere("soloq", m, transforms, self.part.scores)


def _online_everywhere(method: str, m: Transformer, transforms: Callable[[int], tuple[Transform, ...]], scores: bool) -> Rewrite:
    """Transforms by width, online before every group of linears, and of queries and keys."""
    drawn: dict[int, tuple[Transform, ...]] = {}
    steps: list[Step] = []
    for index in range(m.config.n_layers):
        for group in m.linear_groups(index):
            width = m.parameters[f"{group[0]}.weight"].shape[1]
            if width not in drawn:
                drawn[width] = transforms(width)
            steps += [Joint(transform=transform, consumers=tuple(group)) for transform in drawn[width]]
    head = HadamardRotation(plan=hadamard(m.architecture.head_dim)) if scores else None
    return Rewrite(method=method, steps=tuple(steps), scores={} if head is None else dict.fromkeys(range(m.config.n_layers), head))


def _means(view: BlockView, names: list[str]) -> dict[str, Array]:
    """Inputs averaged over all sequences, position by position."""
    arithmetic = view.m.arithmetic
    collected: dict[str, list[Array]] = {name: [] for name in names}
    for seen in view.seen([f"{name}.input" for name in names]):
        for name in names:
            collected[name].append(seen[f"{name}.input"])
    for name, arrays in collected.items():
        if len({(array.ndim, array.shape[1:]) for array in arrays}) != 1 or arrays[0].ndim != 3:
            raise InputError(f"{name}: sequences of one length that all reach it have a mean, position by position; use tokens = 'all'")
    return {name: arithmetic.mean(np.concatenate(arrays), axis=0) for name, arrays in collected.items()}


def _loudest(x: Array, count: int) -> Array:
    """The tokens with the largest magnitudes, in the order in which they came: they decide the score of a search."""
    if not 0 < count < len(x):
        return x
    return x[np.sort(np.argsort(-np.abs(x).max(axis=1), kind="stable")[:count])]
