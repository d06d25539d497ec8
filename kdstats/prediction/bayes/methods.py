"""How posteriors are computed: samplers, approximations, reweighting."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdstats.errors import invalid
from kdstats.problem.validation import as_choice, as_count, as_number, as_probability

__all__ = ["ADVI", "NUTS", "Approximation", "Laplace", "Method", "Pathfinder", "Reweighting", "as_method"]

SAMPLERS = ("pymc", "nutpie", "numpyro")


@dataclass(frozen=True, kw_only=True)
class NUTS:
    """Hamiltonian Monte Carlo of all students in one model.

    Parameters
    ----------
    draws, tune : int, default 500
        Draws kept and spent on adaptation, per chain.
    chains : int, default 4
        With one chain R-hat says little, and every component is marked unreliable.
    target_accept : float, default 0.8
    sampler : {"pymc", "nutpie", "numpyro"}, default "pymc"
        The others come with ``pip install "kdstats[samplers]"``.
    cores : int, default 1
    """

    draws: int = 500
    tune: int = 500
    chains: int = 4
    target_accept: float = 0.8
    sampler: str = "pymc"
    cores: int = 1

    def __post_init__(self) -> None:
        as_count("draws", self.draws, minimum=20)
        as_count("tune", self.tune, minimum=0)
        as_count("chains", self.chains)
        as_count("cores", self.cores)
        as_probability("target_accept", self.target_accept)
        as_choice("sampler", self.sampler, SAMPLERS)


@dataclass(frozen=True, kw_only=True)
class ADVI:
    """Mean-field variational inference: independent normals, which miss the correlation of parameters.

    Parameters
    ----------
    n_steps : int, default 20000
        Stochastic gradient steps.
    draws : int, default 2000
        Draws from the fitted normals.
    learning_rate : float, default 0.02
    """

    n_steps: int = 20_000
    draws: int = 2000
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        as_count("n_steps", self.n_steps, minimum=100)
        as_count("draws", self.draws, minimum=20)
        as_number("learning_rate", self.learning_rate, minimum=0.0, exclusive=True)


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """A normal at the mode, with the curvature there.

    Parameters
    ----------
    draws : int, default 2000
    """

    draws: int = 2000

    def __post_init__(self) -> None:
        as_count("draws", self.draws, minimum=20)


@dataclass(frozen=True, kw_only=True)
class Pathfinder:
    """Normals along the paths of an optimiser, the best of each path; needs ``pip install "kdstats[samplers]"``.

    Every student is fitted by itself: the few directions of curvature that the optimiser knows are not shared out.

    Parameters
    ----------
    draws : int, default 1000
        Draws kept of each student.
    paths : int, default 4
        Paths from different starts.
    resampling : {"psis", "none"}, default "psis"
        Whether draws are resampled by Pareto-smoothed weights, which gives back some of what the normals lack.

    References
    ----------
    Zhang, L., Carpenter, B., Gelman, A. & Vehtari, A. (2022), J. Mach. Learn. Res. 23.
    """

    draws: int = 1000
    paths: int = 4
    resampling: str = "psis"

    def __post_init__(self) -> None:
        as_count("draws", self.draws, minimum=20)
        as_count("paths", self.paths)
        as_choice("resampling", self.resampling, ("psis", "none"))


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """One fit, to a pilot's labels; every student's posterior is a weighted sample from a proposal made of it.

    Pareto-smoothed importance sampling: the proposal is moved by what the labels are known to differ by, then by
    moment matching where that is not enough.

    Parameters
    ----------
    nuts : NUTS, optional
        How the pilot is fitted.
    refit : bool, default False
        Sample the students whose k-hat is bad, instead of returning the answer marked unreliable.
    n_rounds : int, default 10
        Largest number of rounds of moment matching. 0: plain weights, nothing is moved.
    draws : int, default 2048
        Weighted draws of each student: a power of 2, at least 512.
    """

    nuts: NUTS = field(default_factory=NUTS)
    refit: bool = False
    n_rounds: int = 10
    draws: int = 2048

    def __post_init__(self) -> None:
        if not isinstance(self.nuts, NUTS):
            raise invalid("nuts", "be a NUTS", self.nuts)
        as_count("n_rounds", self.n_rounds, minimum=0)
        if as_count("draws", self.draws, minimum=512).bit_count() != 1:
            raise invalid("draws", "be a power of 2, which the points of the sequence need", self.draws)


Approximation = ADVI | Laplace | Pathfinder
Method = NUTS | Approximation | Reweighting
NAMES: dict[str, type[Method]] = {
    "nuts": NUTS,
    "advi": ADVI,
    "laplace": Laplace,
    "pathfinder": Pathfinder,
    "reweighting": Reweighting,
}


def as_method(value: object) -> Method:
    """Return the method that a name or an object stands for."""
    if isinstance(value, NUTS | ADVI | Laplace | Pathfinder | Reweighting):
        return value
    if isinstance(value, str) and value in NAMES:
        return NAMES[value]()
    raise invalid("method", f"be one of {', '.join(NAMES)}, or an object such as NUTS(draws=1000)", value)
