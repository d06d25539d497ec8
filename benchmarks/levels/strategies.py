"""Tests between strategies: ratio, paired or not, totals, ordering, conservation."""

from __future__ import annotations

import numpy as np

from benchmarks.levels.settings import ALPHA, FACTOR, LAWS, ONE, few, share, where
from kdstats.components.estimation import estimate_components
from kdstats.hypotest.component_ratio import AverageLaw, log_ratio_limits
from kdstats.hypotest.conservation import _welch
from kdstats.hypotest.multiplicity import adjust_pvalues
from kdstats.hypotest.paired_ratio import paired_ratio
from kdstats.hypotest.resampled_ratio import Resampling, far_students
from kdstats.hypotest.unpaired_ratio import independent_ratio


def pairs(rng, law, n_students, factor, *, rho):
    a, b = LAWS[law](rng, (2, n_students, factor.shape[1]))
    a, b = (own @ factor.T for own in (a, rho * a + np.sqrt(1.0 - rho**2) * b))
    return a - a.mean(axis=0), b - b.mean(axis=0)


def ratio(n):
    """Ratio of equal strategies by F and t: rejections, then those that are not marked unreliable."""
    for law in LAWS:
        for size in (5, 30, 100):
            for factor in (ONE, FACTOR):
                for rho in (0.0, 0.6):
                    rng, rejected, marked = np.random.default_rng([4, size]), np.zeros(n, bool), np.zeros(n, bool)
                    for i in range(n):
                        a, b = pairs(rng, law, size, factor, rho=rho)
                        found = (paired_ratio if rho else independent_ratio)(a, b, 1.0, "two-sided")
                        rejected[i], marked[i] = found.pvalue <= ALPHA, bool(far_students(a, b))
                    shown = f"{share(rejected)}; {share(rejected & ~marked)}"
                    name = f'ratio_test, "normal", {"paired" if rho else "unpaired"}'
                    yield name, f"{law}, S = {size}, {where(factor)}", shown, f"marked in {share(marked)}"


def resampled(n):
    """The same by the jackknife, the bootstrap and exchanged students."""
    plans = [
        ("kurtosis", law, size, factor, n)
        for law in LAWS
        for size in (30, 60, 100, 200)
        for factor in (ONE, FACTOR)
        if factor is ONE or size in (30, 100)
    ]
    plans += [
        (method, law, size, ONE, min(n, 500))
        for method in ("bootstrap", "permutation")
        for law in ("Gaussian", "exponential")
        for size in (40, 100)
    ]
    for method, law, size, factor, tables in plans:
        for rho in (0.0, 0.6):
            rng = np.random.default_rng([4, size, 1])
            rejected, marked = np.zeros(tables, bool), np.zeros(tables, bool)
            for i in range(tables):
                a, b = pairs(rng, law, size, factor, rho=rho)
                kind = Resampling(a=a, b=b, paired=rho > 0, n_resamples=399, rng=rng, method=method)
                found = kind.result(1.0, "two-sided")
                rejected[i], marked[i] = found.pvalue <= ALPHA, bool(found.unreliable)
            shown = f"{share(rejected)}; {share(rejected & ~marked)}"
            told = f"399 resamples, {few(n, tables)}; " if method != "kurtosis" else ""
            name = f'ratio_test, "{method}", {"paired" if rho else "unpaired"}'
            yield name, f"{law}, S = {size}, {where(factor)}", shown, f"{told}marked in {share(marked)}"


def totals(n):
    """Ratio of equal totals, sampled outputs."""
    for size in (5, 30, 200):
        for replicates in (2, 10):
            rng, laws = np.random.default_rng([6, size]), []
            for _ in range(2):
                between = (0.5 + 0.5 / replicates) * rng.chisquare(size - 1, n) / (size - 1)
                df = size * (replicates - 1)
                within = 0.5 * rng.chisquare(df, n) / df
                laws.append(
                    AverageLaw(
                        between=between,
                        within=within,
                        df_between=size - 1.0,
                        df_within=float(df),
                        n_replicates=replicates,
                        n_students=size,
                        errors=(0.0, 0.0, 0.0),
                    )
                )
            low, high = log_ratio_limits(laws[0], laws[1], 0.95)
            shown = share((low > 0) | (high < 0))
            yield "ratio_test of totals", f"Gaussian, S = {size}, {replicates} outputs, inter = intra", shown, ""


def ordering(n):
    """A claim of three falling variances where the first step is level; then of some step where none falls."""
    for law in LAWS:
        for size in (5, 30, 200):
            rng, every, some = np.random.default_rng([16, size]), [], []
            for _ in range(n):
                a, b, c = (x - x.mean(axis=0) for x in LAWS[law](rng, (3, size, 1)))
                steps = [independent_ratio(*two, 1.0, "greater").pvalue for two in ((a, b), (b, c))]
                falls = independent_ratio(b, 0.1 * c, 1.0, "greater").pvalue
                every.append(max(steps[0], falls) <= ALPHA)
                some.append(adjust_pvalues(np.array(steps)).min() <= ALPHA)
            yield "ordering_test", f"{law}, S = {size}, one point", f"{share(every)}; {share(some)}", "every; some step"


def conservation(n):
    """Equal totals of two strategies."""
    for law in ("Gaussian", "exponential"):
        for size in (10, 30, 60, 100, 200):
            rng, totals, errors = np.random.default_rng([7, size]), [], []
            for _ in range(2):
                values = 2.0 * LAWS[law](rng, (size, 1, n)) + rng.standard_normal((size, 2, n))
                found = estimate_components(values)
                totals.append(found.total.values[:, 0])
                errors.append(found.standard_error["total"].values[:, 0])
            value, error = np.stack(totals, axis=1), np.stack(errors, axis=1)
            df = np.full(2, size - 1.0)
            shown = share([_welch(np.log(v), e / v, df)[3] <= ALPHA for v, e in zip(value, error, strict=True)])
            yield "conservation_test", f"{law}, S = {size}, 2 outputs, inter 4", shown, ""
