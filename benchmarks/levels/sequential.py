"""Tests that may be looked at after every student: the probability of ever deciding wrongly."""

from __future__ import annotations

import numpy as np

from benchmarks.levels.settings import ALPHA, FACTOR, LAWS, few, share
from kdstats.hypotest.evalues import prior_of_margin, ratios_of_margin
from kdstats.hypotest.sequential import log_evalues
from kdstats.hypotest.sequential_ratio import log_evalues_of_groups

LIMIT = -np.log(ALPHA)
#: Students in one run, and runs handled at a time.
STUDENTS, RUNS = 1000, 50


def helmert(students):
    """Deviations of each student from the mean of those before it, scaled; the first is left out. Axis 1 counts."""
    order = np.arange(2, students.shape[1] + 1).reshape(1, -1, *[1] * (students.ndim - 2))
    before = np.cumsum(students, axis=1)[:, :-1] / (order - 1)
    return np.sqrt((order - 1) / order) * (students[:, 1:] - before)


def ever(draw, n, margin=1.5, *, independent=True, scale="predicted"):
    """Return whether each run ever rejects equality, shows equivalence, and refutes a ratio within the margin."""
    df = np.arange(1, STUDENTS).astype(float)
    hits = []
    for start in range(0, n, RUNS):
        squares = np.cumsum(helmert(draw(min(RUNS, n - start))) ** 2, axis=1)
        logs = log_evalues(
            squares,
            np.broadcast_to(df, squares.shape[:2]),
            prior=prior_of_margin(margin),
            margin=margin,
            independent=independent,
            scale=scale,
        )
        hits.append([(logs[name] >= LIMIT).any(axis=1) for name in ("equality", "equivalence", "beyond")])
    return np.concatenate(hits, axis=1)


def any_time(n):
    """One prediction: ever rejected though true, ever confirmed at the margin's edge, refuted beyond it."""
    level = FACTOR / np.sqrt((FACTOR**2).sum(axis=1))[:, None]
    what = "equality at ratio 1; equivalence at 1.5; beyond the margin at 1.5"
    for name, factor, independent in (
        ("one direction", np.ones((1, 1)), True),
        ("6 directions", np.eye(6), True),
        ("40 correlated points, no covariance", level, False),
    ):
        for law in LAWS if len(factor) < 40 else ("Gaussian",):
            rng, tables = np.random.default_rng([13, len(factor)]), n if len(factor) < 40 else min(n, 300)

            def draw(size, *, law=law, factor=factor, rng=rng, scale=1.0):
                return scale * LAWS[law](rng, (size, STUDENTS, factor.shape[1])) @ factor.T

            true = ever(draw, tables, independent=independent)[0]
            edge = ever(lambda size, d=draw: d(size, scale=np.sqrt(1.5)), tables, independent=independent)
            shown = ", ".join(map(share, (true, edge[1], edge[2])))
            yield (
                "sequential_test, 1,000 students",
                f"{law}, {name}",
                shown,
                "; ".join(filter(None, (what, few(n, tables)))),
            )
    rng = np.random.default_rng([13, 7])
    shape = ever(lambda size: 2.0 * LAWS["Gaussian"](rng, (size, STUDENTS, 6)), min(n, 500), scale="unknown")[0]
    yield "sequential_test, unknown scale", "Gaussian, 6 directions, variance 4", share(shape), few(n, min(n, 500))


def any_time_ratio(n):
    """Two strategies of unknown covariance."""
    df = np.arange(1, STUDENTS).astype(float)
    for rank, tables in ((1, n), (3, min(n, 300))):
        for law in LAWS if rank == 1 else ("Gaussian",):
            rng, hits = np.random.default_rng([14, rank]), []
            for start in range(0, tables, RUNS):
                size = min(RUNS, tables - start)
                each = []
                for theta in (1.0, 1.5):
                    groups = helmert(LAWS[law](rng, (size, STUDENTS, 2, rank))) * np.sqrt([[theta], [1.0]])
                    scatter = np.cumsum(np.einsum("nsgi,nsgj->nsgij", groups, groups), axis=1)
                    logs = log_evalues_of_groups(scatter, df, log_ratios=ratios_of_margin(1.5), margin=1.5)
                    each += [logs["equality"]] if theta == 1.0 else [logs["equivalence"], logs["beyond"]]
                hits.append([(log >= LIMIT).any(axis=1) for log in each])
            shown = ", ".join(map(share, np.concatenate(hits, axis=1)))
            what = "equality at ratio 1; equivalence at 1.5; beyond the margin at 1.5"
            setting = f"{law}, {rank} direction{'s' * (rank > 1)}"
            yield (
                "sequential_ratio_test, 1,000 students each",
                setting,
                shown,
                "; ".join(filter(None, (what, few(n, tables)))),
            )
