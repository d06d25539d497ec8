"""Teachers: what a response to a training input is, as a distribution.

A teacher states its mean at the training inputs and how its responses scatter around it. It draws
nothing and computes nothing; engines do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdstats.errors import invalid
from kdstats.problem.validation import as_array, as_covariance, as_labels, as_matrix, as_number, frozen

__all__ = ["GaussianTeacher"]


@dataclass(frozen=True, eq=False)
class GaussianTeacher:
    r"""Teacher whose responses are its mean plus Gaussian noise.

    Response :math:`j` to all :math:`n` inputs together is
    :math:`y_j = \mu + e + \varepsilon_j`, with
    :math:`\operatorname{Cov}(\varepsilon_j) = \Sigma`,
    :math:`\operatorname{Cov}(\varepsilon_j, \varepsilon_l) = \rho\Sigma` for :math:`j \ne l`, and a
    fitting error :math:`e \sim N(0, \Sigma_T)` that all responses of one teacher share. Every student
    meets a teacher of its own, so :math:`\Sigma_T` is part of the source ``teacher_output``.
    Outputs (columns of ``mean``) have independent noise with the same covariance.

    Parameters
    ----------
    X : array_like or DataFrame, shape (n, p)
        Training inputs. Column names of a DataFrame are kept for messages.
    mean : array_like, shape (n,) or (n, q)
        The teacher's mean response at each input.
    noise_variance : float, (n,) or (n, n) array_like, default 1.0
        Variance of one response, per input, or its full covariance over the inputs
        (squared output units).
    response_correlation : float, default 0.0
        Correlation between two of the k responses to one input, in ``[-1/(k-1), 1]``; the lower
        bound is checked where k is known.
    input_correlation : float, default 0.0
        Correlation of the noise between any two inputs, in ``[-1/(n-1), 1]``. Not together with a
        full covariance, which says it already.
    fitting_covariance : (n, n) array_like, optional
        Covariance :math:`\Sigma_T` of the teacher's own fitting error at the inputs.

    Attributes
    ----------
    feature_names : tuple of str
        Column names of X (``x0``, ``x1``, ... where it had none).

    Raises
    ------
    ProblemError
        If an array is empty, ragged, not finite, not real or of the wrong shape, a variance is
        negative, a covariance is asymmetric or indefinite, or a correlation is out of range.
    """

    X: NDArray[np.float64]
    mean: NDArray[np.float64]
    noise_variance: NDArray[np.float64] = field(default=1.0, kw_only=True)  # type: ignore[arg-type]
    response_correlation: float = field(default=0.0, kw_only=True)
    input_correlation: float = field(default=0.0, kw_only=True)
    fitting_covariance: NDArray[np.float64] | None = field(default=None, kw_only=True)
    feature_names: tuple[str, ...] | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            X: ArrayLike,
            mean: ArrayLike,
            *,
            noise_variance: ArrayLike = 1.0,
            response_correlation: float = 0.0,
            input_correlation: float = 0.0,
            fitting_covariance: ArrayLike | None = None,
            feature_names: tuple[str, ...] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        names = self.feature_names if self.feature_names is not None else _column_names(self.X)
        inputs = as_matrix("X", self.X)
        n, p = inputs.shape
        mean = as_array("mean", self.mean, ndim=(1, 2))
        if mean.shape[0] != n:
            raise invalid("mean", f"have one entry per row of X ({n})", f"{mean.shape[0]}")
        noise = as_array("noise_variance", self.noise_variance, ndim=(0, 1, 2))
        if noise.ndim == 2:
            noise = as_covariance("noise_variance", noise, n)
        elif noise.ndim == 1 and noise.shape != (n,):
            raise invalid("noise_variance", f"be a scalar, ({n},) or ({n}, {n})", f"shape {noise.shape}")
        elif (noise < 0).any():
            where = f" at index {int(np.flatnonzero(noise < 0)[0])}" if noise.ndim else ""
            raise invalid("noise_variance", "be at least 0", f"{noise.min():g}{where}")
        shared = as_number("input_correlation", self.input_correlation)
        lowest = -1.0 / (n - 1) if n > 1 else 0.0
        if not lowest <= shared <= 1.0:
            raise invalid("input_correlation", f"be within [-1/(n-1), 1] = [{lowest:.4g}, 1]", shared)
        if shared != 0.0 and noise.ndim == 2:
            raise invalid("input_correlation", "be 0 when noise_variance is a full covariance", shared)
        fitting = self.fitting_covariance
        object.__setattr__(self, "X", inputs)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "noise_variance", noise)
        object.__setattr__(
            self,
            "response_correlation",
            as_number("response_correlation", self.response_correlation, minimum=-1.0, maximum=1.0),
        )
        object.__setattr__(self, "input_correlation", shared)
        if fitting is not None:
            object.__setattr__(self, "fitting_covariance", as_covariance("fitting_covariance", fitting, n))
        labels = as_labels("feature_names", tuple(f"x{j}" for j in range(p)) if names is None else names, p)
        object.__setattr__(self, "feature_names", tuple(str(name) for name in labels))

    @property
    def n_inputs(self) -> int:
        """Number of training inputs, n."""
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns of X, p."""
        return int(self.X.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of outputs, q."""
        return 1 if self.mean.ndim == 1 else int(self.mean.shape[1])

    @property
    def mean_by_output(self) -> NDArray[np.float64]:
        """The mean as a matrix, shape (n, q)."""
        return self.mean.reshape(self.n_inputs, self.n_outputs)

    @property
    def variances(self) -> NDArray[np.float64]:
        """Variance of one response at each input, shape (n,)."""
        if self.noise_variance.ndim == 2:
            return frozen(np.diag(self.noise_variance))
        return frozen(np.broadcast_to(self.noise_variance, (self.n_inputs,)))

    @property
    def is_diagonal(self) -> bool:
        """Whether responses to different inputs are uncorrelated by construction."""
        return self.noise_variance.ndim < 2 and self.input_correlation == 0.0

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of one response vector over the inputs, shape (n, n)."""
        if self.noise_variance.ndim == 2:
            return self.noise_variance
        sd = np.sqrt(self.variances)
        full = self.input_correlation * np.outer(sd, sd)
        np.fill_diagonal(full, self.variances)
        return frozen(full)


def _column_names(table: Any) -> tuple[str, ...] | None:
    columns = getattr(table, "columns", None)
    return None if columns is None else tuple(str(name) for name in columns)
