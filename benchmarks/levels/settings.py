"""What every part of the table shares: laws of students, points to ask them at, shares with their errors."""

from __future__ import annotations

import numpy as np

#: Level of every test; intervals are those of 95%.
ALPHA = 0.05
LAWS = {
    "Gaussian": lambda rng, size: rng.standard_normal(size),
    "Laplace": lambda rng, size: rng.laplace(size=size) / np.sqrt(2.0),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1.0,
}
SOURCE = np.random.default_rng(11)
#: 40 correlated query points of rank 6: least squares with five features on 60 inputs.
FACTOR = np.c_[np.ones(40), SOURCE.normal(size=(40, 5))] @ np.linalg.inv(
    np.linalg.qr(np.c_[np.ones(60), SOURCE.normal(size=(60, 5))])[1]
)
ONE = np.ones((1, 1))


def share(values) -> str:
    return f"{np.mean(values):.3f}".lstrip("0")


def covered(bounds, truth):
    low, high = np.moveaxis(np.asarray(bounds).reshape(-1, 2), -1, 0)
    return (low <= truth) & (truth <= high)


def where(factor) -> str:
    return "one point" if factor is ONE else "40 points of rank 6"


def few(n, tables) -> str:
    """Say how many tables a row has where they are fewer than asked for, with the Monte Carlo error at 5%."""
    return "" if tables >= n else f"{tables} tables, ± {np.sqrt(0.05 * 0.95 / tables):.3f}"
