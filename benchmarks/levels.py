"""Measured coverage of every 95% interval and level of every 5% test, by setting, as a Markdown table.

    python benchmarks/levels.py [--tables 2000] [--only components,classes,sources,ratio,others]

Each cell is a share of simulated tables, with a Monte Carlo standard error of .005 at .95 and 2,000 tables.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from kdstats.components.class_moments import cells_of_labels, cells_of_probabilities
from kdstats.components.classes import COMPONENTS as CLASS_COMPONENTS, estimate_classes
from kdstats.components.crossed import estimate_sources
from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS
from kdstats.components.unbalanced import estimate_unbalanced
from kdstats.errors import KdstatsWarning
from kdstats.hypotest.component_ratio import AverageLaw, log_ratio_limits
from kdstats.hypotest.conservation import _welch
from kdstats.hypotest.homogeneity import gaussian_reference, log_ratios
from kdstats.hypotest.paired_ratio import paired_ratio
from kdstats.hypotest.ratio_law import WeightedLaw
from kdstats.hypotest.resampled_ratio import Resampling, far_students
from kdstats.hypotest.unpaired_ratio import independent_ratio

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


def share(values) -> str:
    return f"{np.mean(values):.3f}".lstrip("0")


def covered(bounds, truth):
    low, high = np.moveaxis(np.asarray(bounds).reshape(-1, 2), -1, 0)
    return (low <= truth) & (truth <= high)


def components(n):
    """Intervals of the one-way decomposition at a point; Gaussian, then any law."""
    settings = {
        "balanced: 20 students x 3, inter 1": ((3,) * 20, 1.0, "Gaussian", "Gaussian"),
        "small r: 20 x 2, inter .05": ((2,) * 20, 0.05, "Gaussian", "Gaussian"),
        "S = 5: 5 x 3, inter 1": ((3,) * 5, 1.0, "Gaussian", "Gaussian"),
        "unbalanced: 15 x 2-8, inter .05": (
            (2, 8, 3, 5, 7, 2, 4, 6, 8, 3, 2, 5, 4, 6, 7),
            0.05,
            "Gaussian",
            "Gaussian",
        ),
        "unbalanced, S = 5: 2-8, inter .5": ((2, 2, 3, 5, 8), 0.5, "Gaussian", "Gaussian"),
        "skewed students: 20 x 3, inter 4": ((3,) * 20, 4.0, "exponential", "Gaussian"),
        "skewed outputs: 20 x 3, inter 1": ((3,) * 20, 1.0, "Gaussian", "exponential"),
        "skewed students, S = 5: 5 x 3, inter 4": ((3,) * 5, 4.0, "exponential", "Gaussian"),
    }
    for name, (counts, inter, students, outputs) in settings.items():
        rng = np.random.default_rng([1, *counts])
        student = np.repeat(np.arange(len(counts)), counts)
        values = np.sqrt(inter) * LAWS[students](rng, (len(counts), n))[student]
        values = values + LAWS[outputs](rng, (len(student), n))
        if len(set(counts)) == 1:
            found = estimate_components(values.reshape(len(counts), counts[0], n))
        else:
            found = estimate_unbalanced(
                values,
                student=student,
                point=np.zeros(len(student), dtype=np.int64),
                students=range(len(counts)),
                points=[0],
                outputs=range(n),
            )
        truths = dict(zip(COMPONENTS, (inter, 1.0, inter + 1.0), strict=True))
        for law in ("gaussian", "any"):
            if law == "any" and len(counts) < 10:
                continue
            bounds = found.interval(students=law)
            cells = (share(covered(bounds[part].values, truth)) for part, truth in truths.items())
            yield f'decompose, students="{law}"', name, ", ".join(cells), "inter, intra, total"


def classes(n):
    """Intervals of class predictions at a point: Gini index, then entropy."""
    from scipy.special import psi

    for concentration, n_students, n_labels in (
        ((1.0, 1.0, 1.0), 30, None),
        ((1.0, 1.0, 1.0), 30, 8),
        ((1.0, 1.0, 1.0), 30, 2),
        ((1.0, 1.0, 1.0), 5, None),
        ((0.3, 0.2, 0.1), 30, None),
    ):
        rng, a = np.random.default_rng([2, n_students]), np.array(concentration)
        p = rng.dirichlet(concentration, (n_students, n))
        if n_labels:
            cells = cells_of_labels(rng.multinomial(n_labels, p))
        else:
            rows = p.reshape(-1, len(a))
            cells = cells_of_probabilities(rows, np.arange(len(rows)), shape=p.shape[:2], known=True)
        found = estimate_classes(cells, classes=range(len(a)), points=range(n), kind="labels", known=n_labels is None)
        whole, mean = a.sum(), a / a.sum()
        gini, entropy = 1 - (mean**2).sum(), -(mean * np.log(mean)).sum()
        own = psi(whole + 1) - (mean * psi(a + 1)).sum()
        inter = gini / (whole + 1)
        truths = (inter, gini - inter, gini, entropy - own, own, entropy)
        bounds = found.interval()
        shown = ", ".join(
            share(covered(bounds.sel(component=part).values, truth))
            for part, truth in zip(CLASS_COMPONENTS, truths, strict=True)
        )
        outputs = f"{n_labels} labels each" if n_labels else "known probabilities"
        marked = found.attrs["unreliable"]
        sharp = "sharp, " if a.max() < 1 else ""
        note = "all marked" if len(marked) == 6 else "entropies within marked" if marked else "none marked"
        yield "decompose_classes", f"{sharp}S = {n_students}, {outputs}", shown, f"Gini index, entropy; {note}"


def sources(n):
    """Intervals of variance by source at a point."""
    for name, shape, missing, law in (
        ("balanced: 10 x 8, 2 outputs", (10, 8), (), "Gaussian"),
        ("few levels: 5 x 5, 2 outputs", (5, 5), (), "Gaussian"),
        ("unbalanced: 10 x 8, ten students missing", (10, 8), tuple(range(0, 80, 8)), "Gaussian"),
        ("skewed: 10 x 8, 2 outputs", (10, 8), (), "exponential"),
    ):
        rng = np.random.default_rng([3, *shape, len(missing)])
        levels = np.indices(shape).reshape(2, -1).T
        kept = np.setdiff1d(np.arange(len(levels)), missing)
        levels, draw = levels[kept], LAWS[law]
        both = np.sqrt(0.25) * draw(rng, (len(levels), n))
        own = draw(rng, (shape[0], n))[levels[:, 0]] + np.sqrt(0.5) * draw(rng, (shape[1], n))[levels[:, 1]] + both
        student = np.repeat(np.arange(len(levels)), 2)
        found = estimate_sources(
            own[student] + draw(rng, (len(student), n)),
            student=student,
            point=np.zeros(len(student), dtype=np.int64),
            levels=levels.astype(np.int64),
            sources=["a", "b"],
            level_labels=[range(size) for size in shape],
            points=[0],
            outputs=range(n),
        )
        bounds = found.interval()["variance"]
        truths = {"a": 1.0, "b": 0.5, "a:b": 0.25, "residual": 1.0, "total": 2.75}
        shown = ", ".join(share(covered(bounds.sel(component=part).values, truth)) for part, truth in truths.items())
        yield "decompose_sources", name, shown, ", ".join(truths)


def pairs(rng, law, n_students, factor, *, rho):
    a, b = LAWS[law](rng, (2, n_students, factor.shape[1]))
    a, b = (own @ factor.T for own in (a, rho * a + np.sqrt(1.0 - rho**2) * b))
    return a - a.mean(axis=0), b - b.mean(axis=0)


def ratio(n):
    """Ratio of two strategies; rejections of equal ones, then those that are not marked unreliable."""
    one = np.ones((1, 1))
    plans = [
        (method, law, size, factor, rho)
        for method in ("normal", "kurtosis")
        for law in LAWS
        for size in (5, 30, 100)
        for factor in (one, FACTOR)
        for rho in (0.0, 0.6)
        if not (method == "kurtosis" and size < 30) and not (size != 30 and law == "Laplace")
    ]
    plans += [
        (method, law, 40, one, rho)
        for method in ("bootstrap", "permutation")
        for law in ("Gaussian", "exponential")
        for rho in (0.0, 0.6)
    ]
    for method, law, size, factor, rho in plans:
        tables = n if method in ("normal", "kurtosis") else min(n, 400)
        rng, rejected, marked = np.random.default_rng([4, size]), np.zeros(tables, bool), np.zeros(tables, bool)
        for i in range(tables):
            a, b = pairs(rng, law, size, factor, rho=rho)
            if method == "normal":
                pvalue = (paired_ratio if rho else independent_ratio)(a, b, 1.0, "two-sided").pvalue
                marked[i] = bool(far_students(a, b))
            else:
                kind = Resampling(a=a, b=b, paired=rho > 0, n_resamples=399, rng=rng, method=method)
                found = kind.result(1.0, "two-sided")
                pvalue, marked[i] = found.pvalue, bool(found.unreliable)
            rejected[i] = pvalue <= ALPHA
        where = f"{law}, S = {size}, {'one point' if factor is one else '40 points of rank 6'}"
        shown = f"{share(rejected)}; {share(rejected & ~marked)}"
        together = "paired" if rho else "unpaired"
        yield f'ratio_test, "{method}", {together}', where, shown, f"marked {share(marked)}; {tables} tables"


def others(n):
    """Equality, homogeneity, ratio of totals, conservation."""
    eigenvalues = np.linalg.eigvalsh(FACTOR @ FACTOR.T)[-6:]
    trace = eigenvalues.sum()
    variances = (FACTOR**2).sum(axis=1)
    for law in LAWS:
        for size in (5, 30, 200):
            rng = np.random.default_rng([5, size])
            fixed = WeightedLaw(weights=eigenvalues / trace, df_each=size - 1.0)
            low, high = (fixed.quantile(q) for q in (ALPHA / 2, 1 - ALPHA / 2))
            found = np.array(
                [(LAWS[law](rng, (size, 6)) @ FACTOR.T).var(axis=0, ddof=1).sum() / trace for _ in range(n)]
            )
            shown = share((found < low) | (found > high))
            yield "equality of the average, predicted covariance", f"{law}, S = {size}, rank 6", shown, ""
            reference = gaussian_reference(FACTOR, variances, size, 8_000, rng)
            limit = np.quantile(reference, 1 - ALPHA)
            seen = np.array(
                [
                    (log_ratios((LAWS[law](rng, (size, 6)) @ FACTOR.T).var(axis=0, ddof=1), variances) ** 2).mean()
                    for _ in range(n)
                ]
            )
            yield "homogeneity_test, predicted covariance", f"{law}, S = {size}, rank 6", share(seen > limit), ""
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


PARTS = {part.__name__: part for part in (components, classes, sources, ratio, others)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000, help="simulated tables a row")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", KdstatsWarning)
    print("| interval or test | setting | measured | of |\n|---|---|---|---|")
    for part in arguments.only.split(","):
        for row in PARTS[part](arguments.tables):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
