"""The rewrites of a recipe, one frozen dataclass each: ``[[rewrites]]`` tables in TOML, told apart by ``method``.

Another rewrite is another dataclass here, in the table `REWRITES`, and whoever carries it out (:mod:`refquant.apply.rewriters`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from refquant.errors import InputError, UsageError

Place = Literal["attn_in", "attn_out", "mlp_in", "mlp_out"]
Inputs = Literal["float", "quantized"]
Inapplicable = Literal["raise", "skip", "online"]
Seed = Annotated[int, Meta(ge=0)]
Fraction01 = Annotated[float, Meta(ge=0, le=1)]


class RewritePart:
    """One rewrite of a recipe.

    Attributes
    ----------
    needs_calibration : bool
        Whether it looks at data.
    whole_model : bool
        Whether it is taken on the whole model before the pass over the blocks; the others are, block by block.
    """

    method: str
    needs_calibration: ClassVar[bool] = False
    whole_model: ClassVar[bool] = False

    @property
    def turns_scores(self) -> bool:
        """Whether queries and keys go through a transform of it."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing(RewritePart):
    """SmoothQuant: factors from the extremes of activations and weights.

    Parameters
    ----------
    method : {"smoothquant"}
    alpha : float
        How much of the difficulty moves into the weights.
    places : tuple of str
        Where: behind the norms (``attn_in``, ``mlp_in``) as published, and behind the value and up projections (``attn_out``,
        ``mlp_out``) as in the QDLM study.
    counted : tuple of str
        Last names of the linears whose weights count; empty for all, as published. DuQuant's and the QDLM study's codes count ``q_proj``
        and ``up_proj`` alone. Of a place with several linears at least one has to be named; one alone always counts.
    activation_floor : float
        Magnitudes of activations are at least this.
    inputs : {"float", "quantized"}
        Maxima over inputs behind the float blocks, or behind the blocks as quantized.
    inapplicable : {"raise", "skip", "online"}
        Where no factors can be moved (grouped heads, a norm without a gain): an error, nothing, or factors that are applied at run time.
    """

    method: Literal["smoothquant"] = "smoothquant"
    alpha: Fraction01 = 0.5
    places: tuple[Place, ...] = ("attn_in", "mlp_in")
    counted: tuple[str, ...] = ()
    activation_floor: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    inputs: Inputs = "float"
    inapplicable: Inapplicable = "raise"
    needs_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_places(self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Awq(RewritePart):
    """AWQ: factors by search for the least change of a module's output under the recipe's weight quantization.

    AWQ's second stage is ``weights.limits``.

    Parameters
    ----------
    method : {"awq"}
    candidates : int
        Exponents tried: 0, 1/candidates, ...
    scaling : {"activations", "duo"}
        As llm-awq, or with AutoAWQ's weight term.
    places : tuple of str
        As in :class:`Smoothing`; all four are published.
    inspect : {"module", "linear", "block_qdlm"}
        Whose output is compared at the places behind norms: the attention's and the MLP's; the linears' own; or the whole block's, fed
        with the norm's output, which is what the QDLM study's code does for LLaDA.
    weighted : bool
        Tokens count as ``[tokens]`` says, in the statistic and the loss; AWQ counts all alike.
    inputs : {"float", "quantized"}
        Inputs behind the float blocks, as published, or behind the blocks as quantized.
    inapplicable : {"raise", "skip", "online"}
        As in :class:`Smoothing`; llm-awq skips the values of grouped heads.
    """

    method: Literal["awq"] = "awq"
    candidates: Annotated[int, Meta(ge=1, le=1000)] = 20
    scaling: Literal["activations", "duo"] = "activations"
    places: tuple[Place, ...] = ("attn_in", "attn_out", "mlp_in", "mlp_out")
    inspect: Literal["module", "linear", "block_qdlm"] = "module"
    weighted: bool = False
    inputs: Inputs = "float"
    inapplicable: Inapplicable = "raise"
    needs_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_places(self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotations(RewritePart):
    """QuaRot: Hadamard rotations of the stream, the values, queries and keys, and the MLP's hidden features.

    Parameters
    ----------
    method : {"quarot"}
    rotations : tuple of {"R1", "R2", "R3", "R4"}
        Which of them.
    matrix : {"hadamard", "orthogonal"}
        R1's matrix.
    cross_heads : bool
        Whether R2 has its part across heads.
    odd_sizes : {"raise", "blocks"}
        Sizes without a Hadamard matrix: an error, or a block-diagonal one.
    seed : int
        Of R1's signs or matrix; part of what the recipe is.
    bases : str
        A safetensors file of other base matrices than ours, each of 1 and -1 and named by its size, such as ``28``; empty for none.
    bases_sha256 : str
        Of that file, so that the recipe says what it holds.
    """

    method: Literal["quarot"] = "quarot"
    rotations: tuple[Literal["R1", "R2", "R3", "R4"], ...] = ("R1", "R2", "R3", "R4")
    matrix: Literal["hadamard", "orthogonal"] = "hadamard"
    cross_heads: bool = True
    odd_sizes: Literal["raise", "blocks"] = "raise"
    seed: Seed = 0
    bases: str = ""
    bases_sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    whole_model: ClassVar[bool] = True

    @property
    def turns_scores(self) -> bool:
        """With R3."""
        return "R3" in self.rotations

    def __post_init__(self) -> None:
        if bool(self.bases) != bool(self.bases_sha256):
            raise UsageError("bases and bases_sha256 go together: a file of base matrices, and the SHA-256 of that file")
        if not self.rotations or len(set(self.rotations)) != len(self.rotations):
            raise UsageError(f"rotations are at least one of R1, R2, R3, R4, each once; got {list(self.rotations)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRotations(RewritePart):
    """DuQuant: greedy block rotations around a zigzag permutation, online before every linear. Its smoothing is a rewrite of its own.

    Parameters
    ----------
    method : {"duquant"}
    block : int
        Features that are rotated together; divides every input's width.
    steps, permutations, target, shared
        As in :func:`refquant.methods.rotate.duquant.duquant`.
    scores : bool
        Whether queries and keys go through a Hadamard transform per head.
    tokens : {"all", "mean"}
        What is searched on: all calibration tokens, or, as in the authors' code, their mean over sequences, position by position.
    search_tokens : int
        Of all tokens, only so many with the largest magnitudes are searched on; 0 is all.
    inputs : {"float", "quantized"}
        Inputs behind the float blocks, or behind the blocks as quantized, as in the authors' code.
    seed : int
        Of the mixing matrices; part of what the recipe is.
    """

    method: Literal["duquant"] = "duquant"
    block: Annotated[int, Meta(ge=1)] = 128
    steps: Annotated[int, Meta(ge=0)] = 256
    permutations: Annotated[int, Meta(ge=0)] = 1
    target: Literal["channel", "row"] = "channel"
    shared: bool = True
    scores: bool = True
    tokens: Literal["all", "mean"] = "all"
    search_tokens: Annotated[int, Meta(ge=0)] = 2048
    inputs: Inputs = "quantized"
    seed: Seed = 0
    needs_calibration: ClassVar[bool] = True

    @property
    def turns_scores(self) -> bool:
        """As `scores` says."""
        return self.scores


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomBlockRotations(RewritePart):
    """SoloQ: a random block Hadamard rotation, online before every linear, without any data.

    Parameters
    ----------
    method : {"soloq"}
    block : int
        Features of a Hadamard block; divides every input's width.
    scores : bool
        Whether queries and keys go through a Hadamard transform per head.
    seed : int
        Of permutations, signs and rotations; part of what the recipe is.
    """

    method: Literal["soloq"] = "soloq"
    block: Annotated[int, Meta(ge=1)] = 128
    scores: bool = True
    seed: Seed = 0

    @property
    def turns_scores(self) -> bool:
        """As `scores` says."""
        return self.scores


def _check_places(places: tuple[str, ...]) -> None:
    if not places or len(set(places)) != len(places):
        raise UsageError(f"places are at least one of attn_in, attn_out, mlp_in, mlp_out, each once; got {list(places)}")


REWRITES: dict[str, type[RewritePart]] = {
    "smoothquant": Smoothing,
    "awq": Awq,
    "quarot": Rotations,
    "duquant": BlockRotations,
    "soloq": RandomBlockRotations,
}


def check_together(rewrites: tuple[RewritePart, ...]) -> None:
    """Refuse rewrites that would be taken in another order than they stand in, or that contradict each other.

    Raises
    ------
    UsageError
        If one of the whole model stands behind one that is taken block by block, or two transform queries and keys.

    Examples
    --------
    >>> check_together((Rotations(), Smoothing()))
    >>> check_together((Smoothing(), Rotations()))
    Traceback (most recent call last):
    refquant.errors.UsageError: quarot rewrites the whole model before any block is reached; it has to stand before smoothquant
    """
    for first, second in pairwise(rewrites):
        if second.whole_model and not first.whole_model:
            raise UsageError(f"{second.method} rewrites the whole model before any block is reached; it has to stand before {first.method}")
    turning = [part.method for part in rewrites if part.turns_scores]
    if len(turning) > 1:
        raise UsageError(
            f"{turning[0]} and {turning[1]} both transform queries and keys; leave R3 out of quarot's rotations, or set scores = false"
        )


def read_rewrite(kind: type, tree: Any) -> RewritePart:
    """Make a rewrite of a nested dict; what msgspec calls for fields of type :class:`RewritePart`.

    Raises
    ------
    InputError
        If the method is unknown, or a field is, or a value is out of range.
    NotImplementedError
        If msgspec asks for another type.

    Examples
    --------
    >>> read_rewrite(RewritePart, {"method": "smoothquant", "alpha": 0.75}).alpha
    0.75
    """
    if kind is not RewritePart:
        raise NotImplementedError(f"no way to read a {kind}")
    method = tree.get("method") if isinstance(tree, dict) else None
    if method not in REWRITES:
        raise InputError(f"a rewrite is a table with a method of {', '.join(REWRITES)}; found {tree!r}")
    part = REWRITES[method]
    hints = get_type_hints(part)
    known = [f.name for f in fields(part)]  # type: ignore[arg-type]
    for key, value in tree.items():
        if key not in known:
            raise InputError(f"unknown field {key!r} of rewrite {method}; allowed are {', '.join(known)}")
        if get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            choices = ", ".join(map(repr, get_args(hints[key])))
            raise InputError(f"{key} of rewrite {method} is {value!r}; allowed are {choices}")
    return msgspec.convert(tree, part, strict=True)
