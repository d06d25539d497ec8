"""Students: which predictor is fitted to the labels, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdstats.errors import invalid
from kdstats.problem.validation import (
    as_array,
    as_choice,
    as_count,
    as_covariance,
    as_flag,
    as_number,
    as_probability,
)

__all__ = ["EarlyStopping", "GradientDescent", "LinearStudent", "NetworkStudent"]


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Train by full-batch gradient descent for a fixed number of steps.

    The loss is the mean over training rows of the (weighted) squared error, plus the ridge
    penalty over the number of rows; one step moves the coefficients by ``learning_rate`` times
    its gradient. This, not the least-squares solution, is what a network library follows.

    Parameters
    ----------
    n_steps : int
        Number of steps, at least 1.
    learning_rate : float
        Step size, greater than 0. Steps that do not contract are refused where the inputs are known.
    initialization_sd : float, default 0.0
        Standard deviation of the initial coefficients (intercept included), drawn independently
        with mean 0 for each student while the source ``student_initialization`` is on. With the
        source off every student starts from 0. PyTorch's default for a linear layer of p inputs
        is uniform with standard deviation ``1/sqrt(3 p)``.
    """

    n_steps: int
    learning_rate: float
    initialization_sd: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_steps", as_count("n_steps", self.n_steps))
        rate = as_number("learning_rate", self.learning_rate, minimum=0.0, exclusive=True)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(
            self, "initialization_sd", as_number("initialization_sd", self.initialization_sd, minimum=0.0)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearStudent:
    r"""Linear regression on the teacher's labels.

    The coefficients minimise
    :math:`(y - Xw)' V^{-1} (y - Xw) + \lambda \lVert w \rVert^2`; the intercept is not penalised.
    V is the identity (ordinary least squares, ridge), diagonal (``weights``, weighted least
    squares) or full (``covariance``, generalised least squares). With k responses kept as rows
    (strategy ``multi_response``) the loss sums over all kn rows.

    A student's own predictive distribution at a point is its prediction plus noise with its
    residual variance (for weighted and generalised least squares: of a label whose working
    variance is the mean diagonal of V).

    Parameters
    ----------
    penalty : float, default 0.0
        Ridge penalty on the squared norm of the coefficients, against a sum-of-squares loss.
    fit_intercept : bool, default True
        Whether a free intercept is fitted.
    weights : (n,) array_like or "estimated", optional
        Positive weights, one per training input. ``"estimated"`` uses one over the empirical
        variance of the k responses at each input (needs more than 5 responses for a finite variance).
    covariance : (n, n) array_like or "teacher", optional
        Working covariance V of the labels; ``"teacher"`` takes the teacher's own covariance.
    training : GradientDescent, optional
        Train by gradient steps. Default: the exact minimiser.
    minimum_norm : bool, default False
        For inputs that do not determine the coefficients, take the solution of smallest norm
        instead of raising an error.
    residual_variance : {"unbiased", "mle"}, default "unbiased"
        Whether the student divides its residual sum of squares by the residual degrees of freedom
        or by the number of training rows.

    Raises
    ------
    ProblemError
        If a value is out of range, or options contradict each other.
    """

    penalty: float = 0.0
    fit_intercept: bool = True
    weights: NDArray[np.float64] | str | None = None
    covariance: NDArray[np.float64] | str | None = None
    training: GradientDescent | None = None
    minimum_norm: bool = False
    residual_variance: str = "unbiased"

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            *,
            penalty: float = 0.0,
            fit_intercept: bool = True,
            weights: ArrayLike | str | None = None,
            covariance: ArrayLike | str | None = None,
            training: GradientDescent | None = None,
            minimum_norm: bool = False,
            residual_variance: str = "unbiased",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", as_number("penalty", self.penalty, minimum=0.0))
        object.__setattr__(self, "fit_intercept", as_flag("fit_intercept", self.fit_intercept))
        object.__setattr__(self, "minimum_norm", as_flag("minimum_norm", self.minimum_norm))
        as_choice("residual_variance", self.residual_variance, ("unbiased", "mle"))
        if self.weights is not None and self.covariance is not None:
            raise invalid("weights", "not be given together with `covariance`", "both")
        if isinstance(self.weights, str):
            as_choice("weights", self.weights, ("estimated",))
        elif self.weights is not None:
            weights = as_array("weights", self.weights, ndim=1)
            if (weights <= 0).any():
                raise invalid(
                    "weights",
                    "be greater than 0",
                    f"{weights.min():g} at index {int(np.argmin(weights))}",
                )
            object.__setattr__(self, "weights", weights)
        if isinstance(self.covariance, str):
            as_choice("covariance", self.covariance, ("teacher",))
        elif self.covariance is not None:
            matrix = as_array("covariance", self.covariance, ndim=2)
            matrix = as_covariance("covariance", matrix, matrix.shape[0])
            smallest = float(np.linalg.eigvalsh(matrix)[0])
            if smallest <= 0:
                raise invalid("covariance", "be positive definite", f"smallest eigenvalue {smallest:.3g}")
            object.__setattr__(self, "covariance", matrix)
        if self.training is not None and not isinstance(self.training, GradientDescent):
            raise invalid("training", "be a GradientDescent or None", self.training)
        if self.training is not None and self.weights_are_estimated:
            raise invalid("weights", "be given as numbers when the student is trained by gradient descent", "estimated")
        if self.minimum_norm and (self.penalty > 0 or self.training is not None):
            raise invalid("minimum_norm", "be False with a penalty or gradient steps, which pick a solution", "True")

    @property
    def weights_are_estimated(self) -> bool:
        """Whether each student estimates its weights from its own responses."""
        return isinstance(self.weights, str)


ACTIVATIONS = ("relu", "tanh", "erf", "gelu")
HEADS = ("mean", "gaussian", "softmax")
OPTIMIZERS = ("adam", "adamw", "sgd")
PARAMETERIZATIONS = ("standard", "ntk")
#: What a module of the user's own says itself.
REPLACED_BY_MODULE = ("hidden", "activation", "parameterization", "weight_variance", "bias_variance", "dropout")
#: Weight and bias variance of normal first weights where not given.
NORMAL_VARIANCES = (2.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop training when the loss on held-out inputs no longer falls; keep the best parameters.

    After every epoch the loss is computed on the held-out rows, on which no gradient is taken. A student whose
    loss has not fallen below its lowest by more than ``min_improvement`` for ``patience`` epochs stops and goes
    back to the parameters of its best epoch; so does one that reaches its last epoch. Every student stops at a
    time of its own.

    Parameters
    ----------
    patience : int, default 10
        Epochs without improvement, at least 1.
    held_out : float, default 0.2
        Share of the labelled inputs that is held out, between 0 and 1; rounded up to whole inputs. The same
        inputs for all students, with the labels and as often as each student has them.
    min_improvement : float, default 0.0
        In units of the loss, at least 0.
    split_seed : int, default 0
        Which inputs: the first ones of the random order with this seed.
    """

    patience: int = 10
    held_out: float = 0.2
    min_improvement: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", as_count("patience", self.patience))
        object.__setattr__(self, "held_out", as_probability("held_out", self.held_out))
        improvement = as_number("min_improvement", self.min_improvement, minimum=0.0)
        object.__setattr__(self, "min_improvement", improvement)
        object.__setattr__(self, "split_seed", as_count("split_seed", self.split_seed, minimum=0))

    def n_held_out(self, n_inputs: int) -> int:
        """Return how many of n inputs are held out."""
        return math.ceil(self.held_out * n_inputs)

    def held_out_inputs(self, n_inputs: int) -> NDArray[np.bool_]:
        """Return which of n inputs are held out, shape (n,)."""
        held = np.zeros(n_inputs, dtype=bool)
        order = np.random.Generator(np.random.Philox(self.split_seed)).permutation(n_inputs)
        held[order[: self.n_held_out(n_inputs)]] = True
        return held


@dataclass(frozen=True, kw_only=True)
class NetworkStudent:
    r"""Feed-forward network on the teacher's labels.

    With the head ``mean`` the loss of a student is :math:`\frac{1}{nq}\sum_{i,j} (f_j(x_i) - y_{ij})^2` over n
    rows and q outputs, as PyTorch's ``mse_loss`` (no factor 1/2). One step of plain gradient descent with
    learning rate :math:`\eta` therefore moves the outputs at the inputs by
    :math:`-\frac{2\eta}{nq}\,\Theta\,(f - y)`, with :math:`\Theta` the tangent kernel. Resampled
    rows count as often as they were drawn; n is then the number of rows drawn.

    With the head ``gaussian`` the network has two outputs for each of the teacher's, a mean :math:`f` and the
    logarithm :math:`g` of a variance. The loss is the mean over rows and outputs of
    :math:`\frac12\left(g + (y - f)^2 e^{-g}\right)`, the negative log likelihood without its constant.

    With the head ``softmax`` the network has one output for each class, whose softmax is a probability. The loss
    is the mean over rows of the cross-entropy between a label and these probabilities. A label is the mean of the
    k one-hot responses, or the teacher's probabilities themselves (``soft_labels``). The cross-entropy is linear in
    the label, so that trained full batch, k responses kept as rows and their mean make the same student.

    Parameters
    ----------
    hidden : tuple of int, default (16,)
        Width of each hidden layer.
    head : {"mean", "gaussian", "softmax"}, default "mean"
        ``"mean"``: the student predicts a number, and the variance of its own outputs is that of its residuals.
        ``"gaussian"``: it predicts a mean and a variance at each point. ``"softmax"``: it predicts the
        probability of each class, for a CategoricalTeacher.
    activation : {"relu", "tanh", "erf", "gelu"}, default "relu"
        Activation of the hidden layers (``gelu`` is the exact one, by the error function).
    optimizer : {"adam", "adamw", "sgd"}, default "adam"
        Adam with its usual constants (.9, .999, 1e-8), or plain gradient descent.
    learning_rate : float, default 0.01
        Step size, greater than 0.
    epochs : int, default 200
        Passes over the rows; full-batch steps unless ``batch_size`` is given.
    batch_size : int, optional
        Rows in a mini-batch, on whose mean loss a step is taken. Before each epoch a student's rows are put in
        random order (source ``data_order``) and cut; the last batch may be smaller. Default: all rows.
    early_stopping : EarlyStopping, optional
        Default: train for all epochs.
    momentum : float, default 0.0
        Of ``sgd``, at least 0 and less than 1: the velocity v becomes ``momentum * v + gradient`` and moves
        the parameters by ``-learning_rate * v``. With another optimizer it must be 0.
    weight_decay : float, default 0.0
        At least 0. For ``sgd`` and ``adam`` this multiple of the parameters is added to the gradient; for
        ``adamw`` parameters shrink by ``learning_rate`` times it in each step, apart from the gradient.
        Biases decay too, as in PyTorch.
    dropout : float, default 0.0
        Probability with which each hidden unit is dropped, at least 0 and less than 1; the others count
        ``1/(1-dropout)`` times. In training every row of every step has a mask of its own (source ``data_order``;
        with it off all students share one sequence of masks). Held-out losses and predictions take all units. With
        the source ``student_output`` on, an output of a student is a pass with a new mask, and `intra_student` its
        variance over masks (plus what a head ``gaussian`` or ``softmax`` draws), in the place of that of residuals.
    parameterization : {"standard", "ntk"}, default "standard"
        ``"standard"``: a layer computes :math:`Wx + b`. ``"ntk"``: it computes
        :math:`\frac{\sigma_w}{\sqrt{\text{fan in}}} W x + \sigma_b b`, with trained parameters W and b
        that start as N(0, 1), in every layer.
    weight_variance, bias_variance : float, optional
        :math:`\sigma_w^2` and :math:`\sigma_b^2`; 2 and 0 (no bias) where one or none is given with ``"ntk"``.
        With ``"standard"``, if either is given, weights start as normal with variance :math:`\sigma_w^2` over
        fan in and biases as normal with variance :math:`\sigma_b^2` (the same 2 and 0 for the other); if
        neither is, both start as in PyTorch's ``Linear``, uniform within ``1/sqrt(fan_in)``.
    perturbation_sd : float, optional
        What the source ``student_initialization`` does. Default: every student draws first parameters of its own.
        With a number s, all students have one common draw w, and each starts from :math:`w(1 + \varepsilon)` with
        an :math:`\varepsilon \sim N(0, s^2)` of its own for each parameter.
    module : callable, optional
        A network of your own, in the place of ``hidden``, ``activation``, ``parameterization`` and the variances
        of its start: a function (or class) that is called with the numbers of inputs and outputs (two for each of the
        teacher's with the head ``gaussian``) and returns a new ``torch.nn.Module`` with first parameters of its own.
        It must treat rows apart, without batch normalisation or dropout of its own. Not in files.
    """

    hidden: tuple[int, ...] = field(default=(16,))
    head: str = "mean"
    activation: str = "relu"
    optimizer: str = "adam"
    learning_rate: float = 0.01
    epochs: int = 200
    batch_size: int | None = None
    early_stopping: EarlyStopping | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    dropout: float = 0.0
    parameterization: str = "standard"
    weight_variance: float | None = None
    bias_variance: float | None = None
    perturbation_sd: float | None = None
    module: Callable[[int, int], Any] | None = None

    def __post_init__(self) -> None:
        hidden: Any = self.hidden
        if isinstance(hidden, (str, bytes)) or not hasattr(hidden, "__iter__"):
            raise invalid("hidden", "be a tuple of layer widths", hidden)
        widths = tuple(as_count("hidden", width) for width in hidden)
        if not widths:
            raise invalid("hidden", "have at least one layer (use LinearStudent for none)", hidden)
        object.__setattr__(self, "hidden", widths)
        as_choice("head", self.head, HEADS)
        as_choice("activation", self.activation, ACTIVATIONS)
        as_choice("optimizer", self.optimizer, OPTIMIZERS)
        rate = as_number("learning_rate", self.learning_rate, minimum=0.0, exclusive=True)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "epochs", as_count("epochs", self.epochs))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", as_count("batch_size", self.batch_size))
        if self.early_stopping is not None and not isinstance(self.early_stopping, EarlyStopping):
            raise invalid("early_stopping", "be an EarlyStopping or None", self.early_stopping)
        if self.module is not None:
            self._check_module()
        object.__setattr__(self, "momentum", as_number("momentum", self.momentum, minimum=0.0))
        if self.momentum >= 1.0:
            raise invalid("momentum", "be less than 1", self.momentum)
        if self.momentum > 0.0 and self.optimizer != "sgd":
            raise invalid("momentum", "be 0 unless optimizer is 'sgd'", self.momentum)
        object.__setattr__(self, "weight_decay", as_number("weight_decay", self.weight_decay, minimum=0.0))
        object.__setattr__(self, "dropout", as_number("dropout", self.dropout, minimum=0.0))
        if np.float32(self.dropout) >= 1.0:
            raise invalid("dropout", "be less than 1 in float32", self.dropout)
        self._set_initialization()

    def _check_module(self) -> None:
        if not callable(self.module) or not hasattr(self.module, "__qualname__"):
            raise invalid("module", "be a function or class that returns a torch.nn.Module", self.module)
        for item in fields(self):
            if item.name in REPLACED_BY_MODULE and getattr(self, item.name) != item.default:
                raise invalid(item.name, "be left out with a `module`, which takes its place", getattr(self, item.name))

    @property
    def module_name(self) -> str | None:
        """Where a network of the user's own is defined."""
        return None if self.module is None else f"{self.module.__module__}.{self.module.__qualname__}"

    def _set_initialization(self) -> None:
        as_choice("parameterization", self.parameterization, PARAMETERIZATIONS)
        if self.parameterization == "ntk" or self.weight_variance is not None or self.bias_variance is not None:
            for name, default in zip(("weight_variance", "bias_variance"), NORMAL_VARIANCES, strict=True):
                given = getattr(self, name)
                value = default if given is None else as_number(name, given, minimum=0.0)
                object.__setattr__(self, name, value)
        if self.perturbation_sd is not None:
            spread = as_number("perturbation_sd", self.perturbation_sd, minimum=0.0)
            object.__setattr__(self, "perturbation_sd", spread)
        if self.weight_variance == 0.0:
            raise invalid("weight_variance", "be greater than 0", self.weight_variance)
