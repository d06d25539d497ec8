"""Plans that ask every input equally often, its inputs taken at random from those at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdstats.engine import predict
from kdstats.errors import RankDeficientError
from kdstats.planning.advice import advice, floor_share
from kdstats.planning.misfit import pilot_share, residual_square
from kdstats.planning.pilot import variance_draws
from kdstats.planning.request import Request, inter_only
from kdstats.planning.result import Interval, Plan
from kdstats.planning.search import Choice, Market, best_for_budget, best_for_target, designs_at
from kdstats.planning.shrinkage import RidgeLaw
from kdstats.planning.uneven import input_pool, well_chosen

__all__ = ["even_plan"]

#: Costs on the frontier, as multiples of the plan's; rows of the table of alternatives.
SCALES, MOST_ROWS = np.geomspace(0.25, 4.0, 17), 400
#: Random subsets on which a plan is evaluated exactly; draws from what a pilot leaves possible, and those planned anew.
N_SUBSETS, N_DRAWS, N_PLANNED = 24, 2_000, 200
#: Disagreement of the subsets with the Gaussian relation that is worth a note, in standard errors and relative.
NOTABLE_SE, NOTABLE = 3.0, 0.05
#: Share of the inter-student variance that choosing inputs must save to be worth a note.
WORTH_CHOOSING = 0.1


def even_plan(request: Request) -> Plan:
    """Return the plan with k responses to each of n inputs, with its frontier and alternatives."""
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
        floor_share=floor_share(market, k),
        frontier=_table(request, np.array([n for n, _ in kept]), np.array([k for _, k in kept])),
        alternatives=_table(request, *_same_money(market, money, choice)),
        notes=(*request.notes, *subset_notes, *_choice_note(request, n, k, mean), *advice(market, n, k)),
    )


def _even_choice(request: Request, market: Market) -> Choice:
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


def _even_intervals(request: Request, choice: Choice) -> dict[str, Interval]:
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
        square, residual_df = residual_square(problem)
        generator = request.seeds.generator("teacher_output", "misfit")
        squares = variance_draws(square, residual_df, n_draws=N_DRAWS, generator=generator)
        misfit = np.maximum(squares - noise * pilot_share(problem, pilot), 0.0)
    once = market.law.factors(choice.n_inputs, choice.n_responses)
    shared = market.input_correlation
    values = noise * float(market.share(choice.n_responses)) * ((1.0 - shared) * float(once.noise) + shared)
    if market.misfit is not None:
        values = values + misfit * (1.0 + float(once.noise)) + float(once.bias)
    found: dict[str, Interval] = {"value": Interval.of_draws(values)}
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
        "n_inputs": Interval.of_draws([one.n_inputs for one in reached]),
        "n_responses": Interval.of_draws([one.n_responses for one in reached]),
    }
    if request.target is not None:
        found["cost"] = Interval.of_draws([one.cost + request.training for one in anew])
    return found


def _table(request: Request, n: NDArray[Any], k: NDArray[Any]) -> pd.DataFrame:
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


def _on_subsets(
    request: Request, n: int, k: int, expected: float
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Predict exactly on random subsets of the inputs at hand."""
    problem, available = request.problem, request.market.law.n_available
    if n > available:
        return None, None, ()
    strategy = problem.design.strategy if k > 1 and problem.design.strategy != "single" else None
    asked = inter_only(problem).with_design(n_responses=k, strategy=strategy)
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


def _choice_note(request: Request, n: int, k: int, at_random: float | None) -> tuple[str, ...]:
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
