"""Compare models with a reference on the same held-out texts, masks and prompts, with paired differences and intervals.

Read ``evaluate`` (what is compared), then ``likelihood``, ``trajectory`` with ``curves``, and ``tasks`` (the three parts).
"""

from refquant.apply.evaluation.batches import Progress
from refquant.apply.evaluation.curves import Curve, Divergence, Trajectory
from refquant.apply.evaluation.data import EvaluationSet, Item, Text, read_evaluation_set, read_scoring
from refquant.apply.evaluation.evaluate import Evaluation, Row, Used, evaluate
from refquant.apply.evaluation.intervals import Bootstrap, Estimate
from refquant.apply.evaluation.likelihood import Likelihood
from refquant.apply.evaluation.proportions import McNemar, Proportion, mcnemar, proportion
from refquant.apply.evaluation.sizes import Sizes
from refquant.apply.evaluation.step_records import step_records
from refquant.apply.evaluation.tasks import Tasks, TaskScore
from refquant.apply.evaluation.trajectory import Start, Traces

__all__ = [
    "Bootstrap",
    "Curve",
    "Divergence",
    "Estimate",
    "Evaluation",
    "EvaluationSet",
    "Item",
    "Likelihood",
    "McNemar",
    "Progress",
    "Proportion",
    "Row",
    "Sizes",
    "Start",
    "TaskScore",
    "Tasks",
    "Text",
    "Traces",
    "Trajectory",
    "Used",
    "evaluate",
    "mcnemar",
    "proportion",
    "read_evaluation_set",
    "read_scoring",
    "step_records",
]
