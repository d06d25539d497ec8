"""Hypothesis profiles: continuous integration repeats the same examples, everybody else looks for new ones."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, print_blob=True)
settings.register_profile("search", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "search")
