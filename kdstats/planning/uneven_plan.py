"""Plans for teachers whose noise differs between inputs: which to ask, and how often each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.planning.allocation import allocate, allocated_share
from kdstats.planning.misfit import misfit_draws
from kdstats.planning.pilot import input_variances
from kdstats.planning.request import Request
from kdstats.planning.result import Interval, Plan
from kdstats.planning.uneven import InputPool, UnevenChoice, best_allocation, best_allocation_for_target, input_pool

__all__ = ["uneven_plan"]

#: Costs on the frontier, as multiples of the plan's.
SCALES = np.geomspace(0.25, 4.0, 7)
#: Draws from what a pilot leaves possible, and those for which an allocation is made anew.
N_DRAWS, N_PLANNED = 2_000, 200


def uneven_plan(request: Request) -> Plan:
    """Return the plan that asks chosen inputs, each as often as its noise is worth."""
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
        for money in SCALES * choice.cost
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


def _uneven_choice(request: Request, pool: InputPool) -> UnevenChoice:
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


def _against_oracle(request: Request, choice: UnevenChoice, draws: NDArray[np.float64]) -> tuple[float, Interval]:
    """Return the expected loss against allocations that know each draw's variances, and the interval of the value."""
    market = request.market
    rho, limit = market.response_correlation, market.most_responses
    weights = draws[:, choice.subset.inputs] * choice.subset.influence
    planned = weights @ allocated_share(choice.counts, rho)
    most, total = int(limit) if np.isfinite(limit) else None, int(choice.counts.sum())
    best = [float(row @ allocated_share(allocate(row, total, limit=most), rho)) for row in weights[:N_PLANNED]]
    values = planned
    if market.misfit is not None:
        misfit = (
            misfit_draws(request.problem, draws, pilot=request.pilot, seeds=request.seeds)
            if request.misfit_estimated
            else market.misfit
        )
        values = planned + choice.subset.bias + misfit * (1.0 + float(choice.subset.influence.sum()))
    return float(np.mean(planned[:N_PLANNED] / np.array(best) - 1.0)), Interval.of_draws(values)


def _uneven_table(request: Request, choices: list[UnevenChoice]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cost": [row.cost + request.training for row in choices],
            "n_inputs": [row.counts.size for row in choices],
            "n_responses": [row.counts.mean() for row in choices],
            "inter_student": [row.inter for row in choices],
            "mse": [np.nan if request.market.misfit is None else row.value for row in choices],
        }
    ).drop_duplicates(ignore_index=True)
