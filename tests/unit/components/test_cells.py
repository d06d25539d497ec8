import numpy as np
import pytest

import kdstats as kd
from kdstats.components.cells import stack_cells
from kdstats.errors import EstimationError


@pytest.fixture(scope="module")
def runs():
    problem = kd.catalog.shared_noise()
    return {k: kd.observe(problem.with_design(n_responses=k), n_students=40, rng=k) for k in (1, 2, 5)}


def test_cells_keep_estimates_labels_and_their_own_degrees_of_freedom(runs):
    stacked = stack_cells(runs, dim="n_responses")
    assert stacked.total.dims == ("n_responses", "point", "output")
    assert stacked.total.coords["n_responses"].values.tolist() == [1, 2, 5]
    for k, run in runs.items():
        np.testing.assert_array_equal(stacked.inter_student.sel(n_responses=k), run.inter_student)
        bounds, own = stacked.average().interval(0.9), run.average().interval(0.9)
        np.testing.assert_allclose(bounds["inter_student"].sel(n_responses=k), own["inter_student"], rtol=1e-12)


def test_a_grid_is_as_exact_as_its_least_exact_cell(runs):
    problem = kd.catalog.shared_noise()
    assert stack_cells({1: kd.predict(problem), 2: runs[2]}, dim="n_responses").exactness == "observed"


def test_no_cells_and_other_points_are_refused(runs):
    with pytest.raises(EstimationError, match="`cells` must not be empty"):
        stack_cells({}, dim="n_responses")
    other = kd.predict(kd.catalog.two_groups())
    with pytest.raises(EstimationError, match="`cells` must have the same points; got others in cell 9"):
        stack_cells({1: runs[1], 9: other}, dim="n_responses")
