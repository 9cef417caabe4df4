"""Frozen dataclasses on their way to another process: taken apart there into fields, put together here by their own constructor.

By default pickle fills an object's fields behind the constructor's back: arrays come back writable, nothing is checked, and a read-only
mapping does not travel at all.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any


def by_constructor(value: Any) -> tuple[partial[Any], tuple[()]]:
    """What ``__reduce__`` of a frozen dataclass returns, if all its fields are arguments of the constructor.

    Parameters
    ----------
    value : dataclass instance
        Its fields can be pickled, or are read-only mappings of what can.

    Examples
    --------
    >>> import pickle
    >>> from refquant.core.qtensor import Origin
    >>> pickle.loads(pickle.dumps(Origin(method="rtn", parameters={"bits": 4})))
    Origin(method='rtn', version='1', parameters=mappingproxy({'bits': 4}))
    """
    found = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    plain = {name: dict(one) if isinstance(one, MappingProxyType) else one for name, one in found.items()}
    constructor: Any = type(value)
    return partial(constructor, **plain), ()
