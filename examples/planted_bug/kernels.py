"""A quantizer and GPTQ in forty lines of NumPy, as somebody might port them, each with one mistake that is easily made.

    refquant conform --backend kernels:backend

The codes look right on random weights: ties are rare, and GPTQ corrects its own errors. The report names both mistakes.
"""

import numpy as np


def fit(x, bits):
    """Scale and zero point of each row, for codes 0 .. 2^bits - 1; the range holds zero."""
    steps = (1 << bits) - 1
    lo, hi = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    empty = (lo == 0) & (hi == 0)
    lo, hi = np.where(empty, x.dtype.type(-1), lo), np.where(empty, x.dtype.type(1), hi)
    scale = np.maximum((hi - lo) / x.dtype.type(steps), np.finfo(x.dtype).smallest_subnormal)
    return scale, np.clip(np.rint(-lo / scale), 0, steps)


def encode(x, scale, zero, bits):
    """Codes of numbers."""
    with np.errstate(over="ignore"):
        places = x / scale
    nearest = np.copysign(np.floor(np.abs(places) + x.dtype.type(0.5)), places)  # the first mistake: ties go away from zero
    return np.clip(nearest + zero, 0, (1 << bits) - 1)


def quantize(inputs, parameters):
    """uniform.quantize, one grid a row."""
    x, bits = inputs["x"], parameters["bits"]
    plain = parameters["scheme"] == "asym_incl0" and parameters["scale_format"] is None and parameters["rounding"] == "half_even"
    if not plain or x.dtype != np.float32 or parameters["group"] is not None or parameters["granularity"] != "row":
        raise NotImplementedError("asym_incl0 on whole rows of float32 only")
    scale, zero = fit(x, bits)
    codes = encode(x, scale[:, None], zero[:, None].astype(np.float32), bits)
    return {"codes": codes.astype(np.int64), "scale": scale[:, None], "zero": zero[:, None].astype(np.int64)}


def gptq(inputs, parameters):
    """gptq.codes, one grid a row, columns from left to right."""
    if parameters["scheme"] != "asym_incl0" or parameters["group"] is not None or parameters["act_order"]:
        raise NotImplementedError("asym_incl0 on whole rows, columns from left to right only")
    weight, hessian, bits = inputs["weight"].copy(), inputs["hessian"].copy(), parameters["bits"]
    dead = np.diagonal(hessian) == 0
    hessian[dead, dead], weight[:, dead] = 1, 0
    hessian += np.eye(len(hessian)) * parameters["damping"] * np.diagonal(hessian).max()  # the second: the mean is meant
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    scale, zero = fit(weight, bits)
    codes, errors = np.zeros(weight.shape), np.zeros(weight.shape)
    for i in range(weight.shape[1]):
        codes[:, i] = np.clip(np.rint(weight[:, i] / scale) + zero, 0, (1 << bits) - 1)
        errors[:, i] = (weight[:, i] - scale * (codes[:, i] - zero)) / factor[i, i]
        weight[:, i + 1 :] -= errors[:, i, None] * factor[i, i + 1 :]
    grid = {"scale": scale[:, None], "zero": zero[:, None].astype(np.int64)}
    order = np.arange(weight.shape[1])
    return {"codes": codes.astype(np.int64), **grid, "order": order, "damped": hessian, "factor": factor, "errors": errors}


backend = {"uniform.quantize": quantize, "gptq.codes": gptq}
