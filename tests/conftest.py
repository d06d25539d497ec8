"""Hypothesis profiles: continuous integration repeats the same examples, everybody else looks for new ones.

How fast examples are drawn says something of the machine's load, and nothing of the code: `too_slow` is not a failure.
"""

import os

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow]
settings.register_profile("ci", derandomize=True, print_blob=True, suppress_health_check=SLOW)
settings.register_profile("search", print_blob=True, suppress_health_check=SLOW)
settings.load_profile("ci" if os.environ.get("CI") else "search")
