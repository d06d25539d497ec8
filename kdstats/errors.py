"""Errors and warnings: one root, one family per stage.

Every message says which parameter broke which rule with which value, so that a user can act
without reading a traceback. Nothing here depends on any other module of the package.
"""

from __future__ import annotations

__all__ = [
    "ApproximationWarning",
    "ComparisonError",
    "ConvergenceWarning",
    "DataError",
    "DependentStudentsWarning",
    "DivergedStudentError",
    "DuplicateStudentsError",
    "EstimationError",
    "IgnoredColumnsWarning",
    "KdstatsError",
    "KdstatsWarning",
    "MissingCompilerWarning",
    "MissingDependencyError",
    "MisstatedNoiseWarning",
    "NegativeComponentWarning",
    "NotIdentifiedWarning",
    "ObservationError",
    "PrecisionWarning",
    "PredictionError",
    "ProblemError",
    "RankDeficientError",
    "StudyError",
    "UnsupportedProblemError",
    "invalid",
]


class KdstatsError(Exception):
    """Root of every error that kdstats raises on purpose."""


class ProblemError(KdstatsError, ValueError):
    """A teacher, student, design or argument breaks a rule."""


class RankDeficientError(ProblemError):
    """The training inputs do not determine the student's coefficients."""


class DataError(KdstatsError, ValueError):
    """A table or file cannot be read as what it is said to be."""


class StudyError(KdstatsError, ValueError):
    """A study file or an output folder cannot be used."""


class PredictionError(KdstatsError, ValueError):
    """A prediction cannot be computed."""


class UnsupportedProblemError(PredictionError):
    """The engine asked for has no answer to this problem; the message names one that has."""


class ObservationError(KdstatsError, ValueError):
    """Students could not be trained as asked."""


class DuplicateStudentsError(ObservationError):
    """Two or more students that should be independent gave the same predictions."""


class DivergedStudentError(ObservationError):
    """Training left the finite numbers."""


class EstimationError(KdstatsError, ValueError):
    """Replicate predictions do not identify the components asked for."""


class ComparisonError(KdstatsError, ValueError):
    """A prediction and an observation cannot be compared."""


class MissingDependencyError(KdstatsError, ImportError):
    """An optional library is not installed; the message has the pip command."""


class KdstatsWarning(UserWarning):
    """Root of every warning that kdstats gives."""


class PrecisionWarning(KdstatsWarning):
    """Fewer digits than usual can be trusted; the message says how many."""


class NegativeComponentWarning(KdstatsWarning):
    """An unbiased variance component came out negative and was left so."""


class NotIdentifiedWarning(KdstatsWarning):
    """The data identify a part of the answer only; the rest is NaN and named."""


class IgnoredColumnsWarning(KdstatsWarning):
    """Columns of a table are neither keys nor outputs and were left out; the message names them."""


class DependentStudentsWarning(KdstatsWarning):
    """Students that a test takes for independent share random draws."""


class MisstatedNoiseWarning(KdstatsWarning):
    """Students are told a noise variance that their labels do not have."""


class ConvergenceWarning(KdstatsWarning):
    """A component rests on Markov chains, or weights, that fail their diagnostics; it is marked unreliable."""


class MissingCompilerWarning(KdstatsWarning):
    """A library runs without the compiler that makes it fast."""


class ApproximationWarning(KdstatsWarning):
    """An approximation is used outside the regime in which it is known to hold."""


def invalid(parameter: str, rule: str, value: object, error: type[KdstatsError] = ProblemError) -> KdstatsError:
    """Build the error that names parameter, rule and value.

    Parameters
    ----------
    parameter : str
        Name of the argument as the user wrote it.
    rule : str
        What must hold, as the words after "must".
    value : object
        What was given, or a short description of it.
    error : type, optional
        Class of the error.

    Returns
    -------
    KdstatsError
        To be raised by the caller.
    """
    shown = value if isinstance(value, str) else repr(value)
    if len(shown) > 120:
        shown = shown[:117] + "..."
    return error(f"`{parameter}` must {rule}; got {shown}")
