"""Elementary functions whose results are the same bytes on every machine: exp, log, power, sin, cos, erf.

They are made of operations that IEEE 754 rounds correctly, one NumPy ufunc each (``+ - * /``, comparisons, rounding, selection) and of
integer operations on the bits; no libm, no BLAS. NumPy never fuses two ufuncs, so neither the SIMD level nor the release nor the
processor can change a bit. What is assumed is what IEEE 754 calls default: rounding to nearest, and subnormal numbers that are not
flushed to zero.

* Arrays are float32 or float64, of any shape; the result is a new C-contiguous array of that dtype. Anything else is an InputError.
* float64 results are off by less than one unit in the last place; each docstring states its bound, which tests hold against mpmath.
  float32 results are computed in float64 and rounded once, which gives the correctly rounded number unless the true value lies within
  0.00001 units of the middle between two.
* Special values are those of C99, Annex F. No warning is given for them: a pole is an infinity, an invalid operation a NaN.
* Every NaN that comes out is the one with sign and payload zero, whatever came in, because processors differ in the NaN they make.
* Tables and coefficients are constructed when the package is imported, in integers (:mod:`refquant.numerics.elementary.series`).
"""

from refquant.numerics.elementary.error_function import erf
from refquant.numerics.elementary.exponential import exp
from refquant.numerics.elementary.logarithm import log
from refquant.numerics.elementary.powers import power
from refquant.numerics.elementary.trigonometric import cos, sin

__all__ = ["cos", "erf", "exp", "log", "power", "sin"]
