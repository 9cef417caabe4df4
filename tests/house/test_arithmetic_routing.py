"""Whatever has last bits that depend on the machine goes through an ``Arithmetic``: nobody calls BLAS, LAPACK or libm elsewhere.

IEEE 754 fixes ``+ - * / sqrt``, comparisons, rounding and scaling by powers of two; those are free everywhere. Products of matrices,
reductions and elementary functions are not fixed by anyone, and belong to ``refquant.numerics``.
"""

from __future__ import annotations

import ast

import pytest

EXEMPT = "refquant/numerics/"
NUMPY = frozenset(
    # products
    "dot matmul vdot vecdot matvec vecmat inner tensordot einsum einsum_path convolve correlate cov corrcoef trapezoid polyfit polyval "
    # reductions, whose order is NumPy's affair (np.count_nonzero counts; np.cumsum and np.cumprod are defined one term after the other)
    "sum nansum mean nanmean average std nanstd var nanvar trace linalg fft nanprod median nanmedian quantile nanquantile "
    "percentile nanpercentile interp gradient unwrap add.reduce add.reduceat subtract.reduce multiply.reduce multiply.reduceat "
    "divide.reduce logaddexp.reduce logaddexp2.reduce "
    # complex numbers, whose products and magnitudes have several roundings that nobody orders
    "complex64 complex128 csingle cdouble clongdouble longdouble float128 emath angle "
    # elementary functions
    "exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 logspace geomspace power pow float_power cbrt hypot "
    "sin cos tan arcsin arccos arctan arctan2 asin acos atan atan2 sinh cosh tanh arcsinh arccosh arctanh asinh acosh atanh sinc i0".split()
)
METHODS = frozenset("dot sum mean std var trace prod".split())  # of arrays; the same names on an Arithmetic are what we want
# Names of what may have such methods: an Arithmetic, or an object of ours that was given one.
ARITHMETICS = frozenset({"arithmetic", "FAST", "ORDERED", "Arithmetic", "bootstrap"})
# Exact, correctly rounded, or no arithmetic at all; everything else in `math` is libm's.
MATH = frozenset(
    "sqrt isqrt prod gcd lcm ceil floor trunc frexp ldexp inf nan isfinite isinf isnan fsum comb perm factorial copysign nextafter "
    "ulp fabs modf fmod isclose pi".split()
)
RANDOM = frozenset("Generator BitGenerator SeedSequence PCG64 Philox SFC64 MT19937 default_rng".split())
CLOCKS = frozenset({"time.monotonic", "time.perf_counter"})  # how long something took, never a value
SCIPY_STATS = ("refquant/apply/", "refquant/report/")  # for intervals
ORACLE = "refquant/oracle/"  # plain Python: its own powers and math, no NumPy arithmetic

# (file, what is used): why it may be. An entry that is no longer needed fails.
ALLOWED: dict[tuple[str, str], str] = {
    ("refquant/storage/atomic.py", "secrets.token_hex"): "names of temporary files, which nobody ever reads",
    ("refquant/apply/evaluation/intervals.py", "numpy.quantile"): "two sorted numbers and a step between them, elementwise; for display",
}


def aliases(tree):
    """Local name -> dotted name of what it was imported from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def dotted(node, names):
    """``numpy.linalg.inv`` for ``np.linalg.inv``; None for anything that does not begin with an imported name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def last_name(node):
    """``arithmetic`` for ``self.arithmetic``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def is_int(node):
    return isinstance(node, ast.Constant) and type(node.value) is int


def machine_dependent(full, path):
    """Whether a dotted name is one whose result another machine, run or release could give differently."""
    top, _, rest = full.partition(".")
    if top == "numpy":
        if rest.startswith("random."):
            return rest.split(".")[1] not in RANDOM
        return rest in NUMPY or rest.split(".")[0] in NUMPY
    if top == "math":
        return bool(rest) and rest not in MATH and not path.startswith(ORACLE)
    if top == "scipy":
        return bool(rest) and not (rest.startswith("stats") and path.startswith(SCIPY_STATS))
    if top == "time":
        return bool(rest) and full not in CLOCKS
    return top in ("cmath", "random", "secrets", "datetime", "uuid")


def power_is_exact(node, path):
    """Powers of a literal integer, such as ``2**k``; in the oracle any power, since it works on Fractions."""
    return path.startswith(ORACLE) or (isinstance(node, ast.BinOp) and is_int(node.left))


def offences(module):
    """``(line, what)`` for every use that has to go through an Arithmetic or an explicit order."""
    names = aliases(module.tree)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if not node.level and machine_dependent(full, module.path):
                    yield node.lineno, full
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            if isinstance(node.op, ast.MatMult):
                yield node.lineno, "@"
            elif isinstance(node.op, ast.Pow) and not power_is_exact(node, module.path):
                yield node.lineno, "**"
        elif isinstance(node, ast.Attribute):
            full = dotted(node, names)
            if full and machine_dependent(full, module.path):
                yield node.lineno, full
        elif isinstance(node, ast.Call):
            yield from call_offences(node, names)


def call_offences(node, names):
    if isinstance(node.func, ast.Name) and node.func.id == "pow" and len(node.args) == 2:
        yield node.lineno, "pow"
    full = dotted(node.func, names)
    if full == "numpy.random.default_rng" and not node.args and not node.keywords:
        yield node.lineno, "default_rng without a seed"
    attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if full is None and attribute in METHODS and last_name(node.func.value) not in ARITHMETICS:
        yield node.lineno, f".{attribute}()"
    if attribute == "argsort" and not any(k.arg == "kind" and getattr(k.value, "value", "") == "stable" for k in node.keywords):
        yield node.lineno, "argsort that is not stable"
    if attribute in ("argpartition", "partition") and (full or "").startswith("numpy."):
        yield node.lineno, "a partition, whose order is NumPy's affair"


def test_everything_goes_through_an_arithmetic(product):
    found = [(m.path, line, what) for m in product if not m.path.startswith(EXEMPT) for line, what in offences(m)]
    bad = [f"{path}:{line}: {what}" for path, line, what in found if (path, what) not in ALLOWED]
    hint = "use the Arithmetic that the caller gave (refquant/numerics/arithmetic.py), or x * x for a square"
    assert not bad, "\n".join([hint, *bad])
    used = {(path, what) for path, _, what in found}
    assert not [entry for entry in ALLOWED if entry not in used], "allowed, but no longer there"


@pytest.mark.parametrize(
    "line",
    [
        "y = x @ w",
        "x @= w",
        "y = np.dot(x, w)",
        "y = x.dot(w)",
        "y = np.add.reduce(x)",
        "y = x.sum()",
        "y = x.prod()",
        "y = np.multiply.reduce(x)",
        "y = np.logaddexp.reduce(x)",
        "y = np.median(x)",
        "y = x.astype(np.complex128)",
        "y = x.astype(np.longdouble)",
        "y = (x - y).mean(axis=0)",
        "f = np.exp",
        "y = np.linalg.inv(x)",
        "from numpy.linalg import inv",
        "from numpy import exp as e",
        "import numpy as other; other.tanh(x)",
        "import scipy.linalg as sl; sl.cholesky(h)",
        "from scipy import special",
        "from scipy.stats import norm",
        "y = x**2",
        "y = x**0.5",
        "y = 2.0**k",
        "x **= 3",
        "y = pow(x, 3)",
        "import math; math.exp(1.0)",
        "from math import log",
        "np.random.seed(0)",
        "y = np.random.default_rng()",
        "import random; random.random()",
        "import time; now = time.time()",
        "from datetime import datetime",
        "y = np.argsort(x)",
        "y = x.argsort(kind='quicksort')",
        "y = np.argpartition(x, 3)",
    ],
)
def test_planted_arithmetic_is_found(planted, line):
    assert list(offences(planted("refquant/core/grid.py", f"import numpy as np\n{line}\n")))


@pytest.mark.parametrize(
    "line",
    [
        "y = arithmetic.matmul(x, w) + self.arithmetic.sum(x)",
        "y = FAST.mean(x) / np.sqrt(x * x)",
        "n = 2**bits - 1",
        "n = math.prod(shape) * math.sqrt(2)",
        "k = np.argsort(-x, kind='stable')",
        "n = np.count_nonzero(mask)",
        "n = np.cumsum(probabilities, axis=-1)",
        "rng = np.random.default_rng(seed)",
        "def f(rng: np.random.Generator): ...",
        "start = time.monotonic()",
        "total = sum(sizes)",
    ],
)
def test_lawful_arithmetic_is_not(planted, line):
    assert not list(offences(planted("refquant/core/grid.py", f"import math, time\nimport numpy as np\n{line}\n")))


def test_the_oracle_may_do_plain_python_only(planted):
    assert not list(offences(planted("refquant/oracle/x.py", "import math\ny = Fraction(1, 3)**2 + math.log(3)\n")))
    assert list(offences(planted("refquant/oracle/x.py", "import numpy as np\ny = np.matmul(a, b)\n")))
