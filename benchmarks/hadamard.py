"""The fast Hadamard transform beside the dense product with its matrix, along the last axis of 4096 x 12288 float32 (12288 = 12 x 1024).

OPENBLAS_NUM_THREADS=1 python -m benchmarks.hadamard [--quick]
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks import measure
from refquant.errors import NumericalError
from refquant.numerics.hadamard import hadamard

TITLE = "Hadamard transform / the dense product with the matrix, in NumPy"
NEEDS: tuple[str, ...] = ()
ROWS = ("Hadamard of size 12288",)


def run(quick: bool) -> Iterator[measure.Result]:
    vectors, size = (256, 768) if quick else (4096, 12288)
    plan = hadamard(size)
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((vectors, size), dtype=np.float32)
    dense = plan.signs().T.astype(np.float32)
    dense /= np.sqrt(np.float32(size))
    expected = np.matmul(x, dense)
    distance = float(np.max(np.abs(plan.apply(x) - expected)) / np.max(np.abs(expected)))
    if not distance <= 1e-5:
        raise NumericalError(f"the transform differs from the product by {distance:.2g} of the largest entry; allowed: 1e-5")
    ours = np.empty_like(x)  # both write into memory that is there
    timed = measure.alternate("Hadamard", partial(plan.apply, x, out=ours), partial(np.matmul, x, dense, out=expected))
    yield measure.Result(
        name=f"Hadamard of size {size}",
        comparison=timed,
        limit=0.1,
        size=f"{vectors} x {size} float32",
        share=measure.roofline().share(timed.seconds, traffic=2 * x.nbytes),
        note=f"equal to {distance:.1e}",
    )


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
