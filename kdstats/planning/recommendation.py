r"""What a budget should buy (results T1, T2, T9): the public verb.

For n exchangeable inputs and k responses to each, the average inter-student variance at the query points is
:math:`\sigma^2\frac{1+(k-1)\rho}{k}[(1-r)\,h(n)+r]`, with h the expected leverage
(:mod:`kdstats.planning.leverage`; :mod:`kdstats.planning.shrinkage` for ridge); a misfit of variance τ² between inputs
makes the expected squared error that plus :math:`\tau^2(1+h(n))` and the squared bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdstats.components.uncertainty import average_df
from kdstats.engine import predict
from kdstats.errors import RankDeficientError, UnsupportedProblemError, invalid
from kdstats.hypotest.power import df_for_equality, df_for_equivalence, students
from kdstats.linear.smoother import smoother
from kdstats.planning.allocation import allocate, allocated_share
from kdstats.planning.leverage import least_squares_law
from kdstats.planning.pilot import input_variances, variance_draws
from kdstats.planning.result import Interval, Plan
from kdstats.planning.search import Choice, Market, best_for_budget, best_for_target, designs_at
from kdstats.planning.shrinkage import RidgeLaw, ridge_law
from kdstats.planning.uneven import UnevenChoice, best_allocation, best_allocation_for_target, input_pool, well_chosen
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_choice, as_count, as_number, as_probability
from kdstats.streams import Seeds, as_seeds

__all__ = ["plan"]

#: Costs on the frontier, as multiples of the plan's; rows of the table of alternatives.
SCALES, UNEVEN_SCALES, MOST_ROWS = np.geomspace(0.25, 4.0, 17), np.geomspace(0.25, 4.0, 7), 400
#: Random subsets on which a plan is evaluated exactly; draws from what a pilot leaves possible, and those planned anew.
N_SUBSETS, N_DRAWS, N_PLANNED = 24, 2_000, 200
#: Disagreement of the subsets with the Gaussian relation that is worth a note, in standard errors and relative.
NOTABLE_SE, NOTABLE = 3.0, 0.05
#: Share of the inter-student variance that choosing inputs must save to be worth a note.
WORTH_CHOOSING = 0.1
#: Share of the mean square of the teacher's mean below which a misfit is rounding.
ROUNDING = 1e-12
#: Share of a response's variance within inputs below which a pilot shows nothing of it.
NOTHING_LEFT = 1e-9
#: Tails of a 95% interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class _Request:
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
        assert self.budget is not None
        return self.budget - self.training

    @property
    def criterion(self) -> str:
        return "inter_student" if self.market.misfit is None else "mse"


def plan(
    problem: DistillationProblem,
    *,
    budget: float | None = None,
    target: float | None = None,
    prompt_cost: float = 0.0,
    response_cost: float,
    training_cost: float = 0.0,
    n_students: int | None = None,
    interval_ratio: float | None = None,
    equivalence_margin: float | None = None,
    detectable_ratio: float | None = None,
    power: float = 0.8,
    max_inputs: int | None = None,
    max_responses: int | None = None,
    criterion: str | None = None,
    misfit_variance: float | None = None,
    pilot: int | None = None,
    rng: Any = 0,
) -> Plan:
    r"""Recommend how many inputs, responses to each, and students to buy.

    The cost of n inputs, k responses to each and S students is ``n * prompt_cost + S * (n * k * response_cost +
    training_cost)``: an input is paid for once, responses anew for each student, since students that share responses
    cannot show how responses make them differ.

    Parameters
    ----------
    problem : DistillationProblem
        With an ordinary least-squares or ridge student. Its inputs stand for all that could be asked; its own number
        of inputs and responses do not matter. A teacher with noise variances of its own at each input gets an
        allocation over the inputs at hand.
    budget : float, optional
        Most that may be spent, in the currency of the prices.
    target : float, optional
        Largest value of the criterion that will do; the cheapest design is returned. Give either this or ``budget``;
        neither with a requirement on students keeps the problem's own inputs and responses.
    prompt_cost : float, default 0
        Price of one more input.
    response_cost : float
        Price of one response. Prices are at least 0, not both 0; free responses need ``max_responses``.
    training_cost : float, default 0
        Price of training one student.
    n_students : int, optional
        Students to train. Default: 1, or what one of the next three options needs.
    interval_ratio : float, optional
        Train enough students for a 95% interval of the average inter-student variance whose upper bound is at most
        this many times the lower, in the median study: the observed width depends on the effective rank that the
        students show, which varies when they are few.
    equivalence_margin : float, optional
        Train enough students for the equivalence test to confirm a correct prediction within this margin with
        probability ``power``, at the 5% level.
    detectable_ratio : float, optional
        Train enough students for the equality test to reject, with probability ``power`` at the 5% level, a prediction
        from which the truth differs by this factor.
    power : float, default 0.8
    max_inputs, max_responses : int, optional
        Limits on n and on k.
    criterion : {"inter_student", "mse"}, optional
        ``mse``: the expected squared error of a student against the teacher's mean at a query point (without
        ``X_query``: at a new input of the same kind), including misfit and the bias of a penalty. Default: ``mse``
        for a ridge student, whose variance alone is least where it learns nothing; else ``inter_student``.
    misfit_variance : float, optional
        τ², variance between inputs that the student cannot fit. Default: estimated from the residuals of the
        teacher's mean. With criterion ``mse`` only.
    pilot : int, optional
        Says that ``noise_variance`` and ``mean`` of the teacher are estimates from this many responses to each input
        of X (at least 2), and carries their uncertainty through: ``noise_variance`` is then the sample variance of the
        responses to one input (divisor ``pilot - 1``). Correlated responses lie closer together than that of one
        response would have it; the plan divides by ``1 - response_correlation``. A scalar variance is pooled over all
        inputs and outputs; variances of single inputs are shrunk towards each other.
    rng : int, Generator, SeedSequence or Seeds, default 0
        For random subsets, pilot draws and the drawn inputs of ridge students.

    Returns
    -------
    Plan

    Raises
    ------
    ProblemError
        If a price, limit or count is out of range, the budget is too small for a student to be fitted (the message
        has the smallest that is enough), or no design reaches the target (the message has the floor).
    UnsupportedProblemError
        For students, strategies, sources or noise that planning does not cover.

    Notes ----- Gaussian inputs are assumed for numbers of inputs other than the problem's; ``subset_mean`` is the
    exact answer on random subsets where the inputs at hand suffice. Misfit is taken as independent of the inputs. A
    pilot's intervals assume Gaussian noise and take correlations and a ridge student's bias as known. [1]_ shrinks
    variances.

    References
    ----------
    .. [1] G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray
       experiments", Statistical Applications in Genetics and Molecular Biology 3(1), article 3, 2004.

    Examples
    --------
    Without a price on inputs, new inputs beat more responses:

    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=20)
    >>> result = kd.plan(problem, budget=100, prompt_cost=0, response_cost=1)
    >>> result.n_inputs, result.n_responses, round(result.inter_student, 6)
    (100, 1, 0.04)
    """
    student = _covered(problem)
    if criterion is None:
        criterion = "mse" if student.penalty > 0 or misfit_variance is not None else "inter_student"
    as_choice("criterion", criterion, ("inter_student", "mse"))
    needs = {
        "n_students": n_students,
        "interval_ratio": interval_ratio,
        "equivalence_margin": equivalence_margin,
        "detectable_ratio": detectable_ratio,
    }
    if budget is not None and target is not None:
        raise invalid("budget", "be left out with `target`", "both")
    if budget is None and target is None and all(need is None for need in needs.values()):
        raise invalid("budget", "be given, or `target` or a requirement on students in its place", "none of them")
    money = None if budget is None else as_number("budget", budget, minimum=0.0, exclusive=True)
    goal = None if target is None else as_number("target", target, minimum=0.0, exclusive=True)
    training = as_number("training_cost", training_cost, minimum=0.0)
    prices: dict[str, Any] = {
        "prompt_cost": as_number("prompt_cost", prompt_cost, minimum=0.0),
        "response_cost": as_number("response_cost", response_cost, minimum=0.0),
        "max_inputs": None if max_inputs is None else as_count("max_inputs", max_inputs),
        "max_responses": None if max_responses is None else as_count("max_responses", max_responses),
    }
    problem, pilot_notes = _of_one_response(problem, pilot)
    seeds = as_seeds(rng)
    count, why = _students(problem, needs, as_probability("power", power))
    prices["response_cost"] *= count
    market, notes = _market(problem, seeds, prices, mse=criterion == "mse", misfit=misfit_variance, pilot=pilot)
    request = _Request(
        problem=problem,
        market=market,
        training=count * training,
        n_students=count,
        budget=money,
        target=goal,
        pilot=pilot,
        misfit_estimated=criterion == "mse" and misfit_variance is None,
        seeds=seeds,
        notes=(*pilot_notes, *notes, *why),
    )
    differs = problem.gaussian_teacher.noise_variance.ndim == 1
    uneven = differs and (pilot is not None or np.ptp(problem.gaussian_teacher.variances) > 0)
    uneven &= money is not None or goal is not None
    _check_budget(request, n_least=min(market.law.n_least, market.law.n_coefficients) if uneven else market.law.n_least)
    if not uneven:
        return _even_plan(request)
    if problem.gaussian_teacher.input_correlation:
        raise UnsupportedProblemError("planning covers noise that differs between inputs only where it is independent")
    if problem.design.strategy == "multi_response":
        raise UnsupportedProblemError(
            "planning covers noise that differs between inputs only for strategy 'averaging': kept as rows, inputs "
            "with more responses would weigh more in the fit"
        )
    return _uneven_plan(request)


def _covered(problem: DistillationProblem) -> LinearStudent:
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


def _of_one_response(problem: DistillationProblem, pilot: int | None) -> tuple[DistillationProblem, tuple[str, ...]]:
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


def _check_budget(request: _Request, *, n_least: int) -> None:
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


def _market(
    problem: DistillationProblem,
    seeds: Seeds,
    prices: dict[str, Any],
    *,
    mse: bool,
    misfit: float | None,
    pilot: int | None,
) -> tuple[Market, tuple[str, ...]]:
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
        found, notes = _estimated_misfit(problem, pilot)
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


def _residual_square(problem: DistillationProblem) -> tuple[float, int]:
    """Return mean square and degrees of freedom, over outputs, of the teacher's mean around the best fit."""
    fit = smoother(problem.with_student(penalty=0.0))
    residuals = fit.residuals(problem.gaussian_teacher.mean_by_output)
    df = int(fit.residual_degrees_of_freedom)
    return float(np.mean(np.sum(residuals**2, axis=0)) / df), df * problem.gaussian_teacher.n_outputs


def _pilot_share(problem: DistillationProblem, pilot: int | None) -> float:
    """Return the noise that residuals of a pilot's means keep, as a share of the variance of one response.

    What all inputs share is in the intercept, not in the residuals.
    """
    teacher = problem.gaussian_teacher
    rho, shared = teacher.response_correlation, teacher.input_correlation
    return 0.0 if pilot is None else ((1.0 - rho) / pilot + rho) * (1.0 - shared)


def _residual_weights(problem: DistillationProblem) -> NDArray[np.float64]:
    """Return the share of each input's variance in the expected mean square of the residuals."""
    basis = smoother(problem.with_student(penalty=0.0)).basis
    left = 1.0 - np.einsum("ij,ij->i", basis, basis)
    return np.asarray(left / left.sum())


def _estimated_misfit(problem: DistillationProblem, pilot: int | None) -> tuple[float, tuple[str, ...]]:
    square, _ = _residual_square(problem)
    noise = float(_residual_weights(problem) @ problem.gaussian_teacher.variances)
    found = square - noise * _pilot_share(problem, pilot)
    if abs(found) <= ROUNDING * float((problem.gaussian_teacher.mean_by_output**2).mean()):
        found = 0.0
    where = "the residuals of the teacher's mean" + ("" if pilot is None else ", less the pilot's noise")
    below = "; none is taken, as the estimate is below 0" if found < 0 else ""
    return max(found, 0.0), (f"misfit variance {found:.4g} between inputs, from {where}{below}",)


def _students(problem: DistillationProblem, needs: dict[str, Any], power: float) -> tuple[int, tuple[str, ...]]:
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
    rank = float(predict(_inter_only(problem)).attrs["effective_rank"])
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


def _even_plan(request: _Request) -> Plan:
    market = request.market
    choice = _even_choice(request, market)
    n, k = choice.n_inputs, choice.n_responses
    inter = float(market.inter(n, k))
    mean, error, subset_notes = _on_subsets(request, n, k, inter)
    rows = [best_for_budget(market, money) for money in SCALES * choice.cost]
    kept = [(row.n_inputs, row.n_responses) for row in rows if row is not None]
    money = choice.cost if request.budget is None else request.money
    law, factor = market.law, market.noise * float(market.share(k)) * (1.0 - market.input_correlation)
    simulated = isinstance(law, RidgeLaw)
    intervals = {} if request.pilot is None else _even_intervals(request, choice)
    return Plan(
        criterion=request.criterion,
        n_inputs=n,
        n_responses=k,
        inputs=None,
        n_students=request.n_students,
        cost=choice.cost + request.training,
        budget=request.budget,
        target=request.target,
        inter_student=inter,
        mse=None if market.misfit is None else choice.value,
        exactness="simulated" if simulated else "exact" if n == law.n_available or law.at_inputs else "approximate",
        standard_error=law.standard_error(
            n, k, variance=factor + (market.misfit or 0.0), with_bias=market.misfit is not None
        )
        if isinstance(law, RidgeLaw)
        else 0.0,
        value_interval=intervals.get("value"),
        n_inputs_interval=intervals.get("n_inputs"),
        n_responses_interval=intervals.get("n_responses"),
        cost_interval=intervals.get("cost"),
        subset_mean=mean,
        subset_se=error,
        even_inter_student=None,
        allocation_loss=None,
        floor_share=_floor_share(market, k),
        frontier=_table(request, np.array([n for n, _ in kept]), np.array([k for _, k in kept])),
        alternatives=_table(request, *_same_money(market, money, choice)),
        notes=(*request.notes, *subset_notes, *_choice_note(request, n, k, mean), *_advice(market, n, k)),
    )


def _even_choice(request: _Request, market: Market) -> Choice:
    if request.target is not None:
        return best_for_target(market, request.target)
    if request.budget is None:
        n, k = request.problem.gaussian_teacher.n_inputs, request.problem.design.n_responses
        return Choice(n_inputs=n, n_responses=k, cost=float(n * market.price(k)), value=float(market.value(n, k)))
    found = best_for_budget(market, request.money)
    assert found is not None
    return found


def _same_money(market: Market, money: float, choice: Choice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return other designs for the money, all near the recommended one and some of the rest."""
    n, k = designs_at(market, money)
    order = np.argsort(k, kind="stable")
    n, k = n[order], k[order]
    near = np.abs(np.searchsorted(k, choice.n_responses) - np.arange(k.size)) <= MOST_ROWS // 4
    some = np.isin(np.arange(k.size), np.unique(np.geomspace(1, k.size, MOST_ROWS // 2).astype(int) - 1))
    kept = near | some
    return np.append(n[kept], choice.n_inputs), np.append(k[kept], choice.n_responses)


def _even_intervals(request: _Request, choice: Choice) -> dict[str, Interval]:
    """Return where value and recommendation lie for the variances that a pilot leaves possible."""
    market, problem, pilot = request.market, request.problem, request.pilot
    assert pilot is not None
    teacher = problem.gaussian_teacher
    noise = variance_draws(
        market.noise,
        teacher.n_outputs * (pilot - 1),
        n_inputs=teacher.n_inputs,
        input_correlation=teacher.input_correlation,
        n_draws=N_DRAWS,
        generator=request.seeds.generator("teacher_output", "noise"),
    )
    misfit = np.full(N_DRAWS, market.misfit or 0.0)
    if request.misfit_estimated:
        square, residual_df = _residual_square(problem)
        generator = request.seeds.generator("teacher_output", "misfit")
        squares = variance_draws(square, residual_df, n_draws=N_DRAWS, generator=generator)
        misfit = np.maximum(squares - noise * _pilot_share(problem, pilot), 0.0)
    once = market.law.factors(choice.n_inputs, choice.n_responses)
    shared = market.input_correlation
    values = noise * float(market.share(choice.n_responses)) * ((1.0 - shared) * float(once.noise) + shared)
    if market.misfit is not None:
        values = values + misfit * (1.0 + float(once.noise)) + float(once.bias)
    found: dict[str, Interval] = {"value": _central(values)}
    if request.budget is None and request.target is None:
        return found
    anew = []
    for sigma, tau in zip(noise[:N_PLANNED], misfit[:N_PLANNED], strict=True):
        possible = replace(market, noise=float(sigma), misfit=None if market.misfit is None else float(tau))
        if request.target is None or request.target > possible.floor * (1 + 1e-6):
            anew.append(_even_choice(request, possible))
    if len(anew) < N_PLANNED:  # in some cases the target is out of reach: no upper end
        anew += [Choice(n_inputs=0, n_responses=0, cost=np.inf, value=np.inf)] * (N_PLANNED - len(anew))
    reached = [one for one in anew if one.n_inputs]
    found |= {
        "n_inputs": _central([one.n_inputs for one in reached]),
        "n_responses": _central([one.n_responses for one in reached]),
    }
    if request.target is not None:
        found["cost"] = _central([one.cost + request.training for one in anew])
    return found


def _central(values: Any) -> Interval:
    low, high = np.quantile(np.asarray(values, dtype=float), TAILS, method="inverted_cdf")
    return Interval(low=float(low), high=float(high))


def _table(request: _Request, n: NDArray[Any], k: NDArray[Any]) -> pd.DataFrame:
    market = request.market
    frame = pd.DataFrame(
        {
            "cost": n * market.price(k) + request.training,
            "n_inputs": n.astype(int),
            "n_responses": k.astype(float),
            "inter_student": market.inter(n, k),
            "mse": np.nan if market.misfit is None else market.value(n, k),
        }
    )
    return frame.drop_duplicates(["n_inputs", "n_responses"], ignore_index=True)


def _floor_share(market: Market, k: float) -> float:
    """Share of the labels' variance that more responses leave."""
    share = float(market.share(k))
    limit = max(market.response_correlation, 0.0)
    return limit / share if share > 0 else 0.0


def _advice(market: Market, n: int, k: int) -> tuple[str, ...]:
    law, notes = market.law, []
    if n > law.n_available:
        notes.append(
            f"extrapolated: {n} inputs are more than the {law.n_available} at hand; further ones are taken to be "
            "of the same kind"
        )
    if isinstance(law, RidgeLaw):
        notes.append(f"averaged over {len(law.eigenvalues)} draws of Gaussian inputs like those at hand")
    elif not law.at_inputs and n != law.n_available:
        notes.append("leverage at other numbers of inputs follows the relation for Gaussian inputs")
    notes += [*_more_of_each(market, n, k), *_correlation_advice(market, k)]
    if isinstance(law, RidgeLaw) and k > 1:
        other = replace(market, law=replace(law, as_rows=not law.as_rows, tables=law.tables))
        kept, instead = "means", "all rows"
        if law.as_rows:
            kept, instead = instead, kept
        notes.append(
            f"the penalty weighs k times more on means than on rows: this design has {float(market.value(n, k)):.4g} "
            f"with {kept}, {float(other.value(n, k)):.4g} with {instead}"
        )
    elif k > 1:
        notes.append(
            "means of responses and all responses kept as rows (multi_response) give the same inter-student variance; "
            f"on means each student understates its own spread {1.0 / float(market.share(k)):.3g}-fold"
            if market.share(k) > 0
            else "means of these responses have no variance"
        )
    return tuple(notes)


def _more_of_each(market: Market, n: int, k: int) -> list[str]:
    """Say what twice the inputs or twice the responses would cost and bring, and what the best k tends to (T9)."""
    notes = []
    now, cost = float(market.value(n, k)), float(n * market.price(k))
    for what, many, each in (("inputs", 2 * n, k), ("responses to each input", n, 2 * k)):
        if many <= (market.max_inputs or many) and each <= market.most_responses and now > 0:
            change = 100 * (float(market.value(many, each)) / now - 1)
            price = 100 * (float(many * market.price(each)) / cost - 1) if cost > 0 else 0.0
            notes.append(f"twice the {what} would change the value by {change:+.3g}% and the cost by {price:+.3g}%")
    if k == 1 and (market.max_responses is None or market.max_responses > 1):
        notes.append("new inputs are worth more here than second responses")
    lasting = (market.misfit or 0.0) + market.response_correlation * market.noise
    if lasting > 0 and market.response_cost > 0 and market.prompt_cost > 0:
        spread = market.noise * (1.0 - market.response_correlation) * market.prompt_cost
        best = float(np.sqrt(spread / (lasting * market.response_cost)))
        notes.append(f"with many inputs the best number of responses to each tends to {max(best, 1.0):.3g}")
    return notes


def _correlation_advice(market: Market, k: int) -> list[str]:
    share = _floor_share(market, k)
    if share <= 0:
        return []
    useless = "; more of them are useless, more inputs are not" if share > 0.9 else ""
    return [
        f"responses to one input are correlated ({market.response_correlation:g}): {100 * share:.0f}% of the variance "
        f"of their mean is a floor that more responses cannot remove{useless}"
    ]


def _inter_only(problem: DistillationProblem) -> DistillationProblem:
    """Return the problem without the students' own spread, which takes residual degrees of freedom."""
    return problem.with_design(sources=problem.design.sources - {"student_output"})


def _on_subsets(
    request: _Request, n: int, k: int, expected: float
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Predict exactly on random subsets of the inputs at hand."""
    problem, available = request.problem, request.market.law.n_available
    if n > available:
        return None, None, ()
    strategy = problem.design.strategy if k > 1 and problem.design.strategy != "single" else None
    asked = _inter_only(problem).with_design(n_responses=k, strategy=strategy)
    generator, values, failed = request.seeds.generator("data_resampling", "plan"), [], 0
    for _ in range(N_SUBSETS if n < available else 1):
        rows = np.sort(generator.permutation(available)[:n])
        changes: dict[str, Any] = {"X": problem.gaussian_teacher.X[rows], "mean": problem.gaussian_teacher.mean[rows]}
        if problem.gaussian_teacher.noise_variance.ndim:
            changes["noise_variance"] = problem.gaussian_teacher.noise_variance[rows]
        try:
            values.append(float(predict(asked.with_teacher(**changes)).inter_student.mean()))
        except RankDeficientError:
            failed += 1
    if len(values) < 2:
        return (values[0], 0.0, ()) if values and n == available else (None, None, (_deficient(failed, n),))
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    notes: tuple[str, ...] = (_deficient(failed, n),) if failed else ()
    if abs(mean - expected) > max(NOTABLE_SE * error, NOTABLE * expected):
        notes += (
            f"random subsets of these inputs give {100 * (mean / expected - 1):+.0f}% against the Gaussian relation: "
            "their leverages are uneven",
        )
    return mean, error, notes


def _choice_note(request: _Request, n: int, k: int, at_random: float | None) -> tuple[str, ...]:
    """Say what asking n inputs chosen for their position would bring against random ones, where that is much."""
    problem, market = request.problem, request.market
    law, inter = market.law, float(market.inter(n, k))
    if n >= law.n_available or law.at_inputs or not inter > 0.0:
        return ()
    pool = input_pool(problem, market, request.seeds.generator("data_resampling", "choice"))
    asked = well_chosen(pool, n)
    if asked is None:
        return ()
    spread = pool.maps([asked])[0]
    spread = spread @ pool.query @ spread
    influence = float(np.einsum("np,pq,nq->", pool.inputs[asked], spread, pool.inputs[asked]))
    shared = market.input_correlation
    found = market.noise * float(market.share(k)) * ((1.0 - shared) * influence + shared)
    before = inter if at_random is None else at_random
    if not found < before * (1.0 - WORTH_CHOOSING):
        return ()
    return (
        f"the plan is for inputs taken at random; {n} of the {law.n_available} at hand chosen for where they lie would "
        f"have an inter-student variance of {found:.4g}, {100 * (1.0 - found / before):.0f}% below random ones "
        "(inputs dropped one by one; right only if the student's form is)",
    )


def _deficient(failed: int, n: int) -> str:
    return (
        f"{failed} of {N_SUBSETS} random subsets of {n} inputs do not determine the coefficients: choose them with care"
    )


def _uneven_plan(request: _Request) -> Plan:
    problem, market = request.problem, request.market
    notes, draws = list(request.notes), None
    if request.pilot is not None:
        estimates = input_variances(
            problem.gaussian_teacher.variances,
            (request.pilot - 1) * problem.gaussian_teacher.n_outputs,
            n_draws=N_DRAWS,
            generator=request.seeds.generator("teacher_output", "plan"),
        )
        draws, problem = estimates.draws, problem.with_teacher(noise_variance=estimates.mean)
        worth = (
            "all inputs share one variance" if np.isinf(estimates.prior_df) else f"worth {estimates.prior_df:.3g} more"
        )
        notes.append(f"variances from {request.pilot} pilot responses each, shrunk towards each other ({worth})")
    pool = input_pool(problem, market, request.seeds.generator("data_resampling", "plan"))
    choice = _uneven_choice(request, pool)
    chosen = pool.mask(choice.subset.inputs)
    rows = [
        row
        for money in UNEVEN_SCALES * choice.cost
        if (row := best_allocation(market, pool, money, n_changed=1, also=chosen)) is not None
    ]
    money = choice.cost if request.budget is None else request.money
    same = [
        best_allocation(
            market, replace(pool, starts=[one for one in pool.starts if one.sum() == size]), money, n_changed=0
        )
        for size in sorted({int(asked.sum()) for asked in pool.starts})
    ]
    loss, interval = (None, None) if draws is None else _against_oracle(request, choice, draws)
    notes.append(
        f"inputs are {choice.counts.size} of the {problem.teacher.n_inputs} at hand, whose variances are known; train "
        "on the mean response to each (kept as rows, inputs asked more often would weigh more)"
    )
    spare = choice.counts.size - market.law.n_coefficients
    if spare < market.law.n_coefficients:
        notes.append(
            f"{choice.counts.size} inputs for {market.law.n_coefficients} coefficients leave {spare} to show whether "
            "the student's form fits, or what its residual variance is: the least variance, if the form is right; "
            "criterion='mse' with a misfit_variance spreads the answers over more inputs"
        )
    notes.append("other designs for the same money are the best of random sets of inputs")
    counts = choice.counts
    counts.flags.writeable = False
    rho = max(market.response_correlation, 0.0)
    floor = rho * float(choice.subset.weights.sum()) / choice.inter if choice.inter > 0 else 0.0
    return Plan(
        criterion=request.criterion,
        n_inputs=counts.size,
        n_responses=counts,
        inputs=choice.subset.inputs,
        n_students=request.n_students,
        cost=choice.cost + request.training,
        budget=request.budget,
        target=request.target,
        inter_student=choice.inter,
        mse=None if market.misfit is None else choice.value,
        exactness="exact",
        standard_error=0.0,
        value_interval=interval,
        n_inputs_interval=None,
        n_responses_interval=None,
        cost_interval=None,
        subset_mean=None,
        subset_se=None,
        even_inter_student=choice.even,
        allocation_loss=loss,
        floor_share=floor,
        frontier=_uneven_table(request, [*rows, choice]).sort_values("cost", ignore_index=True),
        alternatives=_uneven_table(request, [*(row for row in same if row is not None), choice]),
        notes=tuple(notes),
    )


def _uneven_choice(request: _Request, pool: Any) -> UnevenChoice:
    market = request.market
    if request.target is None:
        choice = best_allocation(market, pool, request.money)
        if choice is None:
            raise invalid("budget", "pay for inputs that determine the coefficients", request.budget)
        return choice
    choice = best_allocation_for_target(market, pool, request.target)
    if choice is None:
        raise invalid("target", f"be within reach of the {market.law.n_available} inputs at hand", request.target)
    return choice


def _against_oracle(request: _Request, choice: UnevenChoice, draws: NDArray[np.float64]) -> tuple[float, Interval]:
    """Return the expected loss against allocations that know each draw's variances, and the interval of the value."""
    market = request.market
    rho, limit = market.response_correlation, market.most_responses
    weights = draws[:, choice.subset.inputs] * choice.subset.influence
    planned = weights @ allocated_share(choice.counts, rho)
    most, total = int(limit) if np.isfinite(limit) else None, int(choice.counts.sum())
    best = [float(row @ allocated_share(allocate(row, total, limit=most), rho)) for row in weights[:N_PLANNED]]
    values = planned
    if market.misfit is not None:
        misfit = _misfit_draws(request, draws) if request.misfit_estimated else market.misfit
        values = planned + choice.subset.bias + misfit * (1.0 + float(choice.subset.influence.sum()))
    return float(np.mean(planned[:N_PLANNED] / np.array(best) - 1.0)), _central(values)


def _misfit_draws(request: _Request, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return draws of a misfit that residuals of the pilot's means left, for draws of the inputs' variances.

    The residuals' mean square is a mixture of chi-squares as the inputs' variances differ; for each draw it gets the
    degrees of freedom of the same variance (Satterthwaite).
    """
    problem, share = request.problem, _pilot_share(request.problem, request.pilot)
    square, _ = _residual_square(problem)
    basis = smoother(problem.with_student(penalty=0.0)).basis
    maker = np.eye(len(basis)) - basis @ basis.T
    noise = draws @ _residual_weights(problem) * share
    spread = np.maximum(square - noise, 0.0)[:, None] + share * draws
    trace = spread @ np.diag(maker)
    df = problem.gaussian_teacher.n_outputs * trace**2 / np.einsum("bi,ij,bj->b", spread, maker**2, spread)
    generator = request.seeds.generator("teacher_output", "misfit")
    return np.asarray(np.maximum(square * df / generator.chisquare(df) - noise, 0.0))


def _uneven_table(request: _Request, choices: list[UnevenChoice]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cost": [row.cost + request.training for row in choices],
            "n_inputs": [row.counts.size for row in choices],
            "n_responses": [row.counts.mean() for row in choices],
            "inter_student": [row.inter for row in choices],
            "mse": [np.nan if request.market.misfit is None else row.value for row in choices],
        }
    ).drop_duplicates(ignore_index=True)
