"""Trajectories as records: one a model, sequence and step, for whoever wants more than means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from refquant.apply.evaluation.trajectory import MEASURES, Start, Traces


def step_records(name: str, starts: Sequence[Start], traces: Traces) -> Iterator[dict[str, Any]]:
    """One record for every step of every sequence of a model, in order.

    Parameters
    ----------
    name : str
        The model.
    starts : sequence of Start
    traces : Traces

    Yields
    ------
    dict
        ``model``, ``sequence``, ``step`` (from 0), ``steps``, ``prompt_length``, ``gen_length``, every measure of
        :data:`~refquant.apply.evaluation.trajectory.MEASURES` (null where it is not defined), and ``diverged``: whether the sequence
        differs from the reference's after this step.

    Examples
    --------
    >>> import numpy as np
    >>> traces = Traces(steps=np.array([1]), measures={m: np.array([[0.5]]) for m in MEASURES}, diverged=np.array([1]),
    ...                 agrees=np.array([[1.0]]))
    >>> record = next(step_records("q", [Start(prompt=(1, 2), gen_length=1)], traces))
    >>> record["model"], record["step"], record["forced_error"], record["diverged"]
    ('q', 0, 0.5, False)
    """
    for sequence, start in enumerate(starts):
        steps = int(traces.steps[sequence])
        for step in range(steps):
            values = {measure: float(traces.measures[measure][sequence, step]) for measure in MEASURES}
            yield {
                "model": name,
                "sequence": sequence,
                "step": step,
                "steps": steps,
                "prompt_length": len(start.prompt),
                "gen_length": start.gen_length,
                **{measure: None if math.isnan(value) else value for measure, value in values.items()},
                "diverged": step >= int(traces.diverged[sequence]),
            }
