"""What all rewrites of a recipe have in common when they are at work."""

from __future__ import annotations

from collections.abc import Collection

from model import Transformer
from refquant.apply.block_view import BlockView
from refquant.apply.rewrite_parts import Inputs
from refquant.apply.rewritten import Notes
from refquant.core.rewrite import Rewrite


class Rewriter:
    """One rewrite of a recipe at work; by default it does nothing.

    Attributes
    ----------
    inputs : {"float", "quantized"}
        Which calibration inputs :meth:`block` wants to see.
    weighted : bool
        Whether tokens count as the recipe says.
    notes : tuple of mapping
        What :meth:`prepare` chose; what :meth:`block` chose is in the notes of its rewrites.
    """

    inputs: Inputs = "float"
    weighted: bool = False
    notes: tuple[Notes, ...] = ()

    def prepare(self, m: Transformer) -> Transformer:
        """Rewrite the whole model before the pass over its blocks."""
        return m

    def sketch(self, m: Transformer, online: Collection[str] = ()) -> Rewrite | None:
        """A rewrite of the whole model that touches the same tensors and has transforms of the same sizes, made without any data.

        Parameters
        ----------
        m : Transformer
        online : collection of str
            Linears that earlier rewrites left behind online transforms.
        """
        return None

    def block(self, view: BlockView) -> Rewrite | None:
        """Choose the rewrite of one block when the pass comes to it."""
        return None
