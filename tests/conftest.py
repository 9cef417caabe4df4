"""What holds for every test: how hypothesis draws its examples.

``ci``, the default, draws the same examples on every run, so that a red test means the change and not the draw.
``HYPOTHESIS_PROFILE=dev`` draws new ones and more of them: run it after touching arithmetic.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None, max_examples=500, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
