"""Coverage of the 95% intervals of unbalanced tables over 2,000 simulated data sets, judged by binomtest at 1%."""

import numpy as np
import pytest
from scipy.stats import binomtest

from kdstats.components.unbalanced import estimate_unbalanced

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

N_TABLES, INTRA = 2000, 1.0
DESIGNS = {
    "balanced": (3,) * 12,
    "moderate": (2, 8, 3, 5, 7, 2, 4, 6, 8, 3, 2, 5, 4, 6, 7),
    "few replicates": (1, 2, 3, 1, 2, 3, 2, 2, 1, 3, 2, 1),
    "five students": (2, 2, 3, 5, 8),
}


def simulate(counts, inter, *, exponential=False):
    """All tables as the outputs of one, so that a single call decomposes them."""
    rng = np.random.default_rng([31, *counts])

    def draw(size):
        return rng.exponential(size=size) - 1 if exponential else rng.standard_normal(size)

    student = np.repeat(np.arange(len(counts)), counts)
    values = np.sqrt(inter) * draw((len(counts), N_TABLES))[student] + draw((len(student), N_TABLES))
    point = np.zeros(len(student), dtype=np.int64)
    outputs, students = range(N_TABLES), range(len(counts))
    return estimate_unbalanced(values, student=student, point=point, students=students, points=[0], outputs=outputs)


def hits(components, truth):
    return {
        name: int(((bounds[..., 0] <= truth[name]) & (truth[name] <= bounds[..., 1])).sum())
        for name, bounds in ((n, components.interval()[n].values) for n in truth)
    }


@pytest.mark.parametrize("inter", [0.5, 4.0])
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_cover_and_estimates_are_unbiased(design, inter):
    components = simulate(DESIGNS[design], inter)
    truth = {"inter_student": inter, "intra_student": INTRA, "total": inter + INTRA}
    for name, count in hits(components, truth).items():
        estimate = components.estimate[name].values.ravel()
        assert abs(estimate.mean() - truth[name]) < 4 * estimate.std(ddof=1) / np.sqrt(N_TABLES), name
        assert binomtest(count, N_TABLES, 0.95).pvalue > 0.01, (name, count / N_TABLES)


def test_gaussian_intervals_fail_for_skewed_students():
    components = simulate((5,) * 60, 1.0, exponential=True)
    count = hits(components, {"inter_student": 1.0})["inter_student"]
    assert binomtest(count, N_TABLES, 0.95, alternative="less").pvalue < 1e-6
