"""Results as plain JSON values."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Turn dataclasses into objects, arrays and tuples into lists, and NaN, which stands for "not defined", into null.

    Examples
    --------
    >>> plain((np.array([0.5, np.nan]), np.array([True])))
    [[0.5, None], [True]]
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
