"""What it costs to import refquant and to ask for help, in pairs of processes.

python -m benchmarks.startup [--quick]

Each time is that of a whole process, the interpreter's own start included. The files are in the system's cache after the round that is not
counted. `import refquant` loads nothing until a name is asked for; the last row asks for all of them, and has no limit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks import measure

TITLE = "Starting: a process of ours / a process of the peer"
NEEDS: tuple[str, ...] = ()
ROWS = ("import refquant", "refquant --help", "all names of refquant")

EVERYTHING = "import refquant; [getattr(refquant, name) for name in refquant.__all__]"


def process(*arguments: str) -> Callable[[], object]:
    """A call that runs this interpreter with some arguments; CalledProcessError if it fails."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def run(quick: bool) -> Iterator[measure.Result]:
    rounds = 3 if quick else 11

    def pair(ours: Callable[[], object], peer: Callable[[], object]) -> measure.Comparison:
        return measure.alternate("processes", ours, peer, rounds)

    numpy = process("-c", "import numpy")
    yield measure.Result(
        name="import refquant",
        comparison=pair(process("-c", "import refquant"), numpy),
        limit=0.060,
        more=True,
        size="beyond import numpy",
    )
    yield measure.Result(
        name="refquant --help",
        comparison=pair(process("-m", "refquant", "--help"), process("-c", "import click")),
        limit=4.0,
        size="of python -c 'import click'",
    )
    everything = pair(process("-c", EVERYTHING), numpy)
    yield measure.Result(name="all names of refquant", comparison=everything, more=True, size="beyond import numpy")


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
