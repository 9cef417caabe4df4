"""How arithmetic is done: lanes, rounding, casting, factorizations, ordering."""

from refquant.numerics.arithmetic import FAST, Arithmetic
from refquant.numerics.ordered import ORDERED

LANES: dict[str, Arithmetic] = {lane.name: lane for lane in (FAST, ORDERED)}
"""What a lane's name stands for."""

__all__ = ["FAST", "LANES", "ORDERED", "Arithmetic"]
