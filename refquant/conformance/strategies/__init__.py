"""Hypothesis strategies that are drawn to break quantizers, and that shrink to cases a person can read.

Needs the ``testing`` extra. Importing :mod:`refquant.conformance` does not import this package.

>>> from hypothesis import given
>>> from refquant.conformance.strategies import weights
>>> @given(weights())
... def test_mine(w):
...     assert w.ndim == 2
>>> test_mine()
"""

from importlib.util import find_spec

from refquant.errors import UsageError

if find_spec("hypothesis") is None:
    raise UsageError("strategies are made of hypothesis, which is not installed; pip install 'refquant[testing]'")

from refquant.conformance.strategies.arrays import activations, numbers, weights
from refquant.conformance.strategies.diffusion import confidences, masks
from refquant.conformance.strategies.hessians import hessians
from refquant.conformance.strategies.specs import schemes, specs, tilings

__all__ = ["activations", "confidences", "hessians", "masks", "numbers", "schemes", "specs", "tilings", "weights"]
