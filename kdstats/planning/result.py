"""A recommended design: what to buy, what it costs, what it brings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "Plan"]

WIDTH = 78
#: Other designs for the same money that the summary shows.
N_NEIGHBOURS = 7


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float

    @classmethod
    def of_draws(cls, values: ArrayLike) -> Interval:
        """Return the interval between the 2.5% and 97.5% quantiles of draws."""
        low, high = np.quantile(np.asarray(values, dtype=float), (0.025, 0.975), method="inverted_cdf")
        return cls(low=float(low), high=float(high))


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """How many inputs, responses and students to buy; returned by :func:`kdstats.plan`.

    Attributes
    ----------
    criterion : {"inter_student", "mse"}
        What was minimised, on average over the query points.
    n_inputs : int
        Inputs to ask the teacher about.
    n_responses : int or (n_inputs,) ndarray of int
        Responses to each, for each student; one number per input where the teacher's noise differs between inputs.
    inputs : (n_inputs,) ndarray of int or None
        Which rows of X, where it matters; None: any inputs of their kind.
    n_students : int
        Students to train, each on responses of its own.
    cost : float
        Price of everything.
    budget, target : float or None
        What was asked.
    inter_student : float
        Predicted average inter-student variance, in squared output units.
    mse : float or None
        Predicted average squared error against the teacher's mean at a new point, with criterion ``mse``.
    exactness : {"exact", "approximate", "simulated"}
        Of ``value``: ``exact`` for the inputs at hand; ``approximate`` where the relation for Gaussian inputs carries
        it to another number of inputs; ``simulated`` for a ridge student, over drawn Gaussian inputs.
    standard_error : float
        Of a simulated ``value``; 0 otherwise.
    value_interval : Interval or None
        95% interval of ``value`` at this design, from the uncertainty of a pilot's variances; None without a pilot.
    n_inputs_interval, n_responses_interval, cost_interval : Interval or None
        Where the recommendation would lie if the variances were what the pilot leaves possible (central 95%).
    subset_mean, subset_se : float or None
        The same inter-student variance, evaluated exactly on random subsets of n_inputs of the rows of X: average and
        its standard error; None where the plan needs other inputs.
    even_inter_student : float or None
        The inter-student variance of the same number of responses spread evenly over the same inputs.
    allocation_loss : float or None
        Expected relative excess of inter-student variance over an allocation that knew the variances a pilot
        estimated.
    floor_share : float
        Share of the inter-student variance that more responses cannot remove.
    frontier : pandas.DataFrame
        The best design at each of a range of costs: ``cost``, ``n_inputs``, ``n_responses`` (the average),
        ``inter_student``, ``mse``.
    alternatives : pandas.DataFrame
        Other designs for the same money, with the same columns.
    notes : tuple of str
        What the numbers rest on, and what they advise.
    """

    criterion: str
    n_inputs: int
    n_responses: int | NDArray[np.int64]
    inputs: NDArray[np.int64] | None
    n_students: int
    cost: float
    budget: float | None
    target: float | None
    inter_student: float
    mse: float | None
    exactness: str
    standard_error: float
    value_interval: Interval | None
    n_inputs_interval: Interval | None
    n_responses_interval: Interval | None
    cost_interval: Interval | None
    subset_mean: float | None
    subset_se: float | None
    even_inter_student: float | None
    allocation_loss: float | None
    floor_share: float
    frontier: pd.DataFrame
    alternatives: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def value(self) -> float:
        """What was minimised."""
        return self.inter_student if self.mse is None else self.mse

    @property
    def n_responses_total(self) -> int:
        """Responses to buy in all."""
        each = self.n_responses
        one = self.n_inputs * each if isinstance(each, int) else int(each.sum())
        return one * self.n_students

    @property
    def sentence(self) -> str:
        """The recommendation in one sentence."""
        if isinstance(self.n_responses, int):
            times = f"{self.n_responses} response{'s' * (self.n_responses > 1)} each"
        else:
            each, total = self.n_responses, int(self.n_responses.sum())
            times = f"{each.min()} to {each.max()} responses each ({total} in all)"
        train = "" if self.n_students == 1 else f" for each of {self.n_students} students"
        sd = np.sqrt(max(self.value, 0.0))
        what = (
            f"the average inter-student variance will be {self.value:.4g}, so students scatter by about ±{sd:.3g}."
            if self.mse is None
            else f"the expected squared error will be {self.value:.4g}, so a student errs by about ±{sd:.3g}."
        )
        return (
            f"Ask the teacher about {self.n_inputs} input{'s' * (self.n_inputs > 1)}, {times}{train}, for "
            f"{self.cost:.6g}: {what}"
        )

    @property
    def neighbours(self) -> pd.DataFrame:
        """The best design and others with fewer and more responses for the same money, with what they lose against it.

        Column ``loss`` is relative to the best.
        """
        table, what = self.alternatives, "inter_student" if self.mse is None else "mse"
        best = table.sort_values([what, "cost"], kind="stable").drop_duplicates("n_responses")
        best = best.sort_values("n_responses", ignore_index=True)
        place, rows = int(best[what].argmin()), len(best)
        steps = [-8, -3, -1, 0, 1, 3, 8]
        shown = best.iloc[sorted({min(max(place + step, 0), rows - 1) for step in steps})]
        least = float(best[what].min())
        loss = shown[what] / least - 1.0 if least > 0 else np.where(shown[what] > 0, np.inf, 0.0)
        return shown.assign(loss=loss).reset_index(drop=True)

    def summary(self) -> str:
        """Return the recommendation, alternatives for the same money, and what the numbers rest on."""
        return "\n".join([f"Plan for {self._wanted}", "=" * WIDTH, self.sentence, "", *self._facts(), *self._tables()])

    def _facts(self) -> list[str]:
        lines = []
        if self.standard_error:
            lines.append(f"standard error (drawn inputs)         ± {self.standard_error:.2g}")
        for what, interval in (
            ("its value, given the pilot (95%)", self.value_interval),
            ("inputs, given the pilot", self.n_inputs_interval),
            ("responses each, given the pilot", self.n_responses_interval),
            ("cost, given the pilot", self.cost_interval),
        ):
            if interval is not None:
                lines.append(f"{what:<38}{interval.low:.5g} to {interval.high:.5g}")
            if interval is not None and interval is self.value_interval:
                lines.append("  if noise is Gaussian; of Laplace noise such intervals held the truth in 84% to 95%")
        if self.subset_mean is not None:
            text = f"{self.subset_mean:.5g} ± {self.subset_se:.2g} (inter-student)"
            lines.append(f"{'on random subsets of these inputs':<38}{text}")
        if self.even_inter_student is not None:
            lines.append(f"{'same responses, spread evenly':<38}{self.even_inter_student:.5g}")
        if self.allocation_loss is not None:
            lines.append(f"{'expected loss to unknown variances':<38}{100 * self.allocation_loss:.2g}%")
        return [*lines, ""] if lines else []

    def _tables(self) -> list[str]:
        head = f"{'inputs':>10}{'responses':>12}{'inter-student':>16}" + ("" if self.mse is None else f"{'mse':>14}")
        lines = [f"{'same money':<16}{head}{'loss':>8}", "-" * WIDTH]
        near = self.neighbours
        lines += [
            self._row(row) + f"{100 * loss:>7.2f}%" for row, loss in zip(near.itertuples(), near["loss"], strict=True)
        ]
        lines += ["", f"{'other money':<16}{head}", "-" * WIDTH]
        shown = np.unique(np.linspace(0, len(self.frontier) - 1, N_NEIGHBOURS).round().astype(int))
        lines += [self._row(row) for row in self.frontier.iloc[shown].itertuples()]
        return [*lines, "", *(f"* {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold."""
        entries = {item.name: getattr(self, item.name) for item in fields(self)}
        found = {name: _plain(entry) for name, entry in entries.items()}
        return {"sentence": self.sentence, "value": self.value, **found}

    def __repr__(self) -> str:
        return f"<Plan {self.sentence}>"

    @property
    def _wanted(self) -> str:
        if self.budget is not None:
            return f"a budget of {self.budget:.6g}"
        return "the design as it is" if self.target is None else f"a target of {self.target:.6g}"

    def _row(self, row: Any) -> str:
        mse = "" if self.mse is None else f"{row.mse:>14.5g}"
        return f"{row.cost:<16.6g}{row.n_inputs:>10}{row.n_responses:>12.4g}{row.inter_student:>16.5g}{mse}"


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return [{str(key): _plain(item) for key, item in row.items()} for row in value.to_dict("records")]
    if isinstance(value, Interval):
        return {"low": value.low, "high": value.high}
    if isinstance(value, (np.ndarray, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
