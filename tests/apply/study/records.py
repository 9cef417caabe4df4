"""Records of cells with made-up numbers, so that verdicts can be known."""

from __future__ import annotations

from refquant.apply.outliers import CHANNEL_THRESHOLDS, ENTRY_THRESHOLDS

LINEARS = ["model.transformer.blocks.0.q_proj", "model.transformer.blocks.0.ff_out"]
TEXTS = 6


def record(kind="plain", width="W4A4", method="RTN", damage=0.5, right="1111", group="grid", seeds=2, noise=0.01, free=0.2, forced=0.1):
    """A cell whose texts are damaged by about `damage`, of a reference with a bound of 3 and all answers right."""
    wobble = [noise * (1 if i % 2 else -1) for i in range(TEXTS)]
    runs = [
        {
            "seed": seed,
            "nll_difference": damage,
            "nll_difference_per_text": [damage + w for w in wobble],
            "nll_difference_by_ratio": [damage] * 4,
            "kl": damage,
            "flips": 0.1,
            "forced_error": forced + 0.001 * seed,
            "free_error": free,
            "forced_error_by_step": [0.1, 0.2],
            "free_error_by_step": [0.1, None],
            "frontier_flips": 0.1,
            "final_agreement": 0.9,
            "same_sequences": 0.5,
            "first_divergence": None,
            "right": {"add": right},
            "layers": {"isolated": [0.1, 0.2], "propagated": [0.2, 0.3]},
        }
        for seed in range(seeds)
    ]
    return {
        "kind": kind,
        "group": group,
        "width": width,
        "method": method,
        "recipe": {},
        "bits_per_weight": 4.15625,
        "calibration": {"states": "iid", "tokens": [100] * seeds},
        "linears": LINEARS,
        "reference": {"nll": 3.0, "nll_per_text": [3.0] * TEXTS, "right": {"add": "1" * len(right)}},
        "runs": runs,
    }


def outliers(kind="plain"):
    count = {
        "linear": LINEARS[1],
        "tokens": 8,
        "channels": 4,
        "max_over_median": 50.0,
        "max_over_rms": 5.0,
        "kurtosis": 9.0,
        "normal_channels": [1] * len(CHANNEL_THRESHOLDS),
        "massive_entries": [2] * len(ENTRY_THRESHOLDS),
        "massive_tokens": [2] * len(ENTRY_THRESHOLDS),
        "massive_channels": [1] * len(ENTRY_THRESHOLDS),
    }
    quiet = {**count, "linear": LINEARS[0], "max_over_median": 5.0}
    return {"kind": kind, "stages": [[quiet, count]] * 4, "maps": {LINEARS[1]: [[0.1, 1.0], [10.0, 0.0]]}, "injected": {}}
