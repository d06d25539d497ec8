"""The sentences under an even plan: what more of each would bring, and what more responses cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kdstats.planning.search import Market
from kdstats.planning.shrinkage import RidgeLaw

__all__ = ["advice", "floor_share"]


def floor_share(market: Market, k: float) -> float:
    """Share of the labels' variance that more responses leave."""
    share = float(market.share(k))
    limit = max(market.response_correlation, 0.0)
    return limit / share if share > 0 else 0.0


def advice(market: Market, n: int, k: int) -> tuple[str, ...]:
    """Return what a reader of an even plan should know beyond its numbers."""
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
    share = floor_share(market, k)
    if share <= 0:
        return []
    useless = "; more of them are useless, more inputs are not" if share > 0.9 else ""
    return [
        f"responses to one input are correlated ({market.response_correlation:g}): {100 * share:.0f}% of the variance "
        f"of their mean is a floor that more responses cannot remove{useless}"
    ]
