"""What the frontier picture shows is what the plan says."""

import io

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.plots import frontier

PRICES = {"prompt_cost": 3.0, "response_cost": 1.0}


def lines(figure, gid):
    return [line for axes in figure.axes for line in axes.lines if line.get_gid() == gid]


@pytest.fixture(scope="module")
def uneven():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(12, 1))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=np.exp(rng.normal(size=12))),
        student=kd.LinearStudent(),
        design=kd.Design(rng.normal(size=(5, 1))),
    )


def test_even_plan_with_a_pilot(problem):
    plan = kd.plan(problem, budget=400, pilot=3, **PRICES)
    figure = frontier(plan, unit="K")
    (drawn,) = lines(figure, "frontier")
    np.testing.assert_allclose(drawn.get_ydata(), plan.frontier["inter_student"])
    np.testing.assert_allclose(drawn.get_xdata(), plan.frontier["cost"])
    (interval,) = lines(figure, "interval")
    assert list(interval.get_ydata()) == [plan.value_interval.low, plan.value_interval.high]
    left, right = lines(figure, "recommended")
    assert (left.get_xdata()[0], left.get_ydata()[0]) == (plan.cost, plan.value)
    assert (right.get_xdata()[0], right.get_ydata()[0]) == (plan.n_responses, plan.value)
    (others,) = lines(figure, "alternatives")
    assert others.get_ydata().min() == pytest.approx(plan.value)
    low, high = figure.axes[0].get_ylim()
    assert low <= min(drawn.get_ydata()) <= max(drawn.get_ydata()) <= high
    assert "K²" in figure.axes[0].get_ylabel()
    assert plan.sentence in figure.get_label()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.tell() > 10_000


def test_unequal_noise_is_drawn_over_inputs_and_mse_by_name(uneven):
    plan = kd.plan(uneven, budget=60, criterion="mse", **PRICES)
    figure = frontier(plan)
    assert figure.axes[1].get_xlabel() == "Inputs, n"
    assert "squared error" in figure.axes[0].get_ylabel()
    assert not lines(figure, "interval")
    assert lines(figure, "recommended")[1].get_xdata()[0] == plan.n_inputs


def test_only_plans_are_drawn():
    with pytest.raises(ProblemError, match="`plan` must be a Plan"):
        frontier({"budget": 3})
