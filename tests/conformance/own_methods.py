"""Our methods as the plain functions that laws are about, each with what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial, reduce

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from refquant.conformance.laws import LAWS, LawReport, Traits, check_quantizer, check_rewrite, check_statistics, check_weight_method
from refquant.conformance.strategies import confidences, weights
from refquant.core import ClipSearch, QuantSpec, Stats, Tiling, encode, fake_quantize, spec
from refquant.core.grid import Grid
from refquant.core.rewrite import Rewrite
from refquant.core.transform import Transform
from refquant.errors import InputError, NumericalError
from refquant.methods.activation.log2_softmax import quantize_log2
from refquant.methods.activation.per_token import quantize_per_token
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.methods.activation.static import Extremes, quantize_static
from refquant.methods.activation.tac import Moments
from refquant.methods.binary.quant_dllm import quant_dllm
from refquant.methods.codebook.lloyd_max import lloyd_max, lloyd_max_spec
from refquant.methods.compensate.gptq import gptq
from refquant.methods.compensate.obq import obq
from refquant.methods.compensate.optimum import optimum
from refquant.methods.diffusion.cgq import certainty_weights
from refquant.methods.diffusion.fair_weights import fair_weights
from refquant.methods.diffusion.ia_aq import AttentionSample, ia_aq
from refquant.methods.grid.dash_q import dash_q
from refquant.methods.grid.hqq import hqq
from refquant.methods.grid.offset import offset_rtn
from refquant.methods.grid.rtn import rtn
from refquant.methods.kernels.integer_linear import activation_codes, integer_linear
from refquant.methods.kernels.integer_weight import prepare_weight
from refquant.methods.rotate.duquant import duquant
from refquant.methods.rotate.soloq import soloq
from refquant.methods.scale.awq import awq
from refquant.methods.scale.site import ScaleSite
from refquant.methods.scale.smoothquant import smoothquant
from refquant.numerics import ORDERED

Check = Callable[[], LawReport]
ELEMENTS = Tiling((1, 1))
REFUSED = (NumericalError,)
SITE = ScaleSite(place="attn_in", searched=("linear",), consumers=("linear",))
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
PROBABLE = st.sampled_from([0.0, 1.0, 0.5, 0.25, 1 / 30, 1e-40, 0.1]) | st.floats(0, 1, width=32)


def on_expanded_grid(how: QuantSpec) -> Callable[..., np.ndarray]:
    """Encoding with one scale an element, as the law of the same grid hands them over."""

    def encoded(x, scale, zero):
        grid = Grid(scale=scale.astype(x.dtype), zero=None if zero is None else zero.astype(np.int64))
        return encode(x, grid, how.with_tiling(ELEMENTS))

    return encoded


def quantizer(f, how: QuantSpec, **more) -> Check:
    return partial(check_quantizer, f, spec=how, refusals=REFUSED, examples=5, **more)


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
        yield partial(check_quantizer, f, traits=replace(fixed, tiling=tiling), refusals=(*REFUSED, InputError), examples=6)
    yield partial(check_statistics, partial(Extremes.of, axis=0), Extremes.merge, examples=6)


def probabilities_checks() -> Iterator[Check]:
    known = Traits(tiling=ELEMENTS, nearest=True, monotone=True, keeps_zero=True, idempotent=True, nan="raise", infinity="raise")
    known = replace(known, order_free=True, symmetric="probabilities have no sign", scalable="the grid is fixed, or ends with the row")
    for ranged, dtype, tiling in (
        ("unit", "float32", ELEMENTS),
        ("unit", "float64", Tiling((None, None))),
        ("row_max", "float32", Tiling.channel()),
    ):
        values, f = hnp.arrays(dtype, SHAPES, elements=PROBABLE), partial(quantize_probabilities, bits=4, range=ranged)
        yield partial(check_quantizer, f, traits=replace(known, tiling=tiling), values=values, examples=10)


def weight_method_checks(method, hows: tuple[QuantSpec, ...], *, examples: int = 5, **more) -> Iterator[Check]:
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
    yield from weight_method_checks(partial(gptq, act_order=True, arithmetic=ORDERED), (spec("int3", group_size=3),))


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

    def __init__(self, transforms: Iterable[Transform]) -> None:
        self.transforms = tuple(transforms)

    def apply(self, x):
        return reduce(lambda array, transform: transform.apply(array), self.transforms, x)

    def undo(self, weight):
        return reduce(lambda array, transform: transform.undo(array), self.transforms, weight)


def rewrite_checks(make) -> Iterator[Check]:
    yield partial(check_rewrite, lambda w, x: Chain(make(w, x)), widths=(2, 4, 8), refusals=(InputError, NumericalError), examples=10)


def smoothquant_checks() -> Iterator[Check]:
    yield from rewrite_checks(lambda w, x: smoothquant(SITE, np.abs(x).max(axis=0), {"linear": w}).online["linear"])


def awq_checks() -> Iterator[Check]:
    yield from rewrite_checks(lambda w, x: awq(SITE, x, {"linear": w}, spec("int4"), candidates=5).online["linear"])


def duquant_checks() -> Iterator[Check]:
    def rotated(w, x):
        found = duquant(x, np.random.Generator(np.random.PCG64(3)), block=2, steps=4)
        return Rewrite(method="duquant", steps=found.joints(("linear",))).online["linear"]

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


def dash_q_checks() -> Iterator[Check]:
    not_rtn = "its scales are fitted to the codes, and the codes not always found again"
    searching = {"idempotent": not_rtn, "dead_inputs": "an input without weight still has its code", "hessian_scalable": True}
    for how in (spec("int4", scheme="sym_narrow"), spec("int3", group_size=3)):
        promised = replace(Traits.of(how), **searching)
        laws = [law.name for law in LAWS["weight_method"] if law.name != "hessian_checked"]  # it sees the diagonal alone
        method = partial(_by_diagonal, how=how)
        # No spec=: with equal weights it is better than rounding to nearest, not the same.
        yield partial(check_weight_method, method, traits=promised, refusals=REFUSED, laws=laws, examples=7)


def _by_diagonal(w, h, how):
    return dash_q(w, np.diagonal(h), how, steps=4)


def hqq_checks() -> Iterator[Check]:
    how = spec("uint4", group_size=3)
    floor = "ranges below 1e-4, and steps above 2e4 a unit, are cut off"
    real = "zero points lie between the codes"
    promised = replace(Traits.of(how), keeps_zero=real, symmetric=real, idempotent=real, scalable=floor, infinity="raise", nan="raise")
    yield partial(check_quantizer, partial(hqq, spec=how, iterations=0), traits=promised, refusals=REFUSED, examples=7)
    apart = ("row_permutation", "column_permutation", "batch_independence", "chunk_independence")
    laws = [law.name for law in LAWS["quantizer"] if law.name not in apart]
    moved = partial(hqq, spec=how, iterations=5)  # iterations end for all tiles at once
    yield partial(check_quantizer, moved, traits=promised, refusals=REFUSED, laws=laws, examples=7)


def offset_checks() -> Iterator[Check]:
    start = "the grid starts at the smallest number of the tile, wherever that is"
    known = Traits(nearest=True, monotone=True, order_free=True, symmetric=start, keeps_zero=start, nan="raise", infinity="raise")
    for anchor, tiling, scalable in (
        ("lower", Tiling.channel(), True),
        ("middle", Tiling((1, 3)), "scales are at least the smallest normal number"),
    ):
        promised = replace(known, tiling=tiling, scalable=scalable, idempotent="the highest number is met up to rounding alone")

        def numbers(x, anchor=anchor, tiling=tiling):
            return offset_rtn(x, 4, tiling, anchor=anchor).dequantize()

        yield partial(check_quantizer, numbers, traits=promised, refusals=REFUSED, examples=7)


def quant_dllm_checks() -> Iterator[Check]:
    ties = "of equally near sums of signs the lowest code is taken"
    promised = Traits(
        symmetric=ties, scalable=True, keeps_zero=True, dead_inputs=True, hessian_scalable=True, nan="raise", infinity="raise"
    )
    for orders in (1, 2):
        method = partial(quant_dllm, orders=orders, ratio=0, block=3, steps=3, scale_format="float32")
        yield partial(check_weight_method, method, traits=promised, refusals=REFUSED, examples=7)


def lloyd_max_checks() -> Iterator[Check]:
    how = lloyd_max_spec(3, group_size=3)
    mean = "scales are root mean squares, which are summed in order and move"
    promised = replace(Traits.of(how), order_free=mean, idempotent=mean, nan="raise", infinity="raise")
    promised = replace(
        promised, keeps_zero="no level is 0", scalable="a tile of zeros has the smallest scale", symmetric="0 goes to one side"
    )
    yield partial(check_quantizer, partial(lloyd_max, spec=how, correction=False), traits=promised, refusals=REFUSED, examples=7)
    corrected = replace(promised, nearest="the scale is corrected after the codes were chosen")
    yield partial(check_quantizer, partial(lloyd_max, spec=how), traits=corrected, refusals=REFUSED, examples=7)
    # Away from 0, where no tile is empty and no number stands between two levels of opposite signs.
    nonzero = hnp.arrays("float64", SHAPES, elements=st.floats(0.01, 4).flatmap(lambda v: st.sampled_from([v, -v])))
    mirrored = replace(corrected, scalable=True, symmetric=True)
    laws = ["scaling", "sign_symmetry"]
    yield partial(check_quantizer, partial(lloyd_max, spec=how), traits=mirrored, values=nonzero, laws=laws, examples=7)


def soloq_checks() -> Iterator[Check]:
    yield from rewrite_checks(lambda w, x: soloq(x.shape[1], np.random.Generator(np.random.PCG64(3)), block=2))


def tac_checks() -> Iterator[Check]:
    def collect(x):
        return Moments.of(x, block=x.shape[1])

    yield partial(check_statistics, collect, Moments.merge, relative=1e-12, examples=20)


def log2_softmax_checks() -> Iterator[Check]:
    known = Traits(tiling=ELEMENTS, monotone=True, idempotent=True, order_free=True, nan="raise", infinity="raise")
    known = replace(known, nearest="nearest in the logarithm", symmetric="probabilities have no sign", scalable="1 is the largest power")
    for last, dtype, kept in (("zero", "float32", True), ("power", "float64", "the last code is a power")):
        f, values = partial(quantize_log2, bits=4, last=last), hnp.arrays(dtype, SHAPES, elements=PROBABLE)
        yield partial(check_quantizer, f, traits=replace(known, keeps_zero=kept), values=values, examples=8)


def fair_adaptation_checks() -> Iterator[Check]:
    values = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(lambda shape: confidences(np.ones(shape, dtype=bool)))
    known = Traits(nan="raise", infinity="raise", keeps_zero="visible tokens weigh the floor")
    ties = "of equal confidences the first is on the frontier, and means are sums in order"
    row, alone = (
        {"tiling": Tiling.channel(), "order_free": ties, "monotone": ties},
        {"tiling": ELEMENTS, "order_free": True, "monotone": True},
    )
    for promises, options in ((row, {}), (alone, {"frontier": 0, "normalize": "none"})):
        f = partial(lambda s, options: fair_weights(s > 0.5, s, **options), options=options)
        yield partial(check_quantizer, f, traits=replace(known, **promises), values=values, examples=8)


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
    "dash_q": dash_q_checks,
    "hqq": hqq_checks,
    "offset": offset_checks,
    "quant_dllm": quant_dllm_checks,
    "lloyd_max": lloyd_max_checks,
    "soloq": soloq_checks,
    "tac": tac_checks,
    "log2_softmax": log2_softmax_checks,
    "fair_adaptation": fair_adaptation_checks,
}
# Methods that are no function of arrays as laws see them.
WITHOUT_LAWS = {
    "tmas": "draws states of rollouts, not arrays; its own tests hold quotas and balance",
    "abmp": "gives blocks their bits by rank; its own tests enumerate small cases",
    "quarot": "edits a whole network; that its function is preserved is held on models in tests/apply and tests/methods",
}
