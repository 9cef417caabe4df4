"""What a recipe's rewrites will leave of a model besides quantized weights, known before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from model import Transformer
from refquant.apply.recipe import Recipe
from refquant.apply.rewrite_parts import Rotations
from refquant.apply.rewriters import make_rewriter
from refquant.apply.rewriting import untied
from refquant.core.rewrite import Joint, Rewrite
from refquant.core.transform import Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRewrites:
    """Tensors that change, and bits of what is needed at run time besides tensors.

    Parameters
    ----------
    model : Transformer
        The model, with a head of its own if a rewrite gives it one.
    tensors : frozenset of str
        Full names of the tensors that rewrites touch, quantized ones among them; they are kept in the model's dtype.
    run_time_bits : int
        Arrays of online transforms, by linear, and of those of queries and keys; of corrections of the attention output.
    """

    model: Transformer
    tensors: frozenset[str]
    run_time_bits: int


def planned_rewrites(m: Transformer, recipe: Recipe) -> PlannedRewrites:
    """Foresee a recipe's rewrites and corrections.

    A tensor that a rewrite touches and happens to leave as it is, a gain of ones for instance, is counted as changed.

    Parameters
    ----------
    m : Transformer
        In full precision; not changed.
    recipe : Recipe
    """
    given = set(m.parameters)
    m = untied(m) if any(isinstance(part, Rotations) for part in recipe.rewrites) else m
    touched = set(m.parameters) - given  # a head of its own, and its bias
    bits = _correction_bits(m, recipe)
    online: set[str] = set()
    for part in recipe.rewrites:
        rewrite = make_rewriter(part).sketch(m, online)
        if rewrite is not None:
            online |= set(rewrite.online)
            touched |= _touched(m, rewrite)
            bits += sum(_bits(one) for transforms in rewrite.online.values() for one in transforms)
            bits += sum(_bits(one) for one in rewrite.scores.values())
    return PlannedRewrites(model=m, tensors=frozenset(touched), run_time_bits=bits)


def _touched(m: Transformer, rewrite: Rewrite) -> set[str]:
    """Weights of all that a rewrite names, and biases of what produces."""
    producers = {name for step in rewrite.steps if isinstance(step, Joint) for name in step.producers}
    names = {f"{name}.weight" for name in rewrite.names} | {f"{name}.bias" for name in producers}
    return names & set(m.parameters)


def _bits(transform: Transform) -> int:
    return sum(array.nbytes * 8 for array in transform.parts().values())


def _correction_bits(m: Transformer, recipe: Recipe) -> int:
    if recipe.attention_output.method == "none":
        return 0
    channels = m.architecture.n_heads * m.architecture.head_dim
    return m.config.n_layers * channels * (recipe.attention_output.block + 1) * 64
