"""A place where a factor a channel can be moved from activations into weights: who produces the channels, who consumes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.core.rewrite import Joint
from refquant.core.transform import Scale
from refquant.errors import InputError
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSite:
    """One place of one layer.

    Parameters
    ----------
    place : str
        Which of a block's places it is, such as ``"attn_in"``.
    searched : tuple of str
        The linears that are quantized there and that factors are chosen for.
    consumers : tuple of str
        All that read the channels: the searched ones, and for instance a router.
    producer : str or None
        What the factors are divided out of: a norm, or the linear before. None applies them at run time.
    first, width : int
        Where the channels lie among the features that the producer writes, and how many those are; 0 features: all are channels.
    obstacle : str
        Why no factors can be moved here; empty where they can.
    """

    place: str
    searched: tuple[str, ...]
    consumers: tuple[str, ...]
    producer: str | None = None
    first: int = 0
    width: int = 0
    obstacle: str = ""

    def joint(self, factors: Array) -> Joint:
        """The joint that divides the channels by factors ``[channels]`` and multiplies the weights by them.

        Raises
        ------
        InputError
            If there is an obstacle, which the message names, or a factor is not positive and finite.

        Examples
        --------
        >>> site = ScaleSite(place="attn_in", searched=("q",), consumers=("q",), producer="norm")
        >>> site.joint(np.array([2.0])).transform.factors
        array([2.])
        """
        if self.obstacle:
            raise InputError(f"{self.place} of {self.searched[0]} takes no factors: {self.obstacle}")
        scale = Scale(factors=factors)
        if self.producer is None:
            return Joint(transform=scale, consumers=self.consumers)
        if self.width in (0, len(factors)):
            return Joint(transform=scale, producers=(self.producer,), consumers=self.consumers)
        written = np.ones(self.width, dtype=np.asarray(factors).dtype)
        written[self.first : self.first + len(factors)] = factors
        return Joint(transform=Scale(factors=written), producers=(self.producer,), consumers=self.consumers, consumed=scale)
