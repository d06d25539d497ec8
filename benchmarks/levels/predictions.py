"""Tests of a prediction: of the average, of every point, of the covariance, of proportions, of the rate 1/k."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy import optimize, stats

import kdstats as kd
from benchmarks.levels.settings import ALPHA, FACTOR, LAWS, ONE, few, share, where
from kdstats.hypotest.equality import equality_of, pointwise_of, ratio_of
from kdstats.hypotest.equivalence import equivalence_of
from kdstats.hypotest.homogeneity import gaussian_reference, log_ratios
from kdstats.hypotest.inversion import likelihood_ratio_cdf
from kdstats.hypotest.pairing import pair
from kdstats.hypotest.rate import slope_of

MARGIN = 1.5


def prediction(factor):
    """The prediction of students F z with own variances 1, with its covariance."""
    covariance = factor @ factor.T
    points = np.arange(len(factor))
    one = np.ones((len(factor), 1))
    components = kd.estimate_components(np.zeros((2, 1, len(factor), 1)), variances=1.0)
    inter = components.estimate["inter_student"]

    def like(values):
        return inter.copy(data=values)

    variances = np.diag(covariance)[:, None]
    estimate = {"inter_student": like(variances), "intra_student": like(one), "total": like(variances + one)}
    zero = {name: like(np.zeros_like(variances)) for name in estimate}
    array = type(inter)(
        covariance[None],
        {"output": inter["output"].values, "point": points, "point_other": points},
        ("output", "point", "point_other"),
    )
    return kd.VarianceComponents(
        estimate=type(components.estimate)(estimate),
        standard_error=type(components.estimate)(zero),
        attrs={"engine": "closed_form", "exactness": "exact"},
        covariance=array,
    )


def equality(n):
    """The average, every point and equivalence at the margin's edge, each student's own variance known."""
    names = ("inter", "intra", "total", "any point", "equivalence at ratio 1.5")
    for law in LAWS:
        for size in (5, 30, 200):
            for factor in (ONE, FACTOR):
                tables = n if factor is ONE else min(n, 1000)
                rng, predicted, found, switched = (
                    np.random.default_rng([5, size, len(factor)]),
                    prediction(factor),
                    [],
                    [],
                )
                for _ in range(tables):
                    students = LAWS[law](rng, (size, factor.shape[1])) @ factor.T
                    own = np.broadcast_to(rng.chisquare(8, (size, 1, 1)) / 8, (size, len(factor), 1))
                    pvalues = []
                    for scale in (1.0, np.sqrt(MARGIN)):
                        observed = kd.estimate_components(scale * students[:, None, :, None], variances=own)
                        both = pair(predicted, observed)
                        ratios = {"inter_student": ratio_of(both, component="inter_student", kurtosis="auto")}
                        if scale == 1.0:
                            for name in ("intra_student", "total"):
                                ratios[name] = ratio_of(both, component=name, kurtosis="auto")
                            pvalues += [
                                equality_of(r, component=c, alternative="two-sided").pvalue for c, r in ratios.items()
                            ]
                            pvalues.append(pointwise_of(both, multiplicity="holm").pvalue)
                            switched.append("kurtosis" in ratios["inter_student"].method)
                        else:
                            pvalues.append(equivalence_of(ratios["inter_student"], "inter_student", MARGIN).pvalue)
                    found.append(pvalues)
                shown = ", ".join(share(column <= ALPHA) for column in np.array(found).T)
                setting = f"{law}, S = {size}, {where(factor)}"
                yield (
                    "compare",
                    setting,
                    shown,
                    "; ".join(
                        filter(None, (", ".join(names), few(n, tables), f"kurtosis estimated in {share(switched)}"))
                    ),
                )


def scattered(n):
    """Intra and total of few students whose own variances are known and far apart."""
    for size in (3, 5, 10, 30):
        for sd in (0.05, 0.5):
            rng, predicted, found = np.random.default_rng([5, 2, size]), prediction(np.full((1, 1), sd)), []
            for _ in range(n):
                own = rng.chisquare(2, (size, 1, 1)) / 2
                both = pair(predicted, kd.estimate_components(sd * rng.normal(size=(size, 1, 1, 1)), variances=own))
                ratios = {name: ratio_of(both, component=name, kurtosis="auto") for name in ("intra_student", "total")}
                found.append([equality_of(r, component=c, alternative="two-sided").pvalue for c, r in ratios.items()])
            shown = ", ".join(share(column <= ALPHA) for column in np.array(found).T)
            yield "compare", f"S = {size}, own variances like 2 df, inter {sd**2:g}", shown, "intra, total"


def covariance(n):
    """The whole covariance, by its exact law."""
    rank = FACTOR.shape[1]
    for law in LAWS:
        for size in (8, 30, 200):
            rng = np.random.default_rng([8, size])
            students = LAWS[law](rng, (n, size, rank))
            students = students - students.mean(axis=1, keepdims=True)
            values = np.linalg.eigvalsh(np.einsum("nsi,nsj->nij", students, students) / (size - 1))
            found = (size - 1) * (values - np.log(values) - 1.0).sum(axis=1)
            limit = optimize.brentq(lambda x, s=size: likelihood_ratio_cdf(x, s - 1, rank) - 1 + ALPHA, 5.0, 500.0)
            yield "covariance_test", f"{law}, S = {size}, rank 6", share(found > limit), ""


def homogeneity(n):
    """The predicted proportions of the points; then equal variances without a predicted covariance."""
    variances = (FACTOR**2).sum(axis=1)
    level_factor = FACTOR / np.sqrt(variances)[:, None]
    for law in LAWS:
        for size in (5, 30, 200):
            rng = np.random.default_rng([9, size])
            limit = np.quantile(gaussian_reference(FACTOR, variances, size, 8_000, rng), 1 - ALPHA)
            seen = [
                (log_ratios((LAWS[law](rng, (size, 6)) @ FACTOR.T).var(axis=0, ddof=1), variances) ** 2).mean()
                for _ in range(n)
            ]
            yield (
                "homogeneity_test, predicted covariance",
                f"{law}, S = {size}, rank 6",
                share(np.array(seen) > limit),
                "",
            )
    tables = min(n, 500)
    for method in ("normal", "bootstrap"):
        for law in ("Gaussian", "exponential"):
            for size in (30, 200):
                rng, found = np.random.default_rng([10, size]), []
                for _ in range(tables):
                    students = LAWS[law](rng, (size, 6)) @ level_factor.T
                    observed = kd.estimate_components(students[:, None, :, None], variances=0)
                    found.append(kd.homogeneity_test(observed, method=method, n_resamples=199, rng=rng).pvalue)
                shown = share(np.array(found) <= ALPHA)
                yield (
                    f'homogeneity_test, "{method}", none predicted',
                    f"{law}, S = {size}, rank 6",
                    shown,
                    few(n, tables),
                )


def mse(n):
    """Test errors of students against their law: at one point, chi-square with one degree of freedom."""
    law = SimpleNamespace(mean=1.0, variance=2.0, cdf=stats.chi2(1).cdf)
    for method in ("kolmogorov", "mean"):
        for size in (5, 30, 200):
            rng = np.random.default_rng([11, size])
            errors = rng.standard_normal((n, size)) ** 2
            found = [kd.mse_test(row, law, method=method) for row in errors]
            shown = [share([one.pvalue <= ALPHA for one in found])]
            ends = np.array([one.confidence_interval() for one in found])
            shown.append(share((ends[:, 0] <= 1.0) & (1.0 <= ends[:, 1])))
            yield (
                f'mse_test, "{method}"',
                f"Gaussian students, S = {size}",
                ", ".join(shown),
                "test; interval of the mean",
            )


def rate(n):
    """Slope -1 and no floor, from average variances of independent students at each k."""
    for law in LAWS:
        for size in (5, 30, 200):
            for ks in ((1, 2, 5, 10), (1, 10)):
                rng, k = np.random.default_rng([12, size, len(ks)]), np.array(ks)
                tests = []
                variances = LAWS[law](rng, (n, len(ks), size)).var(axis=-1, ddof=1) / k
                for row in variances:
                    found = slope_of(k, row, np.full(len(ks), size - 1.0))
                    low, high = found.floor.confidence_interval()
                    tests.append((found.pvalue <= ALPHA, found.floor.pvalue <= ALPHA, low <= 0.0 <= high))
                shown = ", ".join(share(column) for column in np.array(tests).T)
                what = "slope, floor; interval of the correlation between responses"
                yield "rate_test", f"{law}, S = {size}, one point, k = {', '.join(map(str, ks))}", shown, what
