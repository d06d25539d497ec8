"""What was asked of a plan, validated: the students it needs and the market they buy in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdstats.components.uncertainty import average_df
from kdstats.engine import predict
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.hypotest.power import df_for_equality, df_for_equivalence, students
from kdstats.planning.leverage import least_squares_law
from kdstats.planning.misfit import estimated_misfit
from kdstats.planning.search import Market
from kdstats.planning.shrinkage import ridge_law
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_count, as_number
from kdstats.streams import Seeds

__all__ = ["Request", "check_budget", "covered", "inter_only", "market_of", "of_one_response", "students_needed"]

#: Share of a response's variance within inputs below which a pilot shows nothing of it.
NOTHING_LEFT = 1e-9
#: Tails of a 95% interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked, validated; the market's response price is that for all students, money excludes training."""

    problem: DistillationProblem
    market: Market
    training: float
    n_students: int
    budget: float | None
    target: float | None
    pilot: int | None
    misfit_estimated: bool
    seeds: Seeds
    notes: tuple[str, ...]

    @property
    def money(self) -> float:
        """What is left of the budget for inputs and responses."""
        assert self.budget is not None
        return self.budget - self.training

    @property
    def criterion(self) -> str:
        """What is minimised."""
        return "inter_student" if self.market.misfit is None else "mse"


def covered(problem: DistillationProblem) -> LinearStudent:
    """Return the student, or refuse a problem that planning does not cover."""
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    student, design, teacher = problem.student, problem.design, problem.gaussian_teacher
    if not isinstance(student, LinearStudent):
        raise UnsupportedProblemError(f"planning covers a LinearStudent; got a {type(student).__name__}")
    for what, there in (
        ("weights", student.weights is not None),
        ("a working covariance", student.covariance is not None),
        ("gradient steps (without `training` it plans for the student they lead to)", student.training is not None),
        ("minimum_norm", student.minimum_norm),
        ("the strategy 'variance_weighting'", design.strategy == "variance_weighting"),
        ("several generations", design.n_generations > 1),
        ("the source 'data_resampling'", problem.resample_size is not None),
        ("the source 'teacher_output' switched off", "teacher_output" not in design.sources),
        ("a full noise covariance", teacher.noise_variance.ndim == 2),
        ("a fitting covariance", teacher.fitting_covariance is not None),
    ):
        if there:
            raise UnsupportedProblemError(
                f"planning covers least squares and ridge on responses; got {what} "
                "(compare designs with `kdstats.predict`)"
            )
    return student


def of_one_response(problem: DistillationProblem, pilot: int | None) -> tuple[DistillationProblem, tuple[str, ...]]:
    """Take a pilot's variances, which are those within inputs, to the variances of single responses."""
    if pilot is None:
        return problem, ()
    as_count("pilot", pilot, minimum=2, reason="to estimate a variance")
    teacher = problem.gaussian_teacher
    rho = teacher.response_correlation
    if rho == 0.0:
        return problem, ()
    if 1.0 - rho <= NOTHING_LEFT:
        raise invalid(
            "response_correlation", "be below 1 with a pilot: equal responses to an input show no variance", rho
        )
    note = (
        f"responses to one input are correlated ({rho:g}), so the pilot's variance within inputs was divided by "
        f"{1.0 - rho:.4g} to give that of a response"
    )
    return problem.with_teacher(noise_variance=teacher.noise_variance / (1.0 - rho)), (note,)


def check_budget(request: Request, *, n_least: int) -> None:
    """Refuse a budget or a limit on inputs that no student can be fitted with."""
    law = request.market.law
    most = request.market.max_inputs
    if most is not None and most < n_least:
        raise invalid("max_inputs", f"be at least {n_least} for {law.n_coefficients} coefficients", most)
    least = request.training + n_least * float(request.market.price(1))
    if request.budget is not None and request.budget < least * (1 - 1e-12):
        many = request.n_students
        raise invalid(
            "budget",
            f"be at least {least:.6g}, which pays for {n_least} input{'s' * (n_least > 1)} with one response "
            f"each for {law.n_coefficients} coefficients, and {many} student{'s' * (many > 1)}",
            request.budget,
        )


def market_of(
    problem: DistillationProblem,
    seeds: Seeds,
    prices: dict[str, Any],
    *,
    mse: bool,
    misfit: float | None,
    pilot: int | None,
) -> tuple[Market, tuple[str, ...]]:
    """Return what inputs and responses cost and bring, and notes on what was estimated for it."""
    teacher, student = problem.gaussian_teacher, problem.student
    assert isinstance(student, LinearStudent)
    if prices["prompt_cost"] == 0 and prices["response_cost"] == 0:
        raise invalid("response_cost", "be greater than 0 where `prompt_cost` is 0", 0)
    if prices["response_cost"] == 0 and prices["max_responses"] is None:
        raise invalid("max_responses", "be given where `response_cost` is 0", "None")
    as_rows = problem.design.strategy == "multi_response" and student.penalty > 0
    law = (
        ridge_law(problem, at_new_inputs=mse, as_rows=as_rows, generator=seeds.generator("data_resampling", "inputs"))
        if student.penalty > 0
        else least_squares_law(problem, at_new_inputs=mse)
    )
    if teacher.input_correlation and not law.has_constant:
        raise UnsupportedProblemError("planning covers noise shared across inputs for students with an intercept only")
    noise, found = float(np.mean(teacher.variances)), None
    notes: tuple[str, ...] = ()
    if mse and misfit is None:
        found, notes = estimated_misfit(problem, pilot)
    elif mse:
        found = as_number("misfit_variance", misfit, minimum=0.0)
    elif misfit is not None:
        raise invalid("misfit_variance", "be left out without criterion='mse'", misfit)
    return Market(
        law=law,
        noise=noise,
        response_correlation=teacher.response_correlation,
        input_correlation=teacher.input_correlation,
        misfit=found,
        as_rows=as_rows,
        **prices,
    ), notes


def students_needed(problem: DistillationProblem, needs: dict[str, Any], power: float) -> tuple[int, tuple[str, ...]]:
    """Return how many students the requirement on them needs, and the sentence that says why."""
    given = {name: need for name, need in needs.items() if need is not None}
    if len(given) > 1:
        first, second, *_ = given
        raise invalid(first, f"be left out with `{second}`", "both")
    if not given:
        return 1, ()
    ((name, need),) = given.items()
    if name == "n_students":
        return as_count(name, need), ()
    if name == "detectable_ratio":
        ratio = as_number(name, need, minimum=0.0, exclusive=True)
        if ratio == 1.0:
            raise invalid(name, "differ from 1", ratio)
        df, why = (
            df_for_equality(ratio, power=power),
            f"power {power:g} to tell a variance {ratio:g} times the predicted",
        )
    elif name == "interval_ratio":
        ratio = as_number(name, need, minimum=1.0, exclusive=True)
        df, why = _df_for_interval(ratio), f"a 95% interval with upper/lower bound at most {ratio:g} (median study)"
    else:
        margin = as_number(name, need, minimum=1.0, exclusive=True)
        df, why = (
            df_for_equivalence(margin, power=power),
            f"power {power:g} of the equivalence test with margin {margin:g}",
        )
    rank = float(predict(inter_only(problem)).attrs["effective_rank"])
    count = _students_for_interval(df, rank) if name == "interval_ratio" else students(df, effective_rank=rank)
    if count is None:
        raise invalid(name, "be farther from 1: no number of students is enough for", need)
    return count, (f"{count} students for {why}, with an effective rank of {rank:.3g} of the query points",)


def _students_for_interval(df: float, rank: float) -> int:
    """Return the number of students whose average has an interval with ``df`` degrees of freedom.

    Intervals of an average count the rank of the sample covariance, which few students keep below that of the
    population (:func:`kdstats.components.uncertainty.average_df`).
    """
    most = max(2, int(np.ceil(df)) + 2)  # at rank 1 there are n - 1 degrees of freedom or more
    fewest = 2
    while most > fewest:
        middle = (fewest + most) // 2
        enough = float(average_df(middle - 1, np.asarray(rank))) >= df * (1 - 1e-9)
        fewest, most = (fewest, middle) if enough else (middle + 1, most)
    return most


def _df_for_interval(ratio: float) -> float:
    """Return the degrees of freedom at which upper over lower bound of a 95% chi-square interval is the ratio."""
    from scipy.optimize import brentq
    from scipy.special import chdtri

    def excess(log_df: float) -> float:
        df = np.exp(log_df)
        return float(np.log(chdtri(df, TAILS[0]) / chdtri(df, TAILS[1])) - np.log(ratio))

    low, high = np.log(0.5), np.log(1e12)
    if excess(high) > 0:
        raise invalid("interval_ratio", "be farther from 1: no number of students is enough for", ratio)
    return float(np.exp(brentq(excess, low, high, xtol=1e-12))) if excess(low) > 0 else 0.5


def inter_only(problem: DistillationProblem) -> DistillationProblem:
    """Return the problem without the students' own spread, which takes residual degrees of freedom."""
    return problem.with_design(sources=problem.design.sources - {"student_output"})
