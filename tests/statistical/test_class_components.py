"""Class components against theory, and the coverage of their intervals over 2,000 data sets of Dirichlet students.

Coverage is judged by binomtest at 1%, against 95% where the theory page says that it holds and against what the page
states where it does not.
"""

from math import comb, log

import numpy as np
import pytest
import xarray as xr
from scipy.special import psi
from scipy.stats import binomtest

from kdstats.components.class_moments import cells_of_labels, cells_of_probabilities, estimate_points
from kdstats.components.classes import COMPONENTS, ClassComponents, estimate_classes

pytestmark = [
    pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning"),
    pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning"),
]

N_SETS = 2000
EVEN, SHARP = (1.0, 1.0, 1.0), (0.3, 0.2, 0.1)
TEN = (4.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.2, 0.1)
GINI = COMPONENTS[:3]


def truths(concentration):
    """Components of students whose probabilities are Dirichlet."""
    a = np.array(concentration)
    whole, p = a.sum(), a / a.sum()
    gini, entropy = 1 - (p**2).sum(), -(p * np.log(p)).sum()
    own = psi(whole + 1) - (p * psi(a + 1)).sum()
    inter = gini / (whole + 1)
    return dict(zip(COMPONENTS, (inter, gini - inter, gini, entropy - own, own, entropy), strict=True))


def cells(concentration, n_students, *, n_labels=None, n_points=1, seed=0):
    rng = np.random.default_rng([77, seed])
    p = rng.dirichlet(concentration, (n_students, N_SETS * n_points))
    return cells_of(p, n_labels=n_labels, rng=rng)


def cells_of(p, *, n_labels=None, rng=None):
    if n_labels:
        return cells_of_labels(rng.multinomial(n_labels, p))
    rows = p.reshape(-1, p.shape[-1])
    return cells_of_probabilities(rows, np.arange(len(rows)), shape=p.shape[:2], known=True)


def simulate(concentration, n_students, *, n_labels=None, n_points=1, seed=0):
    """All data sets as points of one table; with several points, averages of as many."""
    made = cells(concentration, n_students, n_labels=n_labels, n_points=n_points, seed=seed)
    names = range(len(concentration))
    if n_points == 1:
        return estimate_classes(made, classes=names, points=range(N_SETS), kind="labels", known=n_labels is None)
    found = estimate_points(made)
    moves = found.moves.reshape(6, n_students, N_SETS, n_points).mean(-1)
    parts = [array.reshape(6, N_SETS, n_points).mean(-1) for array in (found.estimate, found.plug_in)]
    arrays = [
        xr.DataArray(part, {"component": list(COMPONENTS)}, ("component", "point"))
        for part in (*parts, np.sqrt((moves**2).sum(axis=1)))
    ]
    return ClassComponents(
        estimate=arrays[0],
        plug_in=arrays[1],
        standard_error=arrays[2],
        n_students=xr.DataArray(np.full(N_SETS, n_students), dims="point"),
        attrs={"classes": tuple(names), "unit": "nats"},
    )


def covered(answer, truth):
    bounds = answer.interval()
    return {
        name: int(
            (
                (bounds.sel(component=name, ci_bound="lower") <= truth[name])
                & (truth[name] <= bounds.sel(component=name, ci_bound="upper"))
            ).sum()
        )
        for name in COMPONENTS
    }


def close(values, truth, *, sigmas=4.0):
    return abs(values.mean() - truth) < sigmas * values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize("concentration", [EVEN, SHARP, TEN], ids=["even", "sharp", "ten"])
@pytest.mark.parametrize("n_labels", [None, 2, 5])
def test_gini_parts_are_unbiased(concentration, n_labels):
    answer, truth = simulate(concentration, 6, n_labels=n_labels, seed=2), truths(concentration)
    for name in GINI:
        assert close(answer.estimate.sel(component=name).values, truth[name]), name
    assert not close(answer.plug_in.sel(component="inter_student").values, truth["inter_student"], sigmas=6)
    assert not close(answer.plug_in.sel(component="total").values, truth["total"], sigmas=6)


def test_standard_error_of_a_mean_over_students_is_right_in_the_square():
    for n_labels in (None, 5):
        answer = simulate(EVEN, 8, n_labels=n_labels, seed=3)
        estimate, square = answer.intra_student.values, answer.standard_error.sel(component="intra_student").values ** 2
        kurtosis = ((estimate - estimate.mean()) ** 4).mean() / estimate.var() ** 2
        noise = np.hypot(estimate.var() * np.sqrt(kurtosis - 1), square.std()) / np.sqrt(N_SETS)
        assert abs(square.mean() - estimate.var(ddof=1)) < 4 * noise


CASES = [
    pytest.param(concentration, n_students, n_labels, n_points, id=f"{name}-{n_students}-{n_labels}-{n_points}")
    for name, concentration in (("even", EVEN), ("sharp", SHARP), ("ten", TEN))
    for n_students, n_labels, n_points in ((20, None, 1), (20, 5, 8), (60, None, 1), (60, 20, 1), (20, None, 8))
]


@pytest.mark.parametrize(("concentration", "n_students", "n_labels", "n_points"), CASES)
def test_intervals_of_gini_parts_cover(concentration, n_students, n_labels, n_points):
    answer = simulate(concentration, n_students, n_labels=n_labels, n_points=n_points, seed=4)
    counts = covered(answer, truths(concentration))
    for name in ("inter_student", "intra_student"):
        share = counts[name] / N_SETS
        assert binomtest(counts[name], N_SETS, 0.95, alternative="less").pvalue > 0.01 / len(CASES), (name, share)
        assert binomtest(counts[name], N_SETS, 0.98, alternative="greater").pvalue > 0.01, (name, share)


@pytest.mark.parametrize("concentration", [EVEN, SHARP, TEN], ids=["even", "sharp", "ten"])
@pytest.mark.parametrize("n_labels", [None, 20])
def test_intervals_of_entropy_parts_cover_with_sixty_students(concentration, n_labels):
    counts = covered(simulate(concentration, 60, n_labels=n_labels, seed=5), truths(concentration))
    for name in ("mutual_information", "expected_entropy"):
        share = counts[name] / N_SETS
        assert binomtest(counts[name], N_SETS, 0.95, alternative="less").pvalue > 0.01 / 6, (name, share)
        assert binomtest(counts[name], N_SETS, 0.98, alternative="greater").pvalue > 0.01, (name, share)


#: What the theory page says of five students: the least coverage, over all three laws and both numbers of points.
FIVE = {
    None: {"inter_student": 0.94, "intra_student": 0.94, "mutual_information": 0.89, "expected_entropy": 0.94},
    5: {"inter_student": 0.92, "intra_student": 0.93, "mutual_information": 0.88, "expected_entropy": 0.91},
}


@pytest.mark.parametrize("concentration", [EVEN, SHARP, TEN], ids=["even", "sharp", "ten"])
@pytest.mark.parametrize(("n_labels", "n_points"), [(None, 1), (5, 1), (5, 8)])
def test_five_students_cover_what_the_page_states(concentration, n_labels, n_points):
    answer = simulate(concentration, 5, n_labels=n_labels, n_points=n_points, seed=6)
    counts = covered(answer, truths(concentration))
    for name, least in FIVE[n_labels].items():
        assert binomtest(counts[name], N_SETS, least, alternative="less").pvalue > 0.01 / 9, (name, counts[name])


def test_entropies_from_few_labels_do_not_cover_and_say_so():
    with pytest.warns(UserWarning, match="expected_entropy and mutual_information rest on 5 outputs"):
        answer = simulate(TEN, 60, n_labels=5, seed=7)
    for name in ("mutual_information", "expected_entropy"):
        assert binomtest(covered(answer, truths(TEN))[name], N_SETS, 0.95, alternative="less").pvalue < 1e-6
    left = truths(TEN)["expected_entropy"] - answer.expected_entropy.mean().item()
    assert 0 < left < 2 * answer.attrs["last_step"]


def test_plain_intervals_of_plug_in_estimates_would_be_found_out():
    for concentration in (EVEN, TEN):
        answer, truth = simulate(concentration, 20, n_labels=5, seed=4), truths(concentration)
        for name in ("inter_student", "mutual_information", "expected_entropy"):
            value, error = (array.sel(component=name).values for array in (answer.plug_in, answer.standard_error))
            count = int((np.abs(value - truth[name]) < 2.093 * error).sum())
            assert binomtest(count, N_SETS, 0.95, alternative="less").pvalue < 1e-6, name


@pytest.mark.parametrize(("concentration", "n_labels"), [(EVEN, 5), (EVEN, 20), (SHARP, 20), (TEN, 20)])
def test_corrected_entropy_beats_plug_in_and_miller_madow(concentration, n_labels):
    counts = np.random.default_rng(8)
    p = counts.dirichlet(concentration, (20, N_SETS))
    labels = counts.multinomial(n_labels, p)
    own = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)
    made = cells_of_labels(labels)
    share = labels / n_labels
    plain = -np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0).sum(-1)
    miller = plain + ((labels > 0).sum(-1) - 1) / (2 * n_labels)
    bias = {name: (value - own).mean() for name, value in (("j", made.entropy), ("p", plain), ("m", miller))}
    noise = 4 * (made.entropy - own).std() / np.sqrt(own.size)
    assert abs(bias["j"]) < 0.1 * abs(bias["p"]) + noise
    assert abs(bias["j"]) + noise < abs(bias["m"])


TEACHER = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
GINI_INDEX = 1 - (TEACHER**2).sum()
ENTROPY = -(TEACHER * np.log(TEACHER)).sum()


def tabular(k, *, n_students, seed):
    """Probabilities of students that repeat the frequencies of k answers of the teacher."""
    rng = np.random.default_rng([99, seed])
    return rng.multinomial(k, TEACHER, (n_students, N_SETS)) / k, rng


def expected_entropy(k):
    return -sum(comb(k, j) * q**j * (1 - q) ** (k - j) * (j / k) * log(j / k) for q in TEACHER for j in range(1, k + 1))


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_tabular_students_conserve_the_gini_index(k):
    p, _ = tabular(k, n_students=12, seed=k)
    answer = estimate_classes(cells_of(p), classes=range(6), points=range(N_SETS), kind="probabilities", known=True)
    assert close(answer.inter_student.values, GINI_INDEX / k)
    assert close(answer.total.values, GINI_INDEX)
    if k == 1:
        assert (answer.intra_student.values == 0).all()
    else:
        assert close(answer.intra_student.values, (1 - 1 / k) * GINI_INDEX)
    assert not close(answer.plug_in.sel(component="inter_student").values, GINI_INDEX / k, sigmas=6)


@pytest.mark.parametrize(("k", "n_labels"), [(1, 3), (5, 2), (5, 8)])
def test_tabular_students_seen_through_their_labels(k, n_labels):
    p, rng = tabular(k, n_students=12, seed=k)
    made = cells_of(p, n_labels=n_labels, rng=rng)
    answer = estimate_classes(made, classes=range(6), points=range(N_SETS), kind="labels", known=False)
    assert close(answer.inter_student.values, GINI_INDEX / k)
    assert close(answer.total.values, GINI_INDEX)
    if k > 1:
        assert close(answer.intra_student.values, (1 - 1 / k) * GINI_INDEX)
        assert not close(answer.plug_in.sel(component="intra_student").values, (1 - 1 / k) * GINI_INDEX, sigmas=6)


@pytest.mark.parametrize("k", [2, 5, 20])
def test_tabular_students_conserve_entropy(k):
    p, _ = tabular(k, n_students=60, seed=k)
    answer = estimate_classes(cells_of(p), classes=range(6), points=range(N_SETS), kind="probabilities", known=True)
    assert close(answer.expected_entropy.values, expected_entropy(k))
    assert close(answer.mutual_information.values, ENTROPY - expected_entropy(k))
    assert not close(answer.plug_in.sel(component="mutual_information").values, ENTROPY - expected_entropy(k), sigmas=6)


def test_theory_has_the_published_number():
    assert expected_entropy(5) == pytest.approx(0.92951, abs=5e-6)
