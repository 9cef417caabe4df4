"""Where the quantized linears of a run go while it runs: nowhere but memory, or to a folder that outlives the process."""

from __future__ import annotations

from typing import Protocol

from model import DenseLinear
from refquant.apply.linear_task import LinearResult


class Keeper(Protocol):
    """Takes each linear as it is finished, and knows those that an earlier run finished.

    :class:`~refquant.apply.work_folder.WorkFolder` is one.
    """

    def find(self, name: str, linear: DenseLinear) -> LinearResult | None:
        """What an earlier run made of this linear's weight, or None; the weight of a streamed one is read only to be compared."""

    def put(self, result: LinearResult) -> None:
        """Keep a finished linear."""

    def stopping(self) -> bool:
        """Whether the run is to end; asked after every linear that was kept, until it says so."""
