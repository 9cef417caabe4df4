"""Our methods as the plain functions that laws are about, each with what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, reduce

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from refquant.conformance.laws import LawReport, Traits, check_quantizer, check_rewrite, check_statistics, check_weight_method
from refquant.conformance.strategies import confidences, weights
from refquant.core import ClipSearch, QuantSpec, Stats, Tiling, encode, fake_quantize, spec
from refquant.core.grid import Grid
from refquant.core.rewrite import Rewrite
from refquant.errors import InputError, NumericalError
from refquant.methods.activation.per_token import quantize_per_token
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.methods.activation.static import Extremes, quantize_static
from refquant.methods.compensate.gptq import gptq
from refquant.methods.compensate.obq import obq
from refquant.methods.compensate.optimum import optimum
from refquant.methods.diffusion.cgq import certainty_weights
from refquant.methods.diffusion.ia_aq import AttentionSample, ia_aq
from refquant.methods.grid.rtn import rtn
from refquant.methods.kernels.integer_linear import activation_codes, integer_linear
from refquant.methods.kernels.integer_weight import prepare_weight
from refquant.methods.rotate.duquant import duquant
from refquant.methods.scale.awq import awq
from refquant.methods.scale.site import ScaleSite
from refquant.methods.scale.smoothquant import smoothquant
from refquant.numerics import ORDERED

Check = Callable[[], LawReport]
ELEMENTS = Tiling((1, 1))
REFUSED = (NumericalError,)
SITE = ScaleSite(place="attn_in", searched=("linear",), consumers=("linear",))


def on_expanded_grid(how: QuantSpec) -> Callable[..., np.ndarray]:
    """Encoding with one scale an element, as the law of the same grid hands them over."""

    def encoded(x, scale, zero):
        grid = Grid(scale=scale.astype(x.dtype), zero=None if zero is None else zero.astype(np.int64))
        return encode(x, grid, how.with_tiling(ELEMENTS))

    return encoded


def quantizer(f, how: QuantSpec, **more) -> Check:
    return partial(check_quantizer, f, spec=how, refusals=REFUSED, examples=10, **more)


def rtn_checks() -> Iterator[Check]:
    for how in (
        spec("int4", scheme="sym_narrow"),
        spec("int4", scheme="sym_full", granularity="tensor"),
        spec("int3", scheme="asym_incl0", group_size=3, scale_format="float16"),
        spec("int2", scheme="sym_gptq", tiling=Tiling.block(2, 3), nan="zero"),
        spec("int4", scheme="asym_minmax", group_size=4, mse=ClipSearch(steps=10, max_shrink=0.5)),
    ):
        encoder = on_expanded_grid(how) if how.scale_format is None else None
        yield quantizer(partial(rtn, spec=how), how, encode=encoder)


def per_token_checks() -> Iterator[Check]:
    for how in (spec("int4", scheme="sym_full", empty="unit_scale"), spec("int8", scheme="asym_incl0", group_size=2)):
        yield quantizer(partial(quantize_per_token, spec=how), how)


def static_checks() -> Iterator[Check]:
    for how, zero, tiling in (
        (spec("int4", scheme="sym_full", granularity="tensor"), None, Tiling((None, None))),
        (spec("int4", granularity="tensor"), np.array([[5]]), ELEMENTS),
    ):
        grid = Grid(scale=np.array([[0.5]]), zero=zero)
        fixed = replace(
            Traits.of(how),
            idempotent=True,
            symmetric="the grid stays where it is, with one more code below 0",
            scalable="the grid stays where it is",
            infinity="saturate",
        )
        f = partial(quantize_static, grid=grid, spec=how)
        # A grid of one tile fits no array without elements, which have no tile.
        yield partial(check_quantizer, f, traits=replace(fixed, tiling=tiling), refusals=(*REFUSED, InputError), examples=10)
    yield partial(check_statistics, partial(Extremes.of, axis=0), Extremes.merge, examples=10)


def probabilities_checks() -> Iterator[Check]:
    shape = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
    elements = st.sampled_from([0.0, 1.0, 0.5, 0.25, 1 / 30, 1e-40, 0.1]) | st.floats(0, 1, width=32)
    known = Traits(tiling=ELEMENTS, nearest=True, monotone=True, keeps_zero=True, idempotent=True, nan="raise", infinity="raise")
    known = replace(known, order_free=True, symmetric="probabilities have no sign", scalable="the grid is fixed, or ends with the row")
    for ranged, dtype, tiling in (
        ("unit", "float32", ELEMENTS),
        ("unit", "float64", Tiling((None, None))),
        ("row_max", "float32", Tiling.channel()),
    ):
        values, f = hnp.arrays(dtype, shape, elements=elements), partial(quantize_probabilities, bits=4, range=ranged)
        yield partial(check_quantizer, f, traits=replace(known, tiling=tiling), values=values, examples=10)


def weight_method_checks(method, hows: tuple[QuantSpec, ...], *, examples: int = 10, **more) -> Iterator[Check]:
    for how in hows:
        promised = replace(Traits.of(how), dead_inputs=True, hessian_scalable=True)
        yield partial(
            check_weight_method,
            lambda w, h, how=how: method(w, h, how),
            spec=how,
            traits=promised,
            refusals=REFUSED,
            examples=examples,
            **more,
        )


def gptq_checks() -> Iterator[Check]:
    # Between groups there are products of matrices: only ordered ones promise that a row's bits do not depend on the other rows.
    yield from weight_method_checks(gptq, (spec("int4", scheme="sym_narrow"),))
    yield from weight_method_checks(partial(gptq, act_order=True, arithmetic=ORDERED), (spec("int3", group_size=3),), examples=8)


def obq_checks() -> Iterator[Check]:
    yield from weight_method_checks(obq, (spec("int4", scheme="sym_narrow"), spec("int3", group_size=3)))


def optimum_checks() -> Iterator[Check]:
    tiny = weights(dtypes=("float64", "float32"), max_rows=2, max_columns=3, nasty=False, empty=False)
    yield from weight_method_checks(optimum, (spec("int2", scheme="sym_narrow"), spec("int2")), values=tiny)


def cgq_checks() -> Iterator[Check]:
    values = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(lambda shape: confidences(np.ones(shape, dtype=bool)))
    promised = Traits(tiling=ELEMENTS, order_free=True, nan="raise", infinity="raise", monotone=True)
    yield partial(check_quantizer, lambda s: certainty_weights(s > 0.5, s), traits=promised, values=values, examples=10)

    def collect(x):
        return Stats.of(x, certainty_weights(x[:, 0] > 0, np.minimum(np.abs(x[:, -1]), 1.0)))

    yield partial(check_statistics, collect, Stats.merge, relative=1e-12, examples=10)


def ia_aq_checks() -> Iterator[Check]:
    how = spec("int4")

    def attention_values(x):
        if not x.size:
            raise NumericalError("no token: nothing to calibrate on")
        causal = np.tril(np.ones((len(x), len(x))))
        choice = ia_aq([AttentionSample(probabilities=(causal / causal.sum(axis=1, keepdims=True))[None], values=x[None])], how)
        return fake_quantize(x[None], choice.grid, choice.spec)[0]

    promised = replace(Traits.of(how), tiling=Tiling((None, None)), nearest="the range is shrunk by search", idempotent="it searches anew")
    promised = replace(promised, order_free="tokens have their places in A", ends=None)
    yield partial(check_quantizer, attention_values, traits=promised, refusals=REFUSED, nasty=False, examples=10)


class Chain:
    """Transforms one after the other, as a linear's input goes through them."""

    def __init__(self, rewrite: Rewrite) -> None:
        self.transforms = rewrite.online["linear"]

    def apply(self, x):
        return reduce(lambda array, transform: transform.apply(array), self.transforms, x)

    def undo(self, weight):
        return reduce(lambda array, transform: transform.undo(array), self.transforms, weight)


def rewrite_checks(make) -> Iterator[Check]:
    yield partial(check_rewrite, lambda w, x: Chain(make(w, x)), widths=(2, 4, 8), refusals=(InputError, NumericalError), examples=10)


def smoothquant_checks() -> Iterator[Check]:
    yield from rewrite_checks(lambda w, x: smoothquant(SITE, np.abs(x).max(axis=0), {"linear": w}))


def awq_checks() -> Iterator[Check]:
    yield from rewrite_checks(lambda w, x: awq(SITE, x, {"linear": w}, spec("int4"), candidates=5))


def duquant_checks() -> Iterator[Check]:
    def rotated(w, x):
        found = duquant(x, np.random.Generator(np.random.PCG64(3)), block=2, steps=4)
        return Rewrite(method="duquant", steps=found.joints(("linear",)))

    yield from rewrite_checks(rotated)


def integer_linear_checks() -> Iterator[Check]:
    how = spec("int8", scheme="sym_full")
    w = rtn(np.random.default_rng(0).standard_normal((5, 5)), spec("int4", group_size=2))
    prepared = {name: prepare_weight(w, how, np.dtype(name)) for name in ("float32", "float64")}

    def multiplied(x):
        return integer_linear(*activation_codes(x, how), prepared[x.dtype.name])

    values = st.integers(1, 4).flatmap(lambda rows: weights(shape=(rows, 5), dtypes=("float32", "float64"), nasty=False))
    reason = "it multiplies; it does not quantize what it returns"
    promised = replace(Traits.of(how), nearest=reason, monotone=reason, idempotent=reason, ends=None, order_free=reason, keeps_zero=reason)
    yield partial(check_quantizer, multiplied, traits=promised, values=values, refusals=REFUSED, examples=10)


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    "rtn": rtn_checks,
    "gptq": gptq_checks,
    "obq": obq_checks,
    "optimum": optimum_checks,
    "cgq": cgq_checks,
    "ia_aq": ia_aq_checks,
    "smoothquant": smoothquant_checks,
    "awq": awq_checks,
    "per_token": per_token_checks,
    "static": static_checks,
    "probabilities": probabilities_checks,
    "duquant": duquant_checks,
    "integer_linear": integer_linear_checks,
}
# Methods that are no function of arrays as laws see them.
WITHOUT_LAWS = {
    "tmas": "draws states of rollouts, not arrays; its own tests hold quotas and balance",
    "quarot": "edits a whole network; that its function is preserved is held on models in tests/apply and tests/methods",
}
