import numpy as np
import pytest

from kdstats.components.result import VarianceComponents
from kdstats.observation.linear import observe
from kdstats.prediction.closed_form import predict_grid
from kdstats.prediction.closed_form.engine import predict
from kdstats.problem import Design, DistillationProblem, GaussianTeacher, LinearStudent

LEVELS = (0.05, 0.5, 4.0)
COUNTS = (1, 2, 4, 8)


@pytest.fixture(scope="session")
def problem():
    rng = np.random.default_rng(11)
    X = rng.normal(size=(30, 3))
    return DistillationProblem(
        teacher=GaussianTeacher(X, X @ [1.0, -2.0, 0.5], noise_variance=1.0),
        student=LinearStudent(),
        design=Design(rng.normal(size=(12, 3))),
    )


@pytest.fixture(scope="session")
def noise_grid(problem):
    return predict_grid(problem, noise_variance=LEVELS, n_responses=[1])


@pytest.fixture(scope="session")
def response_grid(problem):
    return predict_grid(problem, noise_variance=[1.0], n_responses=COUNTS)


@pytest.fixture(scope="session")
def noise_runs(problem):
    return {s2: observe(problem.with_teacher(noise_variance=s2), n_students=40, rng=3) for s2 in LEVELS}


@pytest.fixture(scope="session")
def predicted(problem):
    return predict(problem)


@pytest.fixture(scope="session")
def observed(problem):
    return observe(problem, n_students=120, rng=1)


@pytest.fixture(scope="session")
def replicated(problem):
    return observe(problem, n_students=60, n_replicates=40, rng=1)


@pytest.fixture
def plain_grid():
    """Return a grid of given averages at two points, exact, without noise in between."""

    def build(inter, intra, dim, labels):
        inter, intra = (
            np.asarray(values, dtype=float)[:, None, None] * np.ones((1, 2, 1)) for values in (inter, intra)
        )
        return VarianceComponents.from_arrays(
            inter_student=inter,
            intra_student=intra,
            point_labels=("a", "b"),
            leading={dim: list(labels)},
            attrs={"engine": "closed_form", "exactness": "exact"},
        )

    return build


@pytest.fixture
def artists():
    """Return the artists of an axes by gid."""

    def find(axes, gid):
        return [artist for artist in axes.get_children() if artist.get_gid() == gid]

    return find
