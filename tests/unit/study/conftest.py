import copy

import pytest

from kdstats.study import Study

DOCUMENT = {
    "title": "A small study",
    "data": {"dataset": "diabetes", "max_points": 20},
    "teacher": {"noise_fraction": 0.5},
    "design": {"n_responses": 3, "strategy": "averaging"},
    "run": {
        "n_students": 120,
        "n_simulated": 1000,
        "sweep_responses": [1, 4],
        "sweep_noise": [0.5, 2.0],
        "sweep_students": 60,
    },
}


@pytest.fixture(scope="session")
def document():
    return copy.deepcopy(DOCUMENT)


@pytest.fixture
def study():
    return Study(DOCUMENT)


@pytest.fixture
def changed():
    """Return the document with one entry changed, the path written with dots."""

    def change(path, value):
        document = copy.deepcopy(DOCUMENT)
        *tables, key = path.split(".")
        target = document
        for table in tables:
            target = target.setdefault(table, {})
        target[key] = value
        return document

    return change
