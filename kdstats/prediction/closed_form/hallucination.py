r"""Hallucination as an event: a student's likeliest answer is one that the teacher hardly ever gives.

An answer is *unlikely* where the teacher's (or a reference's) probability of it is below a threshold. What a student is
trained on decides whether it makes such an answer its first choice:

* ``single``: one sampled answer; with that answer's probability;
* ``multi_response`` and ``averaging`` (of labels, which is the same for classes): the most frequent of k;
* ``medoid``: the answer nearest to all k, which for answers that are equal or not is the most frequent, as the only
  label: the same first choice, but no other answer keeps any probability;
* ``soft_labels``: the teacher's probabilities; ``greedy``: its likeliest answer as the label. Neither samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import label_array
from kdstats.errors import invalid
from kdstats.prediction.closed_form.classes import (
    as_count_problem,
    as_reference,
    draw_modes,
    has_exact_modes,
    modes_are_simulated,
)
from kdstats.prediction.closed_form.count_law import log_count_masses
from kdstats.problem.categorical import ROUNDING, CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_choice, as_count, as_number
from kdstats.streams import as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STRATEGIES", "HallucinationRisk", "hallucination_risk"]

FloatArray = NDArray[np.float64]

STRATEGIES = ("single", "multi_response", "averaging", "medoid", "soft_labels", "greedy")
DIMS = ("strategy", "threshold", "n_responses", "point")
#: Strategies of the most frequent answer.
MAJORITY = ("multi_response", "averaging", "medoid")
#: What is told: variable -> what it is.
EVENTS = {
    "first_choice": "probability that the student's likeliest answer is unlikely",
    "mass": "student's expected probability of unlikely answers",
    "was_taught": "probability that an unlikely answer is among its labels",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class HallucinationRisk:
    """How often students answer what their teacher hardly ever does.

    Parameters
    ----------
    risk : xarray.Dataset
        Dims ``strategy``, ``threshold``, ``n_responses``, ``point``. ``first_choice``: the student's likeliest answer
        is unlikely (ties broken at random); ``mass``: its expected probability of all unlikely answers; ``was_taught``:
        one of them is among its labels (soft labels teach every answer of positive probability).
    standard_error : xarray.Dataset
        The same; 0 where exact.
    attrs : mapping
        ``exactness``, ``problem``, ``versions``, ``wall_time``.
    """

    risk: xr.Dataset
    standard_error: xr.Dataset
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per strategy, threshold, number of responses and point."""
        errors = self.standard_error.rename({name: f"{name}_se" for name in EVENTS})
        return xr.merge([self.risk, errors]).to_dataframe(dim_order=list(DIMS)).reset_index()

    def summary(self) -> str:
        """Return a printable table, averaged over points, for each threshold and event."""
        counts = self.risk["n_responses"].values
        mean = self.risk.mean("point")
        width = 18 + 11 * len(counts)
        lines = [f"Answers that the teacher hardly ever gives, {self.attrs['exactness']}", "=" * width]
        for threshold in self.risk["threshold"].values:
            lines.append(f"unlikely: probability below {threshold:g}; averages over {self.risk.sizes['point']} points")
            for name, meaning in EVENTS.items():
                lines += ["-" * width, meaning, f"{'responses':<18}" + "".join(f"{count:>11d}" for count in counts)]
                for strategy in self.risk["strategy"].values:
                    row = mean[name].sel(strategy=strategy, threshold=threshold).values
                    lines.append(f"{strategy:<18}" + "".join(f"{value:>#11.4g}" for value in row))
            lines.append("=" * width)
        return "\n".join(lines)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {self.risk.sizes[dim]}" for dim in DIMS)
        return f"<HallucinationRisk exactness={self.attrs['exactness']!r} ({sizes})>"

    __str__ = __repr__


def hallucination_risk(
    problem: DistillationProblem,
    *,
    threshold: float | Sequence[float],
    n_responses: int | Sequence[int] | None = None,
    strategies: Iterable[str] = STRATEGIES,
    reference: CategoricalTeacher | None = None,
    n_students: int = 10_000,
    rng: Any = None,
) -> HallucinationRisk:
    """Predict how often students' likeliest answers are ones that the teacher hardly ever gives.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.TabularStudent` or :class:`~kdstats.DirichletStudent`. Its strategy is not used.
    threshold : float or sequence of float
        An answer is unlikely if its probability is below this, by more than rounding (one part in 1e9); greater than
        0, at most 1.
    n_responses : int or sequence of int, optional
        Numbers of responses k; all of them cost about as much as the largest. Default: the problem's.
    strategies : iterable of str
        Some of ``single``, ``multi_response``, ``averaging``, ``medoid``, ``soft_labels``, ``greedy``. Default: all.
    reference : CategoricalTeacher, optional
        Whose probabilities are held against the threshold, for instance the teacher before its tail was cut off.
        Default: the teacher that answers.
    n_students : int, default 10000
        Simulated for ``first_choice`` of the most frequent answer where pseudo-counts differ between classes, or k is
        beyond 1000 or C k³ beyond 2e10; the rest is exact.
    rng : int, Generator, SeedSequence, Seeds or None
        For that simulation.

    Returns
    -------
    HallucinationRisk

    Raises
    ------
    UnsupportedProblemError
        For other students.
    ProblemError
        If a source of randomness of outputs is off, or an argument is out of range.

    Notes
    -----
    Pseudo-counts come on top of what each strategy teaches: k labels, the soft labels with the weight of k, or one
    label (``single``, ``medoid``, ``greedy``). Ties are broken at random.

    Examples
    --------
    >>> import kdstats as kd
    >>> teacher = kd.CategoricalTeacher([[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]])
    >>> problem = kd.DistillationProblem(teacher=teacher, student=kd.TabularStudent(), design=kd.Design())
    >>> found = hallucination_risk(problem, threshold=0.15, n_responses=[1, 5, 20])
    >>> found.risk["first_choice"].sel(strategy="multi_response").values.ravel().round(4)
    array([0.3   , 0.1328, 0.0066])
    """
    started = time.perf_counter()
    student = as_count_problem(problem)
    if "teacher_output" not in problem.design.sources:
        raise invalid("sources", "have 'teacher_output', or nothing is sampled", "it off")
    teacher = problem.categorical_teacher
    target = as_reference(reference, teacher).probabilities
    limits = _sequence(threshold, lambda value: _as_threshold(value), "threshold")
    default = problem.design.n_responses if n_responses is None else n_responses
    counts = _sequence(default, lambda value: as_count("n_responses", value), "n_responses")
    names = _sequence(strategies, lambda value: as_choice("strategies", value, STRATEGIES), "strategies")
    n_students = as_count("n_students", n_students, minimum=3, reason="for standard errors")
    seeds = as_seeds(rng)
    pseudo = student.pseudo_counts(teacher.n_outputs)
    unlikely = np.array([target < limit * (1.0 - ROUNDING) for limit in limits], dtype=np.float64)  # (T, n, C)
    setting = _Setting(problem, pseudo, unlikely, np.array(counts))
    shape = (len(limits), len(counts), teacher.n_inputs)
    found = {name: np.zeros((len(names), *shape)) for name in EVENTS}
    errors = {name: np.zeros((len(names), *shape)) for name in EVENTS}
    simulated = [modes_are_simulated(problem.with_design(n_responses=k, strategy=None)) for k in counts]
    many = not all(has_exact_modes(teacher.n_outputs, k) for k in counts)
    is_simulated = (any(simulated) and bool(set(names) & set(MAJORITY[:2]))) or (many and "medoid" in names)
    majority = _first_of_many(setting, n_students, seeds, simulated) if set(names) & set(MAJORITY) else None
    for i, name in enumerate(names):
        if name in MAJORITY[:2] and majority is not None:
            found["first_choice"][i], errors["first_choice"][i] = majority["labels"]
        elif name == "medoid" and majority is not None:
            found["first_choice"][i], errors["first_choice"][i] = majority["medoid"]
        else:
            found["first_choice"][i] = setting.unsampled_choice(name)
        found["mass"][i] = setting.mass(name, None if majority is None else majority["winner"][0])
        if name == "medoid" and majority is not None:
            errors["mass"][i] = majority["winner"][1] / (1.0 + pseudo.sum())
            found["was_taught"][i], errors["was_taught"][i] = majority["winner"]
        else:
            found["was_taught"][i] = setting.was_taught(name)
    coords = {
        "strategy": list(names),
        "threshold": list(limits),
        "n_responses": list(counts),
        "point": label_array(problem.point_labels),
    }
    return HallucinationRisk(
        risk=xr.Dataset({name: (DIMS, values) for name, values in found.items()}, coords),
        standard_error=xr.Dataset({name: (DIMS, values) for name, values in errors.items()}, coords),
        attrs={
            "exactness": "first choices of the most frequent answer simulated" if is_simulated else "exact",
            "problem": problem.fingerprint(),
            "versions": versions(),
            "wall_time": time.perf_counter() - started,
        },
    )


@dataclass(frozen=True, eq=False)
class _Setting:
    """The problem in arrays: pseudo-counts (C,), unlikely answers (T, n, C), numbers of responses (K,)."""

    problem: DistillationProblem
    pseudo: FloatArray
    unlikely: FloatArray
    counts: NDArray[np.int64]

    @property
    def p(self) -> FloatArray:
        """Probabilities of the teacher, shape (n, C)."""
        return self.problem.categorical_teacher.probabilities

    @property
    def greedy(self) -> FloatArray:
        """The likeliest answer, shared where several tie, shape (n, C)."""
        best = self.p == self.p.max(axis=1, keepdims=True)
        return np.asarray(best / best.sum(axis=1, keepdims=True))

    def after_one_label(self) -> FloatArray:
        """Return whether the first choice after one label of each class is unlikely, shape (T, n, C)."""
        top = self.pseudo.max()
        ties = self.pseudo == top
        prior = (self.unlikely * ties).sum(axis=2, keepdims=True)
        value = self.pseudo + 1.0
        shared = (prior + self.unlikely) / (ties.sum() + 1.0)
        return np.where(value > top, self.unlikely, np.where(value == top, shared, prior / ties.sum()))

    def unsampled_choice(self, name: str) -> FloatArray:
        """Return the risk of the first choice of strategies without a most frequent answer, shape (T, K, n)."""
        if name == "soft_labels":
            values = self.counts[:, None, None] * self.p + self.pseudo
            best = values == values.max(axis=2, keepdims=True)
            return np.asarray(np.einsum("knc,tnc->tkn", best / best.sum(axis=2, keepdims=True), self.unlikely))
        labels = self.p if name == "single" else self.greedy
        one = np.einsum("nc,tnc->tn", labels, self.after_one_label())
        return np.broadcast_to(one[:, None], (len(one), len(self.counts), self.p.shape[0]))

    def mass(self, name: str, winner: FloatArray | None) -> FloatArray:
        """Return the expected probability of unlikely answers, shape (T, K, n)."""
        prior = (self.unlikely * self.pseudo).sum(axis=2)[:, None]
        if name in ("single", "greedy", "medoid"):
            labels = self.p if name == "single" else self.greedy
            taught = np.einsum("nc,tnc->tn", labels, self.unlikely)[:, None] if name != "medoid" else winner
            assert taught is not None
            shape = (len(self.unlikely), len(self.counts), self.p.shape[0])
            return np.broadcast_to((prior + taught) / (1.0 + self.pseudo.sum()), shape)
        k = self.counts[None, :, None]
        taught = np.einsum("nc,tnc->tn", self.p, self.unlikely)[:, None]
        return np.asarray((prior + k * taught) / (k + self.pseudo.sum()))

    def was_taught(self, name: str) -> FloatArray:
        """Return the probability that an unlikely answer is among the labels, shape (T, K, n)."""
        shape = (len(self.unlikely), len(self.counts), self.p.shape[0])
        labels = self.greedy if name == "greedy" else self.p
        share = np.minimum(np.einsum("nc,tnc->tn", labels, self.unlikely), 1.0)
        if name in ("single", "greedy"):
            return np.broadcast_to(share[:, None], shape)
        if name == "soft_labels":
            return np.broadcast_to((share > 0.0).astype(np.float64)[:, None], shape)
        correlation = self.problem.categorical_teacher.response_correlation
        found = np.empty(shape)
        for i, k in enumerate(self.counts):
            masses = log_count_masses(share, n_responses=int(k), correlation=correlation)
            found[:, i] = -np.expm1(masses[..., 0])
        return found


def _first_of_many(
    setting: _Setting, n_students: int, seeds: Any, simulated: list[bool]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return risks (with errors) from the most frequent of k: as labels, as medoid, and of that answer itself."""
    from kdstats.prediction.closed_form.modes import expected_of_mode  # numba

    problem, counts = setting.problem, setting.counts
    correlation = problem.categorical_teacher.response_correlation
    n_limits, n, _ = setting.unlikely.shape
    shape = (n_limits, len(counts), n)
    values = {"winner": setting.unlikely, "medoid": setting.after_one_label()}
    is_plain = np.array_equal(values["winner"], values["medoid"])
    if is_plain:
        values.pop("medoid")
    found = {name: (np.zeros(shape), np.zeros(shape)) for name in ("labels", "winner", "medoid")}
    few = np.array([has_exact_modes(setting.p.shape[1], int(k)) for k in counts])
    if few.any():
        for i, p in enumerate(setting.p):
            rows = np.concatenate([values[name][:, i] for name in values])
            told = expected_of_mode(p, rows, n_responses=counts[few], correlation=correlation).T
            for name, part in zip(values, np.split(told, len(values)), strict=True):
                found[name][0][:, few, i] = part
    found["labels"][0][:] = found["winner"][0]
    for j, k in enumerate(counts):
        asked = problem.with_design(n_responses=int(k), strategy=None)
        jobs = [("labels", setting.pseudo, setting.unlikely)] if simulated[j] else []
        jobs += [] if few[j] else [(name, np.zeros(1), values[name]) for name in values]
        for name, pseudo, told in jobs:
            drawn = draw_modes(asked, pseudo, n_students=n_students, seeds=seeds.branch("hallucination", int(k)))
            hits = told[:, np.arange(n), drawn]  # (T, S, n)
            found[name][0][:, j] = hits.mean(axis=1)
            found[name][1][:, j] = hits.std(axis=1, ddof=1) / np.sqrt(n_students)
    if is_plain:
        found["medoid"] = found["winner"]
    return found


def _as_threshold(value: Any) -> float:
    number = as_number("threshold", value, minimum=0.0, maximum=1.0)
    if number == 0.0:
        raise invalid("threshold", "be greater than 0", number)
    return number


def _sequence(value: Any, check: Any, name: str) -> tuple[Any, ...]:
    """Return checked entries without repetition; a number or name is a sequence of one."""
    entries = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if not entries:
        raise invalid(name, "name at least one", "none")
    found = tuple(check(entry) for entry in entries)
    if len(set(found)) != len(found):
        raise invalid(name, "be unique", f"{found}")
    return found
