"""Train students until the question is decided: batches, a sequential test after each student, and a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdstats.components.batches import join_batches
from kdstats.components.result import VarianceComponents
from kdstats.engine import observe, predict
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.hypotest import SequentialResult, SequentialTest
from kdstats.problem.design import SOURCES
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_count
from kdstats.streams import Seeds, as_seeds
from kdstats.study.folder import ResultFolder

__all__ = ["DecidedObservation", "batch_seeds", "observe_until_decided"]

Say = Callable[..., None]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecidedObservation:
    """Students trained until a sequential test was decided, or the budget spent.

    Attributes
    ----------
    test : SequentialResult
        The decision, with an interval that is valid although training stopped when it pleased.
    observed : VarianceComponents
        Components of all trained students. Their standard errors do not know that the number of students depends on
        what was seen; the interval of ``test`` does.
    predicted : VarianceComponents
        What was tested.
    n_trained, max_students : int
        Students trained, and the budget; those of the last batch after the deciding one are trained but not tested.
    reused : list of str
        Batches that an earlier, interrupted run had left finished.
    """

    test: SequentialResult
    observed: VarianceComponents
    predicted: VarianceComponents
    n_trained: int
    max_students: int
    reused: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``agree``, ``disagree`` or ``undecided``: the budget is spent."""
        return self.test.verdict

    def summary(self) -> str:
        """Return a printable account."""
        if self.verdict == "undecided":
            end = f"The budget of {self.max_students} students is spent."
        else:
            end = f"{self.n_trained} of at most {self.max_students} students were trained."
        return f"{self.test.summary()}\n{end}"

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as plain numbers and strings."""
        return {**self.test.to_dict(), "n_trained": self.n_trained, "max_students": self.max_students}

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<DecidedObservation verdict={self.verdict!r} n_trained={self.n_trained} ratio={self.test.ratio:.4g}>"


def observe_until_decided(
    problem: DistillationProblem,
    predicted: VarianceComponents | None = None,
    *,
    engine: str | None = None,
    batch: int = 32,
    max_students: int = 1000,
    margin: float = 1.5,
    confidence_level: float = 0.95,
    rng: Any = None,
    out: Path | str | None = None,
    say: Say = lambda *_: None,
    **options: Any,
) -> DecidedObservation:
    """Train students in batches until equality is refuted, equivalence is shown, or the budget is spent.

    Parameters
    ----------
    problem : DistillationProblem
        What is asked.
    predicted : VarianceComponents, optional
        What is tested, see :class:`kdstats.SequentialTest`. Default: the closed form with its covariance.
    engine : str, optional
        As in :func:`kdstats.observe`.
    batch : int, default 32
        Students trained between two looks, at least 2; the last batch may be smaller.
    max_students : int, default 1000
        Budget.
    margin, confidence_level
        As in :func:`kdstats.sequential_test`.
    rng : int, Generator, SeedSequence, Seeds or None
        Each batch has seeds of its own derived from it, except for a source that is off: what all students have in
        common is the same in every batch.
    out : path, optional
        Folder that keeps every finished batch: after an interruption the same call goes on with the next one and ends
        with the same numbers.
    say : callable, optional
        ``say(text)`` or ``say(text, done, total)``, told how many students are trained.
    **options
        Passed to the engine (``noise_law``, ``n_workers``, ...), except ``n_students`` and ``n_replicates``.

    Returns
    -------
    DecidedObservation

    Raises
    ------
    ComparisonError
        If the prediction cannot be tested sequentially.
    UnsupportedProblemError
        If no ``predicted`` is given and there is no closed form.
    StudyError
        If ``out`` holds batches of another run.

    Examples
    --------
    >>> import kdstats as kd
    >>> done = kd.observe_until_decided(kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8), rng=1)
    >>> done.verdict, done.n_trained < 1000
    ('agree', True)
    """
    batch = as_count("batch", batch, minimum=2, reason="to estimate inter-student variance")
    budget = as_count("max_students", max_students, minimum=2, reason="to estimate inter-student variance")
    for name in ("n_students", "n_replicates"):
        if name in options:
            raise invalid(name, "be left out: students come in batches and each predicts its mean", options[name])
    if predicted is None:
        predicted = _prediction(problem)
    test = SequentialTest(predicted, margin=margin, confidence_level=confidence_level)
    seeds = as_seeds(rng)
    settings = {
        "problem": problem.fingerprint(),
        "engine": engine,
        "batch": batch,
        "seed": seeds.as_dict(),
        "options": {name: str(value) for name, value in sorted(options.items()) if name not in NOT_RESULTS},
    }
    folder = ResultFolder(None if out is None else Path(out), settings)
    batches: list[VarianceComponents] = []
    trained = 0
    while trained < budget and test.result.verdict == "undecided":
        size = _next_size(budget - trained, batch)
        say("training students until decided", trained, budget)
        number = len(batches)
        found = folder.unit(
            f"batch_{number:04d}_{size}",
            lambda size=size, number=number: observe(  # type: ignore[misc]
                problem, engine=engine, n_students=size, rng=batch_seeds(problem, seeds, number), **options
            ),
        )
        batches.append(found)
        trained += size
        test.update(found)
    return DecidedObservation(
        test=test.result,
        observed=join_batches(batches),
        predicted=predicted,
        n_trained=trained,
        max_students=budget,
        reused=folder.reused,
    )


#: Options of engines that change how long training takes and not what it gives.
NOT_RESULTS = ("progress", "n_workers")


def batch_seeds(problem: DistillationProblem, seeds: Seeds, number: int) -> Seeds:
    """Return the seeds of one batch: new for what varies between students, the same for what they have in common.

    A linear student draws nothing in common: a source that is off is at its mean.
    """
    own = seeds.branch("batch", number)
    if isinstance(problem.student, LinearStudent):
        return own
    held = {
        name: seed for name, seed in seeds.as_dict().items() if name in SOURCES and name not in problem.design.sources
    }
    return own.with_seed(**held)


def _prediction(problem: DistillationProblem) -> VarianceComponents:
    try:
        return predict(problem, engine="closed_form", covariance=True)
    except UnsupportedProblemError as error:
        raise UnsupportedProblemError(f"{error}; give what is to be tested as `predicted`") from None


def _next_size(left: int, batch: int) -> int:
    """Return the size of the next batch; one student that would be left over joins it."""
    return left if left <= batch + 1 else batch
