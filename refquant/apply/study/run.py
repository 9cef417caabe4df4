"""Run the cells that are not finished yet, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from refquant.apply.study.cell import Laboratory, Record, cell_key, draw_states, run_cell
from refquant.apply.study.folder import Folder
from refquant.apply.study.grid import Cell
from refquant.apply.workforce import HERE, Workforce

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Records of the finished cells, in the order of the grid, and the cells for which there was no time."""

    records: tuple[Record, ...]
    left_out: tuple[Cell, ...]


def run_cells(
    lab: Laboratory,
    folder: Folder,
    wanted: Sequence[Cell],
    workers: Workforce = HERE,
    progress: Progress | None = None,
    may_begin: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Run what is not finished, keep each cell as soon as it is, and return all.

    Parameters
    ----------
    lab : Laboratory
    folder : Folder
    wanted : sequence of Cell
    workers : Workforce
        Who rolls out and measures cells; the numbers do not depend on it where BLAS itself uses one thread.
    progress : callable, optional
        Called from the calling thread with a cell's label, how many are finished, and of how many.
    may_begin : callable
        Asked before each cell that is begun; False ends the run with what is there.
    """
    keys = {cell: cell_key(lab, cell) for cell in wanted}
    done = {cell: record for cell in wanted if (record := folder.find(keys[cell])) is not None}
    waiting = [cell for cell in wanted if cell not in done]
    draw_states(lab, waiting, workers)
    running: dict[Future[Record], Cell] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers.count and may_begin():
                cell = waiting.pop(0)
                running[workers.submit(_measured, (lab, cell))] = cell
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                done[cell] = folder.keep(keys[cell], workers.result(future))
                if progress is not None:
                    progress(cell.label, len(done), len(wanted))
    finally:
        for future in running:
            future.cancel()
    return Outcome(records=tuple(done[cell] for cell in wanted if cell in done), left_out=tuple(waiting))


def _measured(task: tuple[Laboratory, Cell]) -> Record:
    return run_cell(*task)
