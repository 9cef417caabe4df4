"""One tensor: what it should look like (spec), its grid, its codes, and what calibration knows of it."""

from refquant.core.coding import decode, encode, fake_quantize
from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid, grid_from_range
from refquant.core.qtensor import Origin, QTensor, Quantized
from refquant.core.running_stats import RunningStats
from refquant.core.scheme import SCHEMES, Scheme, find_scheme
from refquant.core.spec import ClipSearch, QuantSpec, spec
from refquant.core.stats import Stats, hessian
from refquant.core.tiling import Tiling

__all__ = [
    "SCHEMES",
    "ClipSearch",
    "Grid",
    "Origin",
    "QTensor",
    "QuantSpec",
    "Quantized",
    "RunningStats",
    "Scheme",
    "Stats",
    "Tiling",
    "decode",
    "encode",
    "fake_quantize",
    "find_scheme",
    "fit_grid",
    "grid_from_range",
    "hessian",
    "spec",
]
