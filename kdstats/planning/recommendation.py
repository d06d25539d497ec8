r"""What a budget should buy (results T1, T2, T9): the public verb.

For n exchangeable inputs and k responses to each, the average inter-student variance at the query points is
:math:`\sigma^2\frac{1+(k-1)\rho}{k}[(1-r)\,h(n)+r]`, with h the expected leverage
(:mod:`kdstats.planning.leverage`; :mod:`kdstats.planning.shrinkage` for ridge); a misfit of variance τ² between inputs
makes the expected squared error that plus :math:`\tau^2(1+h(n))` and the squared bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.planning.even_plan import even_plan
from kdstats.planning.request import Request, check_budget, covered, market_of, of_one_response, students_needed
from kdstats.planning.result import Plan
from kdstats.planning.uneven_plan import uneven_plan
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_choice, as_count, as_number, as_probability
from kdstats.streams import as_seeds

__all__ = ["plan"]


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

    Notes
    -----
    Gaussian inputs are assumed for numbers of inputs other than the problem's; ``subset_mean`` is the exact answer on
    random subsets where the inputs at hand suffice. Misfit is taken as independent of the inputs. A pilot's intervals
    assume Gaussian noise and take correlations and a ridge student's bias as known. [1]_ shrinks variances.

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
    student = covered(problem)
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
    problem, pilot_notes = of_one_response(problem, pilot)
    seeds = as_seeds(rng)
    count, why = students_needed(problem, needs, as_probability("power", power))
    prices["response_cost"] *= count
    market, notes = market_of(problem, seeds, prices, mse=criterion == "mse", misfit=misfit_variance, pilot=pilot)
    request = Request(
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
    check_budget(request, n_least=min(market.law.n_least, market.law.n_coefficients) if uneven else market.law.n_least)
    if not uneven:
        return even_plan(request)
    if problem.gaussian_teacher.input_correlation:
        raise UnsupportedProblemError("planning covers noise that differs between inputs only where it is independent")
    if problem.design.strategy == "multi_response":
        raise UnsupportedProblemError(
            "planning covers noise that differs between inputs only for strategy 'averaging': kept as rows, inputs "
            "with more responses would weigh more in the fit"
        )
    return uneven_plan(request)
