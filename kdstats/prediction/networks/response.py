r"""The response of network students to their labels: to first order, and at the amplitude of real noise.

To first order the outputs of a trained network move by J times the noise of its labels, J being the derivative of
its whole training run, so the noise part of the variance between students is :math:`JCJ'` for labels of covariance C:
any covariance, any number of responses, from one run. Starts of their own add the variance of noise-free students
(law of total variance).

Noise of finite size does not keep to first order. Where the answer is to be right at a given amplitude,
a few students are trained with real noise of that amplitude, with J as a control variate: as far as students follow
it, its exactly known variance replaces the sampled one.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, PredictionError, UnsupportedProblemError, invalid
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.networks.architecture import Parameters
from kdstats.networks.stacks import BatchOrder
from kdstats.prediction.networks.mixing import LabelMixing
from kdstats.prediction.networks.spread import (
    Curve,
    Outputs,
    Spread,
    centred,
    covariance_of_labels,
    effective_rank,
    error_of_mean,
    fixed_start,
    label_scale,
    paired_spread,
    propagated,
    residual_spread,
    root_of_propagated,
    sampled_start,
    within_rows,
)
from kdstats.prediction.networks.students import (
    Pilot,
    draw_noise,
    draw_starts,
    mask_order,
    masks_vary,
    run_pilot,
    train_students,
)
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.problem.validation import as_array, as_choice, as_count
from kdstats.streams import Seeds, as_seeds

__all__ = [
    "RESPONSES",
    "NetworkResponse",
    "check_covered",
    "check_first_order",
    "check_memory",
    "check_precision",
    "network_response",
]

FloatArray = NDArray[np.float64]

RESPONSES = ("finite", "tangent")
#: First order is called valid where the check shows the true variance within this factor of it, at the 5% level.
TOLERANCE, Z_ONE_SIDED = 1.1, 1.645
#: Equivalence at this margin must be decidable between two sets of students as large as that of a finite response.
MARGIN, Z = 1.25, 1.96
#: Memory that the tangents of one run may take, bytes.
MEMORY_LIMIT = 2 * 2**30


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkResponse:
    r"""How trained networks answer to their labels, for any noise and any number of responses.

    Attributes
    ----------
    problem : DistillationProblem
        What students are trained on; its teacher's mean is the label the response is around.
    n_pilots : int
        Runs that are differentiated, when first asked for.
    n_students : int
        Students behind the initialization part, and trained (in pairs, where they start from weights of their
        own) at each amplitude where the response is finite.
    seeds : Seeds
    """

    problem: DistillationProblem
    n_pilots: int
    n_students: int
    seeds: Seeds
    n_workers: int | None = None

    @cached_property
    def pilots(self) -> tuple[Pilot, ...]:
        """Noise-free students with the derivatives of their outputs."""
        teacher = self.problem.gaussian_teacher
        check_memory(self.problem, n_directions=teacher.n_inputs * teacher.n_outputs)
        with one_blas_thread(when=self.problem.gaussian_teacher.n_inputs <= SMALL):
            starts = [tuple(layer[i : i + 1] for layer in self._starts) for i in range(self.n_pilots)]
            return tuple(run_pilot(self.problem, start, self._masks(1, first=i)) for i, start in enumerate(starts))

    @cached_property
    def noise_free(self) -> Outputs:
        """Noise-free students, one for each start."""
        masks = self._masks(len(self._starts[0]))
        return train_students(self.problem, None, self._starts, n_workers=self.n_workers, order=masks)

    @cached_property
    def _starts(self) -> Parameters:
        drawn = draw_starts(self.problem, self.seeds, self.n_students)
        if self.paths_vary and len(drawn[0]) == 1:
            return tuple(np.repeat(layer, self.n_students, axis=0) for layer in drawn)
        return drawn

    def _masks(self, count: int, *, first: int = 0) -> BatchOrder | None:
        """Where masks of some students come from; student s and its twin s + S have the same."""
        return mask_order(self.problem, self.seeds, np.arange(first, first + count) % self.n_students)

    @property
    def jacobian(self) -> xr.DataArray:
        """Derivative of every output by every label, dims (pilot, point, output, input, label_output)."""
        return xr.DataArray(
            np.stack([pilot.at_points for pilot in self.pilots]),
            dims=("pilot", "point", "output", "input", "label_output"),
            coords={"point": list(self.problem.point_labels)},
            name="jacobian",
        )

    @property
    def starts_vary(self) -> bool:
        """Whether students start from weights of their own."""
        return "student_initialization" in self.problem.design.sources

    @property
    def paths_vary(self) -> bool:
        """Whether noise-free students differ, by their starts or by their masks of dropout."""
        return self.starts_vary or masks_vary(self.problem)

    def predict(self, problem: DistillationProblem | None = None, *, response: str = "finite") -> VarianceComponents:
        """Return the components of this problem, or of one with other noise, responses or strategy.

        Parameters
        ----------
        problem : DistillationProblem, optional
            Differs from :attr:`problem` at most in the teacher's noise and in responses, strategy and
            sources ``teacher_output``, ``student_output`` of the design.
        response : {"finite", "tangent"}, default "finite"
            ``"tangent"``: first order, checked against a few students trained with the real noise;
            warns where the check does not show it within a factor 1.1. ``"finite"``: those students
            themselves, with first order as control variate; warns where they are too few for
            equivalence at margin 1.25 with as many others to be shown.

        Warns
        -----
        ApproximationWarning
            See ``response``.
        """
        started = time.perf_counter()
        as_choice("response", response, RESPONSES)
        asked = self.problem if problem is None else self._same_students(problem)
        covariance = covariance_of_labels(asked)
        attrs: dict[str, Any] = {}
        if asked.design.weighting is not None:
            chosen, attrs = self._mixed(asked, response)
        elif _is_zero(covariance):
            chosen = self._no_noise()
        elif response == "finite":
            chosen = self._finite(covariance)
            check_precision(chosen, n_students=self.n_students)
            if not self.paths_vary:
                attrs |= check_first_order(self._tangent(covariance), chosen, warn=False)
        else:
            chosen, finite = self._tangent(covariance), self._finite(covariance)
            attrs |= check_first_order(chosen, finite, warn=True) | {"n_pilots": self.n_pilots}
            if finite.residual.ndim == 2:  # over masks, which first order of the mean does not move
                chosen = replace(chosen, residual=finite.residual, residual_se=finite.residual_se)
        return self._assemble(asked, chosen, attrs=attrs, started=started, response=response)

    def grid(
        self,
        *,
        noise_variance: Sequence[float] | None = None,
        n_responses: Sequence[int] | None = None,
        response: str = "finite",
        n_amplitudes: int = 8,
    ) -> VarianceComponents:
        r"""Return the components for every pair of a noise variance and a number of responses.

        Parameters
        ----------
        noise_variance : sequence of float, optional
            Variances of one response, at least 0. Default: the problem's own, a scalar.
        n_responses : sequence of int, optional
            Numbers of responses k. Default: the problem's own.
        response : {"finite", "tangent"}, default "finite"
            ``"tangent"``: first order in every cell, checked at the smallest and the largest noise.
            ``"finite"``: students are trained at ``n_amplitudes`` variances of the mean label,
            :math:`\sigma^2(1+(k-1)\rho)/k`, spread evenly over the logarithm; cells between are interpolated.
        n_amplitudes : int, default 8
            At least 2.

        Returns
        -------
        VarianceComponents
            With leading dims ``noise_variance`` and ``n_responses``.

        Warns
        -----
        ApproximationWarning
            Where the check of first order fails at an end of the grid, or where students at an amplitude are too few
            (see :meth:`predict`).
        """
        started = time.perf_counter()
        as_choice("response", response, RESPONSES)
        n_amplitudes = as_count("n_amplitudes", n_amplitudes, minimum=2, reason="to interpolate between them")
        levels, counts = self._grid_axes(noise_variance, n_responses)
        cells = [[self._cell(level, k) for k in counts] for level in levels]
        scale = np.array([[label_scale(cell) for cell in row] for row in cells])
        attrs: dict[str, Any] = {}
        positive = scale[scale > 0.0]
        if response == "tangent" or not positive.size:
            spreads = [[self._first_order(cell) for cell in row] for row in cells]
            ends = {float(positive.min()), float(positive.max())} if positive.size else set()
            checks = [self._check_at(cells, scale, end) for end in sorted(ends)]
            attrs["checks"] = [check | {"label_variance": end} for end, check in zip(sorted(ends), checks, strict=True)]
        else:
            curve = self._curve(cells, scale, n_amplitudes)
            attrs["amplitudes"] = curve.amplitudes.tolist()
            check_precision(max(curve.spreads, key=lambda one: one.relative_error), n_students=self.n_students)
            spreads = [[curve.at(value) if value > 0.0 else self._no_noise() for value in row] for row in scale]
        stacked = _stack(spreads)
        intra = np.stack(
            [[self._intra(cell, s) for cell, s in zip(r, t, strict=True)] for r, t in zip(cells, spreads, strict=True)]
        )
        intra_se = stacked["residual_se"] * ("student_output" in self.problem.design.sources)
        return VarianceComponents.from_arrays(
            inter_student=stacked["inter"],
            intra_student=intra[..., None, :],
            inter_student_se=stacked["inter_se"],
            intra_student_se=intra_se[..., None, :],
            total_se=stacked["inter_se"] + intra_se[..., None, :],
            point_labels=self.problem.point_labels,
            leading={"noise_variance": levels.tolist(), "n_responses": counts},
            attrs=self._attrs(self.problem, response, started) | attrs | {"effective_rank": stacked["rank"]},
        )

    def _grid_axes(
        self, noise_variance: Sequence[float] | None, n_responses: Sequence[int] | None
    ) -> tuple[FloatArray, list[int]]:
        own = self.problem.gaussian_teacher.noise_variance
        if self.problem.design.weighting is not None:
            raise invalid("problem", "have a strategy of mean labels for a grid over them", "variance_weighting")
        if isinstance(self.problem.student, NetworkStudent) and self.problem.student.dropout > 0.0:
            raise invalid("problem", "have no dropout for a grid (predict its cells one by one)", "dropout")
        if own.ndim:
            raise invalid("problem", "have a scalar noise_variance for a grid over it", f"shape {own.shape}")
        levels = as_array("noise_variance", [own] if noise_variance is None else noise_variance, ndim=1)
        if (levels < 0.0).any():
            raise invalid("noise_variance", "be at least 0", float(levels.min()))
        wanted: Any = [self.problem.design.n_responses] if n_responses is None else n_responses
        if not isinstance(wanted, Iterable):
            raise invalid("n_responses", "be a sequence of counts", wanted)
        counts = [as_count("n_responses", k) for k in wanted]
        if not counts:
            raise invalid("n_responses", "not be empty", "[]")
        return levels, counts

    def _cell(self, noise_variance: float, n_responses: int) -> DistillationProblem:
        strategy = "averaging" if self.problem.design.strategy == "single" else self.problem.design.strategy
        cell = self.problem.with_design(n_responses=n_responses, strategy=strategy)
        return cell.with_teacher(noise_variance=float(noise_variance))

    def _check_at(self, cells: list[list[DistillationProblem]], scale: FloatArray, value: float) -> dict[str, Any]:
        row, column = np.argwhere(scale == value)[0]
        covariance = covariance_of_labels(cells[row][column])
        return check_first_order(self._tangent(covariance), self._finite(covariance), warn=True)

    def _curve(self, cells: list[list[DistillationProblem]], scale: FloatArray, n_amplitudes: int) -> Curve:
        """Train students at amplitudes that span the grid."""
        low, high = scale[scale > 0.0].min(), scale.max()
        amplitudes = np.geomspace(low, high, n_amplitudes) if high > low else np.array([low])
        measured = []
        for value in amplitudes:
            unit = self.problem.with_design(n_responses=1, strategy="single").with_teacher(noise_variance=float(value))
            measured.append(self._finite(covariance_of_labels(unit)))
        return Curve(amplitudes=amplitudes, spreads=measured)

    def _same_students(self, problem: DistillationProblem) -> DistillationProblem:
        """Check that another problem asks for the same students on the same mean labels."""
        check_covered(problem)
        mine, other = self.problem, problem
        same = masks_vary(mine) == masks_vary(other) and (
            np.array_equal(mine.gaussian_teacher.X, other.gaussian_teacher.X)
            and np.array_equal(mine.gaussian_teacher.mean, other.gaussian_teacher.mean)
            and np.array_equal(mine.X_query, other.X_query)
            and mine.student == other.student
        )
        if not same or ("student_initialization" in other.design.sources) != self.starts_vary:
            raise invalid(
                "problem",
                "have the inputs, mean, query points, student and source student_initialization of the response",
                "others",
            )
        return problem

    def _first_order(self, problem: DistillationProblem) -> Spread:
        covariance = covariance_of_labels(problem)
        return self._no_noise() if _is_zero(covariance) else self._tangent(covariance)

    def _no_noise(self) -> Spread:
        """Noise-free students: their starts alone."""
        outputs = self.noise_free
        zero = np.zeros(outputs.predictions.shape[1:])
        start = sampled_start(outputs.predictions) if self.paths_vary else fixed_start(zero)
        return Spread(
            inter=start.inter,
            inter_se=start.inter_se,
            noise=zero,
            each=start.each,
            residual=outputs.own_variance().mean(axis=0),
            residual_se=error_of_mean(outputs.own_variance()),
            rank=effective_rank([start.root], count=self.n_students - 1 if self.paths_vary else None),
        )

    def _tangent(self, covariance: FloatArray) -> Spread:
        """First order: J C J' averaged over pilots, plus the variance of noise-free students."""
        noise = np.stack([propagated(pilot.at_points, covariance) for pilot in self.pilots])
        start = sampled_start(self.noise_free.predictions) if self.paths_vary else fixed_start(noise[0])
        moved = np.stack([residual_spread(pilot.at_inputs, covariance) for pilot in self.pilots])
        own = (self.noise_free.residuals**2).mean(axis=1)
        flat = [root_of_propagated(pilot.at_points, covariance) for pilot in self.pilots]
        return Spread(
            inter=noise.mean(axis=0) + start.inter,
            inter_se=np.hypot(error_of_mean(noise), start.inter_se),
            noise=noise.mean(axis=0),
            each=start.each,
            pilot_se=float(error_of_mean(noise.mean(axis=(1, 2)))),
            residual=own.mean(axis=0) + moved.mean(axis=0),
            residual_se=np.hypot(error_of_mean(own), error_of_mean(moved)),
            rank=effective_rank([*flat, *([start.root] if self.paths_vary else [])]),
        )

    def _finite(self, covariance: FloatArray) -> Spread:
        """Students trained with noise of this covariance."""
        if self.paths_vary:
            return self._finite_pairs(covariance)
        noise, masks = draw_noise(self.problem, self.seeds, covariance, self.n_students), self._masks(self.n_students)
        trained = train_students(self.problem, noise, self._starts, n_workers=self.n_workers, order=masks)
        pilot = self.pilots[0]
        linear = np.einsum("mqnr,snr->smq", pilot.at_points, noise, optimize=True)
        real, shadow = centred(trained.predictions), centred(linear)
        slope = float((real * shadow).sum() / max((shadow**2).sum(), np.finfo(float).tiny))
        exact = propagated(pilot.at_points, covariance)
        share = self.n_students / (self.n_students - 1)
        squares = share * (real**2 - slope**2 * shadow**2)
        inter = squares.mean(axis=0) + slope**2 * exact
        both = float((real**2).sum() * (shadow**2).sum())
        return Spread(
            inter=inter,
            inter_se=error_of_mean(squares),
            noise=inter,
            each=squares.mean(axis=(1, 2)),
            residual=trained.own_variance().mean(axis=0),
            residual_se=error_of_mean(trained.own_variance()),
            rank=effective_rank([real.reshape(self.n_students, -1).T], count=self.n_students - 1),
            linear_share=float((real * shadow).sum() ** 2 / both) if both > 0.0 else 1.0,
        )

    def _finite_pairs(self, covariance: FloatArray) -> Spread:
        """Two noisy students for every start: within pairs varies the noise, between them noise and start."""
        noise = draw_noise(self.problem, self.seeds, covariance, 2 * self.n_students)
        starts = tuple(np.concatenate([layer, layer]) for layer in self._starts)
        masks = self._masks(2 * self.n_students)
        return paired_spread(train_students(self.problem, noise, starts, n_workers=self.n_workers, order=masks))

    def _mixed(self, problem: DistillationProblem, response: str) -> tuple[Spread, dict[str, Any]]:
        """Students of variance weighting: trained on mixed labels, or to first order of pilots and students."""
        mixing = LabelMixing(problem=problem, seeds=self.seeds, n_students=self.n_students, n_workers=self.n_workers)
        facts: dict[str, Any] = {} if mixing.weighting.bound is None else {"bound": mixing.weighting.bound}
        if response == "finite":
            finite = mixing.spread(self._starts)
            check_precision(finite, n_students=self.n_students)
            return finite, facts
        law = mixing.first_order(n_pilots=self.n_pilots)
        labelled = replace(self, problem=law.as_problem(problem))
        first = labelled._tangent(covariance_of_labels(labelled.problem))
        facts |= check_first_order(first, mixing.spread(self._starts), warn=True) | {"n_pilots": self.n_pilots}
        return first, facts

    def _intra(self, problem: DistillationProblem, spread: Spread) -> FloatArray:
        """Expected residual variance of a student (residual sum of squares over rows), shape (q,)."""
        if "student_output" not in problem.design.sources:
            return np.zeros(problem.gaussian_teacher.n_outputs)
        return spread.residual + within_rows(problem)

    def _assemble(
        self, problem: DistillationProblem, spread: Spread, *, attrs: dict[str, Any], started: float, response: str
    ) -> VarianceComponents:
        noise = float(spread.noise.mean())
        labels = "teacher_output" if problem.design.weighting is None else "labels"
        paths = "student_initialization and data_order" if masks_vary(self.problem) else "student_initialization"
        parts = {labels: noise, paths: float(spread.inter.mean()) - noise}
        facts = self._attrs(problem, response, started)
        facts |= {"effective_rank": spread.rank, "source_variances": parts}
        intra_se = spread.residual_se if "student_output" in problem.design.sources else np.zeros_like(spread.residual)
        error = float(intra_se.mean())
        facts["average_standard_error"] = {
            "inter_student": spread.average_se,
            "intra_student": error,
            "total": spread.average_se + error,
        }
        return VarianceComponents.from_arrays(
            inter_student=spread.inter,
            intra_student=np.atleast_2d(self._intra(problem, spread)),
            inter_student_se=spread.inter_se,
            intra_student_se=intra_se,
            total_se=spread.inter_se + intra_se,
            point_labels=self.problem.point_labels,
            attrs=facts | attrs,
        )

    def _attrs(self, problem: DistillationProblem, response: str, started: float) -> dict[str, Any]:
        how = "J C J' of the differentiated run" if response == "tangent" else "students at the amplitude of the noise"
        return {
            "engine": "linear_response",
            "exactness": "approximate",
            "estimator": f"{how}, plus the variance of noise-free students" if self.paths_vary else how,
            "response": response,
            "n_response_students": self.n_students,
            "seed": self.seeds.as_dict(),
            "versions": versions(),
            "problem": problem.fingerprint(),
            "wall_time": time.perf_counter() - started,
        }


def network_response(
    problem: DistillationProblem,
    *,
    n_pilots: int | None = None,
    n_students: int = 256,
    rng: Any = None,
    n_workers: int | None = None,
) -> NetworkResponse:
    """Train pilot students on the teacher's mean and differentiate their training runs by every label.

    Parameters
    ----------
    problem : DistillationProblem
        With a network student trained full batch on every row for a fixed number of steps.
    n_pilots : int, optional
        Runs that are differentiated. Default: 4 where students start from weights of their own, else 1,
        which is then the only one there is.
    n_students : int, default 256
        Noise-free students for the initialization part, and students (or pairs of them) trained at each amplitude
        where a finite response or a check of first order is asked for. At least 8.
    rng : int, Generator, SeedSequence, Seeds or None
        See :func:`kdstats.streams.as_seeds`. With the source ``student_initialization`` off, the response is that
        of the one start that ``kdstats.observe`` takes from the same seed.
    n_workers : int, optional
        Threads.

    Returns
    -------
    NetworkResponse

    Raises
    ------
    UnsupportedProblemError
        For another student.
    PredictionError
        If the derivatives would take too much memory.

    Notes
    -----
    A differentiated run costs about as much as training n students, n being the number of labels.
    """
    check_covered(problem)
    n_students = as_count("n_students", n_students, minimum=8, reason="to check the response")
    vary = "student_initialization" in problem.design.sources or masks_vary(problem)
    n_pilots = as_count("n_pilots", (4 if vary else 1) if n_pilots is None else n_pilots)
    if not vary and n_pilots > 1:
        raise invalid("n_pilots", "be 1 where the source 'student_initialization' is off (all start alike)", n_pilots)
    if n_pilots > n_students:
        raise invalid("n_pilots", f"be at most n_students ({n_students})", n_pilots)
    if n_workers is not None:
        as_count("n_workers", n_workers)
    seeds = as_seeds(rng)
    return NetworkResponse(problem=problem, n_pilots=n_pilots, n_students=n_students, seeds=seeds, n_workers=n_workers)


def check_covered(problem: DistillationProblem, *, classes: bool = False) -> None:
    """Refuse what the theories of networks do not cover; ``classes``: softmax students are covered too."""
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    if not isinstance(problem.student, NetworkStudent):
        raise UnsupportedProblemError(
            f"linear response covers a NetworkStudent; got a {type(problem.student).__name__} "
            "(engine='closed_form' covers a LinearStudent)"
        )
    covers_classes, rate = classes and problem.student.head == "softmax", problem.student.dropout
    is_plain = problem.student.head == "mean" and problem.design.strategy in ("single", "averaging")
    reasons = {
        "networks that kdstats builds (no `module`)": problem.student.module is None,
        "students that see every row": problem.resample_size is None,
        "students that predict a number (head='mean')": problem.student.head == "mean" or covers_classes,
        "full-batch steps": problem.student.batch_size is None,
        f"dropout (`dropout` = {rate:g}) with head 'mean' and strategy 'single' or 'averaging'": rate == 0.0
        or is_plain,
        f"dropout (`dropout` = {rate:g}) of one hidden layer, unless 'student_output' is left out of `sources`": (
            rate == 0.0 or len(problem.student.hidden) == 1 or "student_output" not in problem.design.sources
        ),
        "a fixed number of steps": problem.student.early_stopping is None,
    }
    for covered, holds in reasons.items():
        if not holds:
            raise UnsupportedProblemError(f"linear response covers {covered} (`kdstats.observe` trains the others)")


def check_first_order(first: Spread, finite: Spread, *, warn: bool) -> dict[str, Any]:
    """Compare first order with real students; warn unless they show it within the margin."""
    predicted, seen = float(first.inter.mean()), float(finite.inter.mean())
    if predicted <= 0.0 or seen <= 0.0:
        ratio, error, low, high = np.inf if predicted <= 0.0 else 0.0, np.inf, 0.0, np.inf
    else:
        assert finite.each is not None
        ratio = seen / predicted
        apart = finite.each - (0.0 if first.each is None else ratio * first.each)  # both share their starts
        error = float(np.hypot(error_of_mean(apart), ratio * first.pilot_se)) / seen
        low, high = ratio * np.exp(-Z * error), ratio * np.exp(Z * error)
    facts: dict[str, Any] = {"linear_ratio": ratio, "linear_ratio_interval": [float(low), float(high)]}
    if finite.linear_share is not None:
        facts["linear_share"] = finite.linear_share
    facts["linear_valid"] = bool(np.isfinite(error) and abs(np.log(ratio)) + Z_ONE_SIDED * error < np.log(TOLERANCE))
    if warn and not facts["linear_valid"]:
        warnings.warn(
            f"first order is not shown to hold within {TOLERANCE - 1.0:.0%} at this noise: students trained with it "
            f"vary {ratio:.3g} ({low:.3g} to {high:.3g}) times as much as predicted; use response='finite', or more "
            "`n_students` for a sharper check",
            ApproximationWarning,
            stacklevel=3,
        )
    return facts


def check_precision(finite: Spread, *, n_students: int) -> None:
    """Warn where students at the amplitude of the noise know their variance badly: rare jumps, or too few students."""
    error = finite.relative_error
    if np.sqrt(2.0) * Z_ONE_SIDED * error > np.log(MARGIN):
        factor = np.exp(min(Z * error, 700.0))
        warnings.warn(
            f"{n_students} students know the variance at this noise only within a factor {factor:.3g} (95%), too badly "
            f"for equivalence at {MARGIN} with as many others: give more `n_students`",
            ApproximationWarning,
            stacklevel=3,
        )


def check_memory(problem: DistillationProblem, *, n_directions: int) -> None:
    """Refuse derivatives along so many directions of the labels that they would not fit, before any work."""
    teacher, student = problem.teacher, problem.student
    assert isinstance(student, NetworkStudent)
    n, q, m = teacher.n_inputs, teacher.n_outputs, problem.n_points
    widths = (teacher.n_features, *student.hidden, q)
    size = sum((before + 1) * after for before, after in itertools.pairwise(widths))
    needed = n_directions * (4 * size * 4 + 8 * (n + m) * q * 3)
    if needed > MEMORY_LIMIT:
        raise PredictionError(
            f"derivatives of {size} parameters along {n_directions} directions of the labels would take "
            f"{needed / 2**30:.1f} GiB, more than {MEMORY_LIMIT / 2**30:.0f} GiB: take fewer inputs or a narrower "
            "network, or train students with kdstats.observe"
        )


def _stack(spreads: list[list[Spread]]) -> dict[str, Any]:
    return {
        name: np.array([[getattr(spread, name) for spread in row] for row in spreads])
        for name in ("inter", "inter_se", "residual_se", "rank")
    }


def _is_zero(covariance: FloatArray) -> bool:
    return not covariance.any()
