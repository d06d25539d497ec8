"""Intervals of variance between and within students, of classes and of crossed sources, at one point."""

from __future__ import annotations

import numpy as np
from scipy.special import psi

from benchmarks.levels.settings import LAWS, covered, share
from kdstats.components.attribution import crossed_components
from kdstats.components.class_moments import cells_of_labels, cells_of_probabilities
from kdstats.components.classes import COMPONENTS as CLASS_COMPONENTS, estimate_classes
from kdstats.components.crossed import estimate_sources
from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS
from kdstats.components.unbalanced import estimate_unbalanced


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


def products(n):
    """Interactions that are products of the draws of two sources, as of trained students, then of Gaussian effects.

    Unequal numbers of levels, and little noise of outputs, for products alone.
    """
    for size in (5, 10, 20):
        for law in ("products", "Gaussian effects"):
            rng = np.random.default_rng([7015, size])
            yield from _two_sources(rng, n, (size, size), law=law)
    for shape in ((5, 20), (10, 8), (40, 4), (20, 3), (2, 10)):
        yield from _two_sources(np.random.default_rng([7015, *shape]), n, shape, law="products")
    yield from _two_sources(np.random.default_rng([7015, 4]), n, (4, 4), law="products", noise=0.3)


def _two_sources(rng, n, shape, *, law, noise=1.0):
    """Rows of two sources (1, 1/2) and their interaction (1/2), two outputs of a student or its mean known."""
    a, b = rng.standard_normal((shape[0], n)), rng.standard_normal((shape[1], n))
    both = a[:, None] * b if law == "products" else rng.standard_normal((*shape, n))
    means = a[:, None] + np.sqrt(0.5) * b + np.sqrt(0.5) * both
    outputs = means[:, :, None] + noise * rng.standard_normal((*shape, 2, n))
    levels = np.indices(shape).reshape(2, -1).T
    student = np.repeat(np.arange(len(levels)), 2)
    found = estimate_sources(
        outputs.reshape(-1, n),
        student=student,
        point=np.zeros(len(student), dtype=np.int64),
        levels=levels.astype(np.int64),
        sources=["a", "b"],
        level_labels=[range(size) for size in shape],
        points=[0],
        outputs=range(n),
    )
    known = crossed_components(means[:, :, None, None], sources=["a", "b"], points=[0], labels=range(n))
    truths = {"a": 1.0, "b": 0.5, "a:b": 0.5}
    setting = f"{shape[0]} x {shape[1]}, {law}" + (f", noise sd {noise:g}" if noise != 1.0 else "")
    for name, one in (("decompose_sources", found), ("attribute_variance", known)):
        bounds = one.interval()["variance"]
        cells = (share(covered(bounds.sel(component=part).values, truth)) for part, truth in truths.items())
        yield name, setting, ", ".join(cells), "a, b, a:b"
