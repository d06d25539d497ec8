r"""What is expected of students that learn sampled sequences by heart, token by token (chain rule of T20).

A student keeps, for each position and last token (its *context*), the frequencies of the next token among the k
sequences it saw. Context (t, a) is visited by a binomial number of them,
:math:`N_{ta}\sim\mathrm{Bin}(k, P(x_{t-1}=a))`, and *given that number* next tokens are independent draws: with
:math:`N \ge 1` the student's conditional has :math:`G_a/N` between students and :math:`(1 - 1/N)G_a` within.

The student's probability of a whole sequence is the product
:math:`\hat p(x) = \prod_t n_t(x_{t-1}, x_t)/n_{t-1}(x_{t-1})`. Its mean is the teacher's: given the counts up to t-1,
:math:`E[n_t(a,b)/n_{t-1}(a)] = p_t(b\mid a)` wherever :math:`n_{t-1}(a) > 0`, and where it is 0 the factors before are
0 too; take the last factor first. So the total, :math:`1-\sum_x p(x)^2`, is exact, and only its division is simulated,
every student's own part exactly, by transfer matrices.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import entr

from kdstats.components.provenance import versions
from kdstats.errors import invalid
from kdstats.prediction.closed_form.count_law import CountLaw, log_count_masses
from kdstats.problem.sequences import SequenceTeacher
from kdstats.problem.validation import as_count
from kdstats.streams import Seeds, as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SequencePrediction", "predict_sequences"]

FloatArray = NDArray[np.float64]

SEQUENCE = (
    "inter_student",
    "intra_student",
    "total",
    "mutual_information",
    "expected_entropy",
    "total_entropy",
    "missing_mass",
)
#: Students simulated at a time; also the unit of the streams.
BLOCK = 256
WIDTH = 98


@dataclass(frozen=True, eq=False, kw_only=True)
class SequencePrediction:
    """Components of whole sequences, and of each token given what came before.

    Parameters
    ----------
    sequence, standard_error : xarray.DataArray
        Dim ``component``: ``inter_student``, ``intra_student`` and ``total`` of the Gini index of whole sequences,
        ``mutual_information``, ``expected_entropy`` and ``total_entropy`` (nats), ``missing_mass``: the teacher's
        probability of sequences the student cannot say. Standard errors are 0 where exact.
    tokens : xarray.Dataset
        Dim ``position``, exact, averaged over the teacher's own text before the token. ``inter_student`` and
        ``intra_student``: of students that saw the context; ``unvisited``: the teacher's Gini index where they did
        not; the three sum to ``total``. ``mutual_information``, ``expected_entropy``, ``unvisited_entropy`` and
        ``total_entropy``: the same in nats. ``missing_context``: probability that the context was not seen.
    attrs : mapping
        ``n_responses``, ``n_students``, ``effective_responses`` (the k at which students that memorise whole sequences
        disagree as much), ``exactness``, ``seed``, ``versions``, ``wall_time``.
    """

    sequence: xr.DataArray
    standard_error: xr.DataArray
    tokens: xr.Dataset
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def to_dataframe(self) -> pd.DataFrame:
        """Return the components of tokens, one row per position."""
        return self.tokens.to_dataframe()

    def summary(self) -> str:
        """Return a printable table of both."""
        length = self.tokens.sizes["position"]
        lines = ["Predicted students of sampled sequences", "=" * WIDTH]
        lines.append(f"Responses: {self.attrs['n_responses']}, tokens a sequence: {length}, {self.attrs['exactness']}")
        lines += ["-" * WIDTH, f"{'whole sequences':<24}{'estimate':>14}{'std err':>12}"]
        for name in SEQUENCE:
            error = self.standard_error.sel(component=name).item()
            shown = f"{error:>#12.2g}" if error > 0 else f"{'exact':>12}"
            lines.append(f"{name:<24}{self.sequence.sel(component=name).item():>#14.5g}{shown}")
        lines += ["-" * WIDTH, "next tokens, on the teacher's own text (exact)"]
        frame = self.to_dataframe()[["inter_student", "intra_student", "unvisited", "total", "missing_context"]]
        lines += frame.to_string(float_format="{:#.4g}".format).splitlines()
        lines.append("=" * WIDTH)
        effective = self.attrs["effective_responses"]
        if effective is not None:
            text = (
                f"Students disagree as much as {effective:.4g} responses would make students that memorise sequences."
            )
            lines += textwrap.wrap(text, WIDTH)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<SequencePrediction exactness={self.attrs['exactness']!r} (position: {self.tokens.sizes['position']}, "
            f"responses: {self.attrs['n_responses']})>"
        )

    __str__ = __repr__


def predict_sequences(
    teacher: SequenceTeacher, *, n_responses: int, n_students: int = 2000, rng: Any = None
) -> SequencePrediction:
    """Predict how students of k sampled sequences divide the teacher's spread between and within them.

    Parameters
    ----------
    teacher : SequenceTeacher
        What it answers to one prompt.
    n_responses : int
        Sequences k that every student sees, independent draws.
    n_students : int, default 2000
        Simulated for the components of whole sequences, at least 3. With one token nothing is.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.

    Returns
    -------
    SequencePrediction

    Raises
    ------
    ProblemError
        If an argument is of another kind or out of range.

    Notes
    -----
    A student tells apart position and last token; sequences share what follows them. One that memorised whole sequences
    would be a :class:`~kdstats.TabularStudent` whose classes are sequences: G/k between students, (1 - 1/k)G within.

    Examples
    --------
    >>> import kdstats as kd
    >>> teacher = kd.SequenceTeacher([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], length=3)
    >>> found = predict_sequences(teacher, n_responses=4, rng=1)
    >>> found.tokens["missing_context"].values.round(4)
    array([0.    , 0.0625, 0.0637])
    """
    started = time.perf_counter()
    if not isinstance(teacher, SequenceTeacher):
        raise invalid("teacher", "be a SequenceTeacher", f"a {type(teacher).__name__}")
    k = as_count("n_responses", n_responses)
    count = as_count("n_students", n_students, minimum=3, reason="for standard errors")
    seeds = as_seeds(rng)
    total = {"total": teacher.gini, "total_entropy": teacher.entropy}
    if teacher.length == 1:
        law = _law(teacher.initial[None], k)
        inner = float(law.expected(lambda counts: entr(counts / k)).sum())
        missing = float(teacher.initial @ law.absent()[0])
        means, errors = np.array([(1.0 - 1.0 / k) * total["total"], inner, missing]), np.zeros(3)
    else:
        blocks = [_students(teacher, k, seeds=seeds, block=block) for block in range(-(-count // BLOCK))]
        drawn = np.concatenate(blocks)[:count]
        means, errors = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(count)
    intra, inner, missing = means.tolist()
    values = total | {
        "inter_student": total["total"] - intra,
        "intra_student": intra,
        "mutual_information": total["total_entropy"] - inner,
        "expected_entropy": inner,
        "missing_mass": missing,
    }
    spread = dict.fromkeys(("inter_student", "intra_student"), errors[0])
    spread |= dict.fromkeys(("mutual_information", "expected_entropy"), errors[1]) | {"missing_mass": errors[2]}
    coords, inter = {"component": list(SEQUENCE)}, values["inter_student"]
    return SequencePrediction(
        sequence=xr.DataArray([values[name] for name in SEQUENCE], coords, ("component",)),
        standard_error=xr.DataArray([spread.get(name, 0.0) for name in SEQUENCE], coords, ("component",)),
        tokens=_tokens(teacher, k),
        attrs={
            "n_responses": k,
            "n_students": None if teacher.length == 1 else count,
            "effective_responses": total["total"] / inter if inter > 0.0 else None,
            "exactness": "exact" if teacher.length == 1 else "totals and tokens exact, the rest simulated",
            "seed": seeds.as_dict(),
            "versions": versions(),
            "wall_time": time.perf_counter() - started,
        },
    )


def _law(p: FloatArray, k: int) -> CountLaw:
    return CountLaw(probabilities=p, n_responses=k, correlation=0.0, is_sampled=True)


def _students(teacher: SequenceTeacher, k: int, *, seeds: Seeds, block: int) -> FloatArray:
    """Draw students; return the Gini index and entropy of each one's sequences and the mass it misses, (BLOCK, 3).

    Sums over all sequences go from token to token: of squared probabilities, and of the teacher's where the student's
    are positive; entropies add by the chain rule, weighted by the student's own marginals.
    """
    generator = seeds.generator("teacher_output", "sequences", block)
    counts = generator.multinomial(k, teacher.initial, size=BLOCK)
    state = counts / k
    square, entropy = state**2, entr(state).sum(axis=1)
    covered = teacher.initial * (counts > 0)
    for position in range(1, teacher.length):
        step = teacher.step(position)
        pairs = generator.multinomial(counts, step)  # (BLOCK, C, C)
        table = pairs / np.maximum(counts, 1)[..., None]
        entropy += (state * entr(table).sum(axis=2)).sum(axis=1)
        square = np.einsum("sa,sab->sb", square, table**2)
        covered = np.einsum("sa,sab->sb", covered, step * (pairs > 0))
        counts = pairs.sum(axis=1)
        state = counts / k
    return np.column_stack([1.0 - square.sum(axis=1), entropy, 1.0 - covered.sum(axis=1)])


def _tokens(teacher: SequenceTeacher, k: int) -> xr.Dataset:
    """Return the components of next tokens: sums over contexts and over how often each is visited."""
    rows: dict[str, list[float]] = {}
    visits = np.arange(1.0, k + 1.0)
    start, inner = (np.ones(1), teacher.initial[None]), np.empty(0)
    for position in range(teacher.length):
        reach, step = start if position == 0 else (teacher.marginals[position - 1], teacher.step(position))
        if position < 2 or teacher.transition.ndim == 3:
            laws = (_law(step, j) for j in range(1, k + 1))
            inner = np.array([law.expected(_entropy_of(law)).sum(axis=1) for law in laws])  # (k, contexts)
        gini, entropy = 1.0 - (step**2).sum(axis=1), entr(step).sum(axis=1)
        masses = np.exp(log_count_masses(reach, n_responses=k, correlation=0.0))
        masses /= masses.sum(axis=1, keepdims=True)
        kept = np.einsum("aj,ja->a", masses[:, 1:], inner)
        found = {
            "inter_student": gini * (masses[:, 1:] @ (1.0 / visits)),
            "intra_student": gini * (masses[:, 1:] @ (1.0 - 1.0 / visits)),
            "unvisited": gini * masses[:, 0],
            "total": gini,
            "mutual_information": entropy * masses[:, 1:].sum(axis=1) - kept,
            "expected_entropy": kept,
            "unvisited_entropy": entropy * masses[:, 0],
            "total_entropy": entropy,
            "missing_context": masses[:, 0],
        }
        for name, values in found.items():
            rows.setdefault(name, []).append(float(reach @ values))
    coords = {"position": np.arange(teacher.length)}
    return xr.Dataset({name: ("position", values) for name, values in rows.items()}, coords)


def _entropy_of(law: CountLaw) -> Callable[[FloatArray], FloatArray]:
    return lambda counts: np.asarray(entr(counts / law.n_responses))
