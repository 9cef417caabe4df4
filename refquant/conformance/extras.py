"""Packages that are needed to make vectors, not to check them."""

from __future__ import annotations

import importlib
from typing import Any

from refquant.errors import UsageError


def precise() -> Any:
    """The mpmath package.

    Raises
    ------
    UsageError
        If it is not installed.

    Examples
    --------
    >>> precise().__name__
    'mpmath'
    """
    try:
        return importlib.import_module("mpmath")
    except ModuleNotFoundError as error:
        raise UsageError("making these golden vectors needs mpmath: pip install 'refquant[golden]' (checking them does not)") from error
