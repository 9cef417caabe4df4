"""Where the quantized linears of a run go while it runs: nowhere but memory, or to a folder that outlives the process."""

from __future__ import annotations

from typing import Protocol

from refquant.apply.linear_task import LinearResult
from refquant.numerics.arrays import Array


class Keeper(Protocol):
    """Takes each linear as it is finished, and knows those that an earlier run finished.

    :class:`~refquant.apply.work_folder.WorkFolder` is one.
    """

    def find(self, name: str, weight: Array) -> LinearResult | None:
        """What an earlier run made of this weight, or None."""

    def put(self, result: LinearResult) -> None:
        """Keep a finished linear."""

    def stopping(self) -> bool:
        """Whether the run is to end; asked after every linear that was kept, until it says so."""
