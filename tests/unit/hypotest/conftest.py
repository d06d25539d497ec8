import numpy as np
import pytest
import xarray as xr

import kdstats as kd

DIMS = ("point", "output")


@pytest.fixture
def make_predicted():
    """Build a prediction from variances (m,) or (m, q)."""

    def make(inter, *, intra=0.0, se=0.0, labels=None, exactness="exact", covariance=None, **attrs):
        inter = np.atleast_1d(np.asarray(inter, float))
        inter = inter[:, None] if inter.ndim == 1 else inter
        return kd.VarianceComponents.from_arrays(
            inter_student=inter,
            intra_student=np.full(inter.shape, intra),
            inter_student_se=se,
            point_labels=range(len(inter)) if labels is None else labels,
            attrs={"engine": "closed_form", "exactness": exactness, "effective_rank": 1.0, **attrs},
            covariance=None
            if covariance is None
            else xr.DataArray(covariance, dims=("output", "point", "point_other")),
        )

    return make


@pytest.fixture
def make_observed():
    """Build an observation from student means (S, m) or (S, m, q)."""

    def make(
        predictions,
        *,
        within=0.0,
        within_se=0.0,
        n_replicates=0,
        df_within=0,
        labels=None,
        keep=True,
        exactness="observed",
        **attrs,
    ):
        values = np.asarray(predictions, float)
        values = values[:, :, None] if values.ndim == 2 else values
        between = values.var(axis=0, ddof=1)
        within = np.broadcast_to(np.asarray(within, float), between.shape).copy()
        share = 1.0 / n_replicates if n_replicates else 0.0
        known = np.where(np.isnan(within), 0.0, within)
        return kd.VarianceComponents.from_arrays(
            inter_student=between - share * known,
            intra_student=known,
            intra_student_se=within_se,
            point_labels=range(values.shape[1]) if labels is None else labels,
            attrs={"engine": "linear", "exactness": exactness, "n_students": len(values), **attrs},
            mean_squares=xr.Dataset(
                {"between": (DIMS, between), "within": (DIMS, within)},
                attrs={"df_between": len(values) - 1, "df_within": df_within, "n_replicates": n_replicates},
            ),
            student_predictions=xr.DataArray(values, dims=("student", *DIMS)) if keep else None,
        )

    return make


@pytest.fixture
def with_variance():
    """Student means (S, m) whose sample variance is exact at every point."""

    def make(variance, n_students=50, seed=0):
        variance = np.atleast_1d(np.asarray(variance, float))
        noise = np.random.default_rng(seed).normal(size=(n_students, variance.size))
        noise -= noise.mean(axis=0)
        return noise / noise.std(axis=0, ddof=1) * np.sqrt(variance)

    return make
