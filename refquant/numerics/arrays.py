"""Names for array types, used in annotations everywhere."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]


def read_only(array: Array) -> Array:
    """Return a C-contiguous view or copy of `array` that refuses writes.

    Parameters
    ----------
    array : ndarray of any shape and dtype

    Returns
    -------
    ndarray
        The same values and dtype. The argument itself stays writable.

    Examples
    --------
    >>> import numpy as np
    >>> read_only(np.arange(3)).flags.writeable
    False
    """
    frozen = np.ascontiguousarray(array).reshape(np.shape(array)).view()
    frozen.flags.writeable = False
    return frozen
