"""A backend with a planted bug: truncation in the place of the floor."""

import numpy as np

BACKEND = {"rounding.floor": lambda inputs, parameters: {"y": np.trunc(inputs["x"])}}
