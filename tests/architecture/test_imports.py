"""Which libraries a light use loads: the list of modules, not the clock."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "pymc", "pytensor", "transformers", "matplotlib", "scipy.stats", "numba", "statsmodels", "arviz")


def modules_after(code):
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(finished.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import kdstats", (*HEAVY, "xarray", "pandas")),
        ("import kdstats; dir(kdstats); kdstats.catalog.intercept_only()", HEAVY),
        ("import kdstats as kd; kd.predict(kd.catalog.shared_noise(), covariance=True)", HEAVY),
        (
            "import kdstats as kd; kd.observe(kd.catalog.shared_noise(), n_students=8, rng=1)",
            ("torch", "pymc", "transformers"),
        ),
    ],
)
def test_light_use_loads_no_heavy_library(code, banned):
    loaded = modules_after(code)
    assert "kdstats" in loaded
    assert not loaded & set(banned)


def test_the_probe_would_notice():
    assert "scipy.stats" in modules_after("import kdstats, scipy.stats")


def test_every_engine_is_loaded_on_request_only():
    loaded = modules_after("import kdstats.engine as e; e.predict; e.observe")
    assert not any(
        name.startswith(("kdstats.prediction", "kdstats.observation", "kdstats.networks")) for name in loaded
    )
