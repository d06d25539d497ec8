"""The study behind ``kdstats demo``."""

from __future__ import annotations

from kdstats.study.file import Study

__all__ = ["demo_study"]


def demo_study() -> Study:
    """Boston Housing: a linear teacher with noise of half the target's variance, five responses averaged."""
    return Study(
        {
            "title": "Boston Housing: students of a noisy linear teacher",
            "data": {"dataset": "boston_housing"},
            "teacher": {"noise_fraction": 0.5},
            "student": {"kind": "linear"},
            "design": {"n_responses": 5, "strategy": "averaging"},
            "run": {
                "n_students": 1000,
                "n_simulated": 20_000,
                "seed": 1,
                "sweep_responses": [1, 2, 5, 10, 20, 50],
                "sweep_noise": [0.1, 0.25, 0.5, 1.0, 2.0],
                "sweep_students": 300,
            },
        }
    )
