"""Functions that are wrong on purpose, each in one way, beside the right ones that they were made of."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from refquant.conformance.laws import Traits
from refquant.core import Tiling, spec
from refquant.methods.compensate.gptq import gptq

HI = 7
CALLS = itertools.count(1)


def right(x, rounding=np.rint, group=None):
    """Symmetric 4-bit codes -7..7 with one scale a row or a group of columns; plain NumPy, nothing of refquant."""
    if not np.isfinite(x).all():
        raise ValueError("finite numbers, please")
    wide = np.asarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    width = group or max(x.shape[1], 1)
    starts = range(0, x.shape[1], width)
    tops = [np.abs(wide[:, start : start + width]).max(axis=1, initial=0) for start in starts]
    top = np.stack(tops, axis=1) if tops else np.zeros((len(x), 0), wide.dtype)
    scale = np.maximum(top / wide.dtype.type(HI), np.finfo(wide.dtype).smallest_subnormal)
    spread = np.repeat(scale, width, axis=1)[:, : x.shape[1]]
    codes = np.clip(rounding(wide / spread), -HI, HI).astype(np.int64)
    if not np.isfinite(codes.astype(wide.dtype) * spread).all():
        raise OverflowError("7 * (max / 7) rounds beyond the largest number")
    return codes, spread


ROWS = Traits(
    tiling=Tiling.channel(),
    ends=(-HI, HI),
    nearest=True,
    monotone=True,
    symmetric=True,
    scalable=True,
    keeps_zero=True,
    idempotent=True,
    order_free=True,
    nan="raise",
    infinity="raise",
)
GROUPS = replace(ROWS, tiling=Tiling.group(3))


def right_in_groups(x):
    return right(x, group=3)


def right_encode(x, scale, zero):
    return np.clip(np.rint(x / scale), -HI, HI).astype(np.int64)


def values(found):
    return found[0] * found[1]


class Decoded:
    """An answer that decodes itself."""

    def __init__(self, codes, scale, dtype):
        self.codes, self.scale, self.zero, self.dtype = codes, scale, None, dtype

    def dequantize(self):
        return (self.codes * self.scale).astype(self.dtype)


def no_guard_for_zero_rows(x):
    wide = x.astype(np.float64)
    scale = np.abs(wide).max(axis=1, keepdims=True, initial=0) / HI
    return np.rint(wide / scale) * scale


def cast_before_clip(x):
    _, scale = right(x)
    return np.rint(x / (scale / 64)).astype(np.int8).astype(np.int64).clip(-HI, HI), scale / 64


def one_code_too_many(x):
    codes, scale = right(x)
    return np.where(codes == HI, HI + 1, codes), scale


def decodes_in_float16(x):
    return Decoded(*right(x), np.float16)


def truncates(x):
    return right(x, rounding=np.trunc)


def lowest_code_too(x):
    """Codes -8..7 on a grid that is stretched to use the extra one."""
    _, scale = right(x)
    scale = scale * HI / (HI + 0.5)
    return np.clip(np.rint(x / scale), -HI - 1, HI).astype(np.int64), scale


def floor_on_scales(x):
    _, scale = right(x)
    scale = np.maximum(scale, 0.05)
    return np.rint(x / scale).astype(np.int64).clip(-HI, HI), scale


def zero_point_off_by_one(x):
    codes, scale = right(x)
    return codes, scale, np.ones(scale.shape, np.int64)


def sign_bit_as_sign(x):
    codes, scale = right(x)
    return np.where(np.signbit(x), codes, codes + (codes == 0)), scale


def dithered_by_row(x):
    codes, scale = right(x)
    return codes, scale * (1 + np.arange(len(x))[:, None])


def scale_of_first_column(x):
    codes, _ = right(x)
    return codes, np.maximum(np.abs(x[:, :1]).astype(np.float64), 1e-30) * np.ones(x.shape)


def one_scale_for_all(x):
    _, scale = right(x)
    wide = scale.max(initial=1e-300)
    return np.rint(x / wide).astype(np.int64), np.full(x.shape, wide)


def boundary_off_by_one(x):
    """The second group begins one column early."""
    codes, scale = right(x[:, :2])
    more = right(x[:, 2:], group=3)
    return np.concatenate([codes, more[0]], axis=1), np.concatenate([scale, more[1]], axis=1)


def shrinks_the_range(x):
    _, scale = right(x)
    scale = scale * 0.75
    return np.clip(np.rint(x / scale), -HI, HI).astype(np.int64), scale


def encode_with_floor(x, scale, zero):
    return np.floor(x / scale * 0.999).astype(np.int64)


class RunningMaximum:
    """Smooths its range over calls, as observers do."""

    def __init__(self):
        self.top = 0.0

    def __call__(self, x):
        self.top = (self.top + min(float(np.max(x, initial=0)), 1e6)) / 2
        wide = max(self.top, 1.0) / HI
        return np.rint(x / wide).astype(np.int64).clip(-HI, HI), np.full(x.shape, wide)


def writes_into_its_input(x):
    codes, scale = right(x)
    x[x > 1] = 1
    return codes, scale


def reads_memory_as_it_lies(x):
    codes, scale = right(x)
    return codes.ravel()[np.argsort(np.argsort(x.ravel(order="K"), kind="stable"), kind="stable")].reshape(x.shape), scale


def nan_to_number(x):
    return right(np.nan_to_num(x, posinf=np.inf, neginf=-np.inf))


def infinity_to_number(x):
    if np.isnan(x).any():
        raise ValueError("no NaN, please")
    return right(np.nan_to_num(x))


# law -> (what is wrong, function, traits, encode): every law of a quantizer is broken by one of them.
WRONG_QUANTIZERS = {
    "finite": (no_guard_for_zero_rows, ROWS, None),
    "codes_in_range": (one_code_too_many, ROWS, None),
    "decoding": (decodes_in_float16, ROWS, None),
    "half_step": (truncates, ROWS, None),
    "nearest_level": (truncates, ROWS, None),
    "monotone": (cast_before_clip, ROWS, None),
    "idempotence": (shrinks_the_range, ROWS, None),
    "same_grid_idempotence": (right, ROWS, encode_with_floor),
    "sign_symmetry": (lowest_code_too, ROWS, None),
    "scaling": (floor_on_scales, ROWS, None),
    "zero_kept": (zero_point_off_by_one, ROWS, None),
    "signed_zero": (sign_bit_as_sign, ROWS, None),
    "row_permutation": (dithered_by_row, ROWS, None),
    "column_permutation": (scale_of_first_column, ROWS, None),
    "batch_independence": (one_scale_for_all, ROWS, None),
    "chunk_independence": (boundary_off_by_one, GROUPS, None),
    "determinism": (RunningMaximum(), ROWS, None),
    "inputs_untouched": (writes_into_its_input, ROWS, None),
    "layout_independence": (reads_memory_as_it_lies, ROWS, None),
    "nan_policy": (nan_to_number, ROWS, None),
    "infinity_policy": (infinity_to_number, ROWS, None),
}

HOW = spec("int4", scheme="sym_narrow")
WEIGHTS = replace(Traits.of(HOW), dead_inputs=True, hessian_scalable=True)


def right_method(w, h):
    return gptq(w, h, HOW)


def weak_inputs_are_dead(w, h):
    """An absolute threshold where only 0 means dead."""
    return gptq(w * (np.diag(h) > 0.01), h, HOW)


def compensates_with_dead_inputs_alive(w, h):
    return gptq(w, h + 1e-3 * np.eye(len(h)), HOW)


def forgets_to_check_the_hessian(w, h):
    safe = np.eye(w.shape[1])
    return gptq(w, np.nan_to_num(h) if h.shape == safe.shape else safe, HOW)


def adds_noise_of_the_row(w, h):
    q = gptq(w, h, HOW)
    return q.dequantize() * (1 + np.arange(len(w))[:, None])


def shifts_codes(w, h):
    q = gptq(w, h, HOW)
    return q.codes.astype(np.int64) + 1, q.scale


def keeps_nan(w, h):
    return gptq(np.nan_to_num(w), h, HOW)


def one_tile_of_rows(w, h):
    return gptq(w, h, spec("int4", scheme="sym_narrow", granularity="tensor")).dequantize()


def asymmetric(w, h):
    return gptq(w, h, spec("int4", scheme="asym_incl0")).dequantize()


def overwrites_the_hessian(w, h):
    found = gptq(w, h, HOW)
    h[np.diag_indices(len(h))] += 1
    return found


def with_a_floor(w, h):
    return gptq(w, h, spec("int4", scheme="asym_minmax")).dequantize()


def half_finite(w, h):
    return np.where(w > 3, np.inf, gptq(w, h, HOW).dequantize())


def layout_matters(w, h):
    return gptq(w, h, HOW).dequantize() * (1 if w.flags.c_contiguous else 2)


def counted(w, h):
    return gptq(w, h, HOW).dequantize() * next(CALLS)


WRONG_METHODS = {
    "finite": half_finite,
    "codes_in_range": shifts_codes,
    "decoding": lambda w, h: Decoded(*shifts_by_grid(w, h), np.float16),
    "identity_hessian": asymmetric,
    "hessian_scaling": weak_inputs_are_dead,
    "dead_inputs": compensates_with_dead_inputs_alive,
    "sign_symmetry": asymmetric,
    "scaling": with_a_floor,
    "zero_kept": shifts_codes,
    "row_permutation": adds_noise_of_the_row,
    "batch_independence": one_tile_of_rows,
    "hessian_checked": forgets_to_check_the_hessian,
    "determinism": counted,
    "inputs_untouched": overwrites_the_hessian,
    "layout_independence": layout_matters,
    "nan_policy": keeps_nan,
    "infinity_policy": keeps_nan,
}


def shifts_by_grid(w, h):
    q = gptq(w, h, HOW)
    return q.codes.astype(np.int64), np.broadcast_to(q.scale, q.shape)
