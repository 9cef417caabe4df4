"""How arithmetic is done: lanes, rounding, casting, factorizations, ordering."""

from refquant.numerics.arithmetic import FAST, Arithmetic

__all__ = ["FAST", "Arithmetic"]
