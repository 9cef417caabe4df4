"""Somebody's implementation: an object that has any subset of the operations.

A backend is named ``package.module:object``; modules are also looked for in the current directory. The object is a mapping from names of
operations to callables, or has methods of those names with ``_`` for the dot (``rounding_half_even``). Each is called as
``f(inputs, parameters)``, both mappings by name, and returns its outputs as a mapping of arrays.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, cast

from refquant.conformance.catalog import OPERATIONS
from refquant.conformance.operation import Run
from refquant.errors import UsageError


def load_backend(name: str) -> dict[str, Run]:
    """The operations that a backend has.

    Raises
    ------
    UsageError
        If there is no such object, or it has no operation at all.

    Examples
    --------
    >>> load_backend("refquant.conformance.mutants.rounding:RIGHT").keys()
    dict_keys(['rounding.half_even', 'rounding.half_away', 'rounding.trunc_half', 'rounding.floor', 'rounding.ceil'])
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise UsageError(f"a backend is named package.module:object, not {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there takes the place of something installed
    try:
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except Exception as error:  # whatever somebody's module raises while it is loaded
        raise UsageError(f"the backend {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if isinstance(found, Mapping):
        having = {operation: found[operation] for operation in OPERATIONS if operation in found}
    else:
        methods = {operation: getattr(found, operation.replace(".", "_"), None) for operation in OPERATIONS}
        having = {operation: method for operation, method in methods.items() if method is not None}
    wrong = [operation for operation, run in having.items() if not callable(run)]
    if wrong or not having:
        what = f"{wrong[0]} is not callable" if wrong else f"it has none of the operations {', '.join(OPERATIONS)}"
        raise UsageError(f"the backend {name!r} cannot be used: {what}")
    return cast(dict[str, Run], having)
