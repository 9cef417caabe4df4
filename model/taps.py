"""Observers: look at the arrays that flow through the one forward pass.

An observer is any ``callable(name, array)``. It is called with read-only views, at the moment they are computed:

==============================  ================  ============================================================
name                            shape             what
==============================  ================  ============================================================
``<linear>.input``              [B, T, in]        input of a linear; linears that share one get the same array
``blocks.{i}.input``            [B, T, d]         residual stream before block i
``blocks.{i}.q``, ``.k``        [B, H or K, T, h] queries and keys after rotary embedding, before the scale
``blocks.{i}.v``                [B, K, T, h]      values
``blocks.{i}.probabilities``    [B, H, T, T]      attention weights
``blocks.{i}.mixture``          [B, T, d]         input of a mixture: of its router and, routed, its experts
``head.input``                  [B, T, d]         residual stream after the final norm
==============================  ================  ============================================================

``<linear>`` is a key of ``Transformer.linears``. The arrays are not overwritten later, so keeping one needs no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from refquant.numerics.arrays import Array

Observer = Callable[[str, Array], None]


def show(observer: Observer | None, name: str, array: Array) -> None:
    """Hand a read-only view of `array` to `observer`, if there is one."""
    if observer is not None:
        view = array.view()
        view.flags.writeable = False
        observer(name, view)


class Keep:
    """Collects what it is shown: ``kept[name]`` is the list of arrays seen under that name, in order.

    Parameters
    ----------
    wanted : callable or iterable of str, optional
        A predicate on names, or the names themselves; everything when absent.

    Examples
    --------
    >>> import numpy as np
    >>> keep = Keep(lambda name: name.endswith(".v"))
    >>> keep("blocks.0.v", np.zeros(2)); keep("blocks.0.k", np.ones(2)); keep("blocks.0.v", np.ones(2))
    >>> {name: len(arrays) for name, arrays in keep.kept.items()}
    {'blocks.0.v': 2}
    """

    def __init__(self, wanted: Callable[[str], bool] | Iterable[str] | None = None) -> None:
        self.kept: dict[str, list[Array]] = {}
        if wanted is None:
            self._wanted: Callable[[str], bool] = lambda name: True
        elif callable(wanted):
            self._wanted = wanted
        else:
            self._wanted = frozenset(wanted).__contains__

    def __call__(self, name: str, array: Array) -> None:
        """Keep `array` if its name is wanted."""
        if self._wanted(name):
            self.kept.setdefault(name, []).append(array)

    def last(self, name: str) -> Array:
        """Return the array that was seen last under `name`; KeyError if none was."""
        return self.kept[name][-1]


def fan_out(*observers: Observer | None) -> Observer:
    """One observer that calls several, in order; ``None`` is left out."""
    present = [observer for observer in observers if observer is not None]

    def call_all(name: str, array: Array) -> None:
        for observer in present:
            observer(name, array)

    return call_all
