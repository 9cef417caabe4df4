"""One quantization run from folder to folder: what it is made of, its digest, and the baselines it is compared with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from model import Tokenizer, Transformer
from refquant.apply.checkpoint import Provenance, input_digest, is_quantized, load_quantized, read_provenance, save_quantized
from refquant.apply.corpus import CalibrationLine, read_calibration
from refquant.apply.keeper import Keeper
from refquant.apply.quantize import QuantizedModel, quantize_model
from refquant.apply.recipe import Calibration, Recipe
from refquant.apply.states import CalibrationSet, calibration_states
from refquant.apply.work_folder import WorkFolder
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError, UsageError
from refquant.numerics import ORDERED
from refquant.storage import canonical_json, digest
from refquant.storage.border import telling

Progress = Callable[[str, int, int], None]
DrawnStates = dict[tuple[Calibration, int | None], CalibrationSet]


@dataclass(slots=True, kw_only=True)
class Workbench:
    """A full-precision model, its calibration lines and a seed: everything that the rows of a comparison share.

    Parameters
    ----------
    model : Transformer
    source : Path
        Folder of the checkpoint.
    tokenizer : Tokenizer
    lines : list of CalibrationLine
        Empty if no recipe needs calibration.
    seed : int
    progress : callable, optional
    workers : Workforce
        Who computes what is independent.
    """

    model: Transformer
    source: Path
    tokenizer: Tokenizer
    lines: list[CalibrationLine]
    seed: int
    progress: Progress | None = None
    workers: Workforce = HERE
    _states: DrawnStates = field(default_factory=dict)
    _input: str = ""

    @property
    def input_digest(self) -> str:
        """Of the checkpoint; taken once, as it reads all of it. UsageError if the folder is already quantized."""
        self._input = self._input or input_digest(self.source)
        return self._input

    def drawn(self) -> DrawnStates:
        """The states that were drawn so far, by plan and number of tokens; a bench that is given them needs no calibration lines."""
        return dict(self._states)

    def on(self, model: Transformer) -> Workbench:
        """The same bench with another model that is the same function; both share the states that are drawn."""
        return replace(self, model=model)

    def states(self, plan: Calibration, tokens: int | None = None) -> CalibrationSet:
        """Calibration states of a plan; the same plan and number of tokens give the same states, drawn once."""
        key = (plan, tokens)
        if key not in self._states:
            if plan.states != "none" and not self.lines:
                raise UsageError("this recipe needs calibration data; name a file with --calibration")
            rng = np.random.Generator(np.random.PCG64(self.seed))
            self._states[key] = calibration_states(
                self.model,
                self.lines,
                plan,
                rng,
                eos_id=self.tokenizer.eos_id,
                tokens=tokens,
                progress=self.progress,
                workers=self.workers,
            )
        return self._states[key]

    def quantize(self, recipe: Recipe, tokens: int | None = None, keeper: Keeper | None = None) -> QuantizedModel:
        """Quantize the model by a recipe, on `tokens` calibration tokens if a number is given; the rest as :func:`quantize_model`."""
        found = self.states(recipe.calibration, tokens) if recipe.needs_calibration else CalibrationSet(states=())
        return quantize_model(self.model, recipe, found.states, self.progress, keeper=keeper, workers=self.workers)

    def work_folder(self, out: Path, recipe: Recipe, *, resume: bool, stop: Callable[[], bool] = lambda: False) -> WorkFolder:
        """The work of :meth:`quantize` on an output folder, begun or gone on with; errors as of :class:`WorkFolder`."""
        return WorkFolder(out, self.header(recipe), resume=resume, recipe_digest=recipe.digest(), stop=stop)

    def header(self, recipe: Recipe) -> dict[str, Any]:
        """What decides the bytes of a result, as plain JSON values: a run that is resumed must agree with it in everything.

        Beside what :meth:`run_digest` sees there are the versions of programs and, in the fast lane, the workers' BLAS and its threads.
        """
        plan = {key: value for key, value in recipe.to_dict().items() if key not in ("name", "description")}
        return {
            "recipe": plan,
            "input_digest": self.input_digest,
            "calibration_lines": digest(canonical_json(self._plain_lines())) if recipe.needs_calibration else "",
            "seed": self.seed,
            "dtype": self.model.dtype.name,
            "lane": self.model.arithmetic.name,
            "refquant": version("refquant"),
            "numpy": np.__version__,
            "blas": [] if self.model.arithmetic.name == ORDERED.name else self.workers.blas(),
        }

    def _plain_lines(self) -> list[Any]:
        return [line.plain() for line in self.lines]

    def provenance(self, recipe: Recipe, tokens: int | None = None) -> Provenance:
        """Where the result of :meth:`quantize` with the same arguments comes from."""
        states = self.states(recipe.calibration, tokens).states if recipe.needs_calibration else ()
        calibration = digest(canonical_json([[s.ids.tolist(), s.final_ids.tolist()] for s in states])) if states else ""
        return Provenance(
            input_digest=self.input_digest,
            calibration_digest=calibration,
            seed=self.seed,
            run_digest=self.run_digest(recipe, tokens),
        )

    def run_digest(self, recipe: Recipe, tokens: int | None = None) -> str:
        """SHA-256 over all that decides the result, known before anything is computed.

        That is recipe, input, calibration lines, seed, a limit of tokens, and the dtype and arithmetic that the model computes in.
        """
        data = canonical_json(self._plain_lines()) if recipe.needs_calibration else ""
        limit = tokens if recipe.needs_calibration else None
        computing = [self.model.dtype.name, self.model.arithmetic.name]
        return digest(canonical_json([recipe.digest(), self.input_digest, digest(data), self.seed, limit, *computing]))


def open_workbench(source: Path, model: Transformer, calibration: Path | None, seed: int, progress: Progress | None = None) -> Workbench:
    """Open what a run needs.

    Parameters
    ----------
    source : Path
        Checkpoint folder of `model`.
    model : Transformer
    calibration : Path, optional
        Calibration file; without one, recipes that need calibration are refused.
    seed : int
        Not negative.
    progress : callable, optional

    Raises
    ------
    InputError, UsageError
        If a file is missing or damaged, or the seed negative.
    """
    if seed < 0:
        raise UsageError(f"a seed is not negative; got {seed}")
    tokenizer = Tokenizer.from_directory(source)
    lines = [] if calibration is None else read_calibration(calibration, tokenizer, model.config.embedding_rows)
    return Workbench(model=model, source=source, tokenizer=tokenizer, lines=lines, seed=seed, progress=progress)


def default_folder(recipe: Recipe, run_digest: str) -> Path:
    """Name of an output folder that was not named: recipe and run digest."""
    return Path(f"quantized-{recipe.name}-{run_digest[:12]}")


def check_output(path: Path, run_digest: str) -> QuantizedModel | None:
    """Look at what already stands in the place of the output.

    Returns
    -------
    QuantizedModel or None
        The complete, verified result of the identical run, or None if there is nothing.

    Raises
    ------
    InputError
        If something else is there, or a folder that is damaged.
    """
    return load_quantized(path) if is_there(path, run_digest) else None


def is_there(path: Path, run_digest: str) -> bool:
    """Whether the result of the identical run stands at `path`, by its own word; errors as :func:`check_output`."""
    if not path.exists() and not path.is_symlink():
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
        return False
    if not is_quantized(path):
        raise InputError(f"{path} exists and is not a quantized folder; choose another --out or remove it")
    if read_provenance(path).run_digest != run_digest:
        raise InputError(
            f"{path} holds the result of another run (recipe, input, calibration, seed or lane differ); choose another --out or remove it"
        )
    return True


def check_writable(path: Path) -> None:
    """Make and remove a folder beside `path`, so that a place that cannot be written is told before the work and not after it.

    Raises
    ------
    InputError
        If the operating system refuses.
    """
    with telling(path, "create"):
        os.rmdir(tempfile.mkdtemp(prefix=".tmp-", dir=path.absolute().parent))


def save_run(path: Path, bench: Workbench, quantized: QuantizedModel, tokens: int | None = None) -> None:
    """Write the result of a run that took `tokens` calibration tokens; see :func:`refquant.apply.checkpoint.save_quantized`."""
    save_quantized(path, bench.source, quantized, bench.provenance(quantized.recipe, tokens))


def comparison(recipe: Recipe) -> dict[str, Recipe]:
    """The rows of a recipe's table: RTN and GPTQ with everything else the same, the recipe, and the recipe with a 4-bit softmax.

    The last is there only where the recipe quantizes the softmax output at all. Rows that coincide are left out.

    Examples
    --------
    >>> from refquant.apply.recipe import find_recipe
    >>> list(comparison(find_recipe("dllmquant-w4a4")))
    ['RTN', 'GPTQ', 'dllmquant-w4a4', 'dllmquant-w4a4, 4-bit softmax']
    >>> list(comparison(find_recipe("rtn-w4a16")))
    ['RTN', 'GPTQ']
    """
    own = recipe.name if recipe.name not in ("RTN", "GPTQ") else f"recipe {recipe.name}"
    rows = {"RTN": baseline(recipe, "rtn"), "GPTQ": baseline(recipe, "gptq"), own: recipe}
    if recipe.probabilities.bits > 4:
        rows[f"{own}, 4-bit softmax"] = recipe.replace(probabilities={"bits": 4})
    by_digest: dict[str, str] = {}
    for label, row in rows.items():
        by_digest.setdefault(row.digest(), label)
    return {label: rows[label] for label in by_digest.values()}


def baseline(recipe: Recipe, method: str) -> Recipe:
    """A recipe with everything of another but its ideas: plain weights method, no rewrites, tokens alike, V from extremes, i.i.d. masks."""
    values = {"method": "minmax"} if recipe.values.method == "ia_aq" else {}
    activations = {"method": "per_token"} if recipe.activations.method == "lloyd_max" else {}
    needs = method == "gptq" or recipe.values.method in ("minmax", "ia_aq") or recipe.activations.method == "static"
    return recipe.replace(
        name=f"{method}-of-{recipe.name}",
        weights={"method": method, "limits": "none"} | ({} if method == "gptq" else {"working": "float64"}),
        tokens={"weighting": "uniform"},
        activations=activations,
        values=values,
        attention_output={"method": "none"},
        rewrites=(),
        calibration={"states": "iid" if needs else "none"},
    )
