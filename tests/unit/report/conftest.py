from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdstats.hypotest import compare
from kdstats.observation.linear import observe
from kdstats.plots import convergence, predicted_against_observed
from kdstats.prediction.closed_form.engine import predict
from kdstats.problem import Design, DistillationProblem, GaussianTeacher, LinearStudent
from kdstats.report import Report, render_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Parsed page: refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags = []
        self.words = []
        self.open = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs, _ in self.tags if name == tag]

    @property
    def said(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def problem():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(25, 2))
    return DistillationProblem(
        teacher=GaussianTeacher(X, X @ [1.0, 2.0], noise_variance=1.0),
        student=LinearStudent(),
        design=Design(rng.normal(size=(6, 2))),
    )


@pytest.fixture(scope="session")
def predicted(problem):
    return predict(problem)


@pytest.fixture(scope="session")
def observed(problem):
    return observe(problem, n_students=150, rng=1)


@pytest.fixture(scope="session")
def comparison(predicted, observed):
    return compare(predicted, observed)


@pytest.fixture(scope="session")
def figures(predicted, observed):
    plain = Figure()
    axes = plain.subplots()
    for height in (3, 4):
        axes.plot([1, 2], [height, height], gid="twin")  # one id for two lines, as matplotlib writes it
    return {
        "Points": predicted_against_observed(predicted, observed),
        "Students": convergence(observed, predicted=predicted),
        "Plain": plain,
    }


@pytest.fixture
def everything(predicted, observed, comparison, figures, problem):
    return {
        "title": "A study",
        "predicted": predicted,
        "observed": observed,
        "comparison": comparison,
        "figures": figures,
        "problem": problem,
        "unit": "K",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }


@pytest.fixture
def render():
    return lambda **arguments: Page(render_report(Report(**arguments)))
