"""Who carries out a recipe's rewrites: before the pass over the blocks, or block by block on calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from model import Transformer
from model.architecture import ExpertsPlan
from refquant.apply.block_view import BlockView
from refquant.apply.layers import online_transforms
from refquant.apply.rewrite_parts import Awq, BlockRotations, RandomBlockRotations, RewritePart, Rotations, Smoothing
from refquant.apply.rewriter import Rewriter
from refquant.apply.rotation_rewriters import BlockRotationRewriter, RandomRotationRewriter, RotationRewriter
from refquant.apply.scale_sites import scale_sites
from refquant.core.rewrite import Rewrite
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.scale.awq import Outputs, awq
from refquant.methods.scale.site import ScaleSite
from refquant.methods.scale.smoothquant import smoothquant
from refquant.numerics.arrays import Array


class ScaleRewriter(Rewriter):
    """What SmoothQuant and AWQ have in common: each place of a block by itself, all chosen on the block as it came.

    Parameters
    ----------
    part : Smoothing or Awq
    """

    def __init__(self, part: Smoothing | Awq) -> None:
        self.part = part
        self.inputs = part.inputs
        self.weighted = isinstance(part, Awq) and part.weighted

    def block(self, view: BlockView) -> Rewrite | None:
        """The rewrites of all places that the recipe names, in the order of execution."""
        online = {name for group in view.m.linear_groups(view.index) for name in group if online_transforms(view.linear(name))}
        sites = [found for site in scale_sites(view.m.architecture, view.index) if (found := self._usable(site, online)) is not None]
        total: Rewrite | None = None
        for place in self.together(sites):
            looked_at = self.inputs_of(view, [input_name(view, site) for site in place])
            for site in place:
                try:
                    one = self.one(view, site, *looked_at[input_name(view, site)])
                except (InputError, NumericalError) as error:
                    raise type(error)(f"{site.searched[0]}: {error}") from error
                total = one if total is None else total.then(one)
        return total

    def together(self, sites: Sequence[ScaleSite]) -> list[list[ScaleSite]]:
        """Sites whose inputs are looked at in one pass over the calibration batches."""
        return [list(sites)] if sites else []

    def inputs_of(self, view: BlockView, names: Sequence[str]) -> Mapping[str, tuple[Array, Array | None]]:
        """What :meth:`one` is handed of each input, and what its tokens count."""
        raise NotImplementedError

    def sketch(self, m: Transformer, online: Collection[str] = ()) -> Rewrite | None:
        """Factors of one at all places that the recipe names."""
        sites = [site for index in range(m.config.n_layers) for site in scale_sites(m.architecture, index)]
        used = [found for site in sites if (found := self._usable(site, online)) is not None]
        widths = {site.searched[0]: m.parameters[f"{site.searched[0]}.weight"].shape[1] for site in used}
        return Rewrite(method=self.part.method, steps=tuple(site.joint(np.ones(widths[site.searched[0]], dtype=m.dtype)) for site in used))

    def _usable(self, site: ScaleSite, online: Collection[str]) -> ScaleSite | None:
        """The site as the recipe wants it used, `online` being the linears behind transforms at run time; None where it is left out."""
        if site.place not in self.part.places:
            return None
        behind = any(name in online for name in site.consumers)
        if behind and not site.obstacle:
            site = replace(site, obstacle="its input goes through an online transform, and a fused factor would come before that")
        if not site.obstacle or self.part.inapplicable == "raise":
            return site  # an obstacle is told by the joint
        if behind and site.consumers != site.searched and self.part.inapplicable == "online":
            return site  # experts behind rotations of their own have no input in common that factors could be chosen on
        if self.part.inapplicable == "skip":
            return None
        # A router keeps its weights and its input; those that are quantized apply the factors at run time.
        return ScaleSite(place=site.place, searched=site.searched, consumers=site.searched)

    def one(self, view: BlockView, site: ScaleSite, x: Array, token_weights: Array | None) -> Rewrite:
        """The rewrite of one place."""
        raise NotImplementedError


def input_name(view: BlockView, site: ScaleSite) -> str:
    """Whose input is the common input of a place: not an expert's, which sees a part of the tokens."""
    mixture = isinstance(view.m.architecture.blocks[view.index].mlp, ExpertsPlan)
    return view.mixture if mixture and site.place == "mlp_in" else site.searched[0]


class SmoothingRewriter(ScaleRewriter):
    """SmoothQuant."""

    part: Smoothing

    def inputs_of(self, view: BlockView, names: Sequence[str]) -> Mapping[str, tuple[Array, Array | None]]:
        """The largest magnitude of each channel."""
        return {name: (largest, None) for name, largest in view.largest(names).items()}

    def one(self, view: BlockView, site: ScaleSite, x: Array, token_weights: Array | None) -> Rewrite:
        """Factors from the maxima `x`."""
        return smoothquant(
            site,
            x,
            {name: view.linear(name).weight for name in site.searched},
            self.part.alpha,
            counted=self._counted(site),
            activation_floor=self.part.activation_floor,
            arithmetic=view.m.arithmetic,
        )

    def _counted(self, site: ScaleSite) -> tuple[str, ...]:
        if len(site.searched) == 1 or not self.part.counted:
            return site.searched
        found = tuple(name for name in site.searched if name.rpartition(".")[2] in self.part.counted)
        if not found:
            here = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in site.searched))
            raise UsageError(f"{site.place} of {site.searched[0]}: counted names {', '.join(self.part.counted)}; here are {here}")
        return found


class AwqRewriter(ScaleRewriter):
    """AWQ's first stage."""

    part: Awq

    def together(self, sites: Sequence[ScaleSite]) -> list[list[ScaleSite]]:
        """One place at a time: a search holds the inputs of all tokens."""
        return [list(place) for _, place in groupby(sites, key=lambda site: site.place)]

    def inputs_of(self, view: BlockView, names: Sequence[str]) -> Mapping[str, tuple[Array, Array | None]]:
        """All rows."""
        return view.rows(names, self.weighted)

    def one(self, view: BlockView, site: ScaleSite, x: Array, token_weights: Array | None) -> Rewrite:
        """Factors by search."""
        site.joint(np.ones(x.shape[1]))  # an obstacle is told before the search
        return awq(
            site,
            x,
            {name: view.linear(name).weight for name in site.searched},
            view.recipe.weights.spec(),
            self._outputs(view, site),
            candidates=self.part.candidates,
            scaling=self.part.scaling,
            token_weights=token_weights,
            arithmetic=view.m.arithmetic,
        )

    def _outputs(self, view: BlockView, site: ScaleSite) -> Outputs | None:
        """What is compared: the module behind a norm, or None for the linears themselves."""
        if self.part.inspect == "linear" or site.place not in ("attn_in", "mlp_in"):
            return None
        name = view.tap(input_name(view, site))
        inputs = [seen[name] for seen in view.seen([name])]
        run = _module(view, "block" if self.part.inspect == "block_qdlm" else site.place)

        def outputs(weights: Sequence[Array]) -> Array:
            m = view.m.replace({name: view.linear(name).with_weight(weight) for name, weight in zip(site.searched, weights, strict=True)})
            return np.concatenate([run(m, x).reshape(-1, m.architecture.width) for x in inputs])

        return outputs


def _module(view: BlockView, place: str) -> Callable[[Transformer, Array], Array]:
    """The module that a place's output is looked at behind, as a function of a model and the place's input."""

    def context(m: Transformer, x: Array) -> Any:
        return m.context(x.shape[0], x.shape[1])

    match place:
        case "attn_in":
            return lambda m, x: m.attention(view.index, x, context(m, x))
        case "mlp_in":
            return lambda m, x: m.mlp(view.index, x)
    return lambda m, x: m.block(view.index, x, context(m, x))


def make_rewriter(part: RewritePart) -> Rewriter:
    """Who carries a rewrite out."""
    makers: dict[type[RewritePart], Callable[[Any], Rewriter]] = {
        Smoothing: SmoothingRewriter,
        Awq: AwqRewriter,
        Rotations: RotationRewriter,
        BlockRotations: BlockRotationRewriter,
        RandomBlockRotations: RandomRotationRewriter,
    }
    return makers[type(part)](part)
