"""Around the work on an output folder: what is said when it ends early, so that whoever started it knows how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refquant.apply.recipe import Recipe
from refquant.apply.run import Workbench
from refquant.apply.work_folder import WorkFolder, partial_of, unfinished
from refquant.cli.interruption import Interruption
from refquant.cli.streams import talk
from refquant.errors import InputError


@contextmanager
def working(bench: Workbench, recipe: Recipe, out: Path, resume: bool) -> Iterator[tuple[WorkFolder, Interruption]]:
    """Hold the work on an output folder while the block runs.

    Parameters
    ----------
    bench : Workbench
    recipe : Recipe
    out : Path
    resume : bool

    Raises
    ------
    InputError
        As :class:`~refquant.apply.work_folder.WorkFolder`; what is raised inside, with a word on how to go on if anything was finished.
    """
    interruption = Interruption(talk)
    if resume and unfinished(out) is None:
        talk(f"there is no {partial_of(out).name} to resume: the run begins anew")
    with bench.work_folder(out, recipe, resume=resume, stop=interruption) as work:
        if work.finished:
            talk(f"{work.finished} linears were finished before and are taken as they are")
        advice = f"{partial_of(out)}; go on with --resume"
        try:
            yield work, interruption
        except KeyboardInterrupt:
            if work.finished:
                talk(f"interrupted: {work.finished} linears are safe in {advice}")
            raise
        except InputError as error:
            if type(error) is not InputError or not work.finished or not partial_of(out).exists():
                raise
            raise InputError(f"{error} ({work.finished} linears are safe in {advice})") from error
