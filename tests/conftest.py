"""What holds for every test: how hypothesis draws its examples, and how many threads BLAS may take.

``ci``, the default, draws the same examples on every run, so that a red test means the change and not the draw.
``HYPOTHESIS_PROFILE=dev`` draws new ones and more of them: run it after touching arithmetic.

The suite runs in two processes. Two BLAS threads in each would wait for each other on two processors and take ten times the time; what
must hold for any number of threads is tested in processes of its own.
"""

import os
import signal

import numpy as np  # noqa: F401  (BLAS must be loaded before it can be limited)
import scipy.linalg  # noqa: F401
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None, max_examples=500, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BLAS_LIMITS = threadpool_limits(limits=1, user_api="blas")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts jobs in the background so, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
