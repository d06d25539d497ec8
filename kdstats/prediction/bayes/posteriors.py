"""Draws from the posteriors of many students, by NUTS or by an approximation, as one InferenceData."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.errors import MissingDependencyError, PredictionError
from kdstats.prediction.bayes.libraries import az, pm, warn_without_compiler
from kdstats.prediction.bayes.methods import ADVI, NUTS, Approximation, Laplace, Pathfinder
from kdstats.prediction.bayes.stacks import Stack

__all__ = ["draws_of", "quiet", "sample"]

FloatArray = NDArray[np.float64]

#: Step of the central differences behind a Laplace approximation, relative to the scale of a coordinate.
STEP = 1e-4


def sample(stack: Stack, method: NUTS | Approximation, *, seed: int) -> az.InferenceData:
    """Return posterior draws of every student of a stack, with named variables, dims and coords."""
    if not isinstance(method, NUTS) or method.sampler == "pymc":
        warn_without_compiler()
    with quiet():
        if isinstance(method, NUTS):
            data = _nuts(stack, method, seed)
        elif isinstance(method, ADVI):
            data = _advi(stack, method, seed)
        elif isinstance(method, Pathfinder):
            data = _pathfinder(stack, method, seed)
        else:
            data = _laplace(stack, method, seed)
        return _with_derived(data, stack)


def draws_of(data: az.InferenceData) -> dict[str, FloatArray]:
    """Return the posterior as arrays (chain, draw, student, ...)."""
    return {str(name): np.asarray(array.values) for name, array in data.posterior.data_vars.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own messages off the user's screen: the diagnostics here say what they would."""
    logger = logging.getLogger("pymc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _nuts(stack: Stack, method: NUTS, seed: int) -> az.InferenceData:
    if method.sampler != "pymc":
        _require(method.sampler, f"sampler {method.sampler!r}", "leave `sampler` at 'pymc'")
    with stack.model():
        try:
            data = pm.sample(
                draws=method.draws,
                tune=method.tune,
                chains=method.chains,
                cores=min(method.cores, method.chains),
                target_accept=method.target_accept,
                nuts_sampler=method.sampler,
                random_seed=seed,
                progressbar=False,
                compute_convergence_checks=False,
            )
            unconstrained = [name for name in data.posterior.data_vars if str(name).endswith("__")]
            data.posterior = data.posterior.drop_vars(unconstrained)  # nutpie keeps them
            return data
        except pm.exceptions.SamplingError as error:
            raise PredictionError(
                f"the students' model must have a finite density to start from; got {_first(error)}"
            ) from None


def _require(package: str, wanted: str, instead: str) -> None:
    """Refuse what a package is missing for."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise MissingDependencyError(
            f"{wanted} needs {package}, which is not installed: pip install {package}, or "
            f'pip install "kdstats[samplers]" for all of them (or {instead})'
        )


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _advi(stack: Stack, method: ADVI, seed: int) -> az.InferenceData:
    with stack.model():
        fitted = pm.fit(
            method.n_steps,
            method="advi",
            random_seed=seed,
            progressbar=False,
            obj_optimizer=pm.adam(learning_rate=method.learning_rate),
        )
        return fitted.sample(method.draws, random_seed=seed)


def _pathfinder(stack: Stack, method: Pathfinder, seed: int) -> az.InferenceData:
    _require("pymc-extras", "method Pathfinder", "choose Laplace")
    import pymc_extras

    seeds = np.random.SeedSequence(seed).generate_state(stack.n_students)
    found = []
    for student in range(stack.n_students):
        with stack.take([student]).model():
            data = pymc_extras.fit_pathfinder(
                num_paths=method.paths,
                num_draws=method.draws,
                num_draws_per_path=method.draws,
                importance_sampling="psis" if method.resampling == "psis" else None,
                concurrent=None,
                random_seed=int(seeds[student]),
                progressbar=False,
                display_summary=False,
                add_pathfinder_groups=False,
            )
        found.append(data.posterior.assign_coords(student=[student]))
    return az.InferenceData(posterior=xr.concat(found, dim="student").transpose("chain", "draw", "student", ...))


def _laplace(stack: Stack, method: Laplace, seed: int) -> az.InferenceData:
    """Find the mode of all students together; one pair of gradients per coordinate gives every student's curvature."""
    model = stack.model()
    with model:
        mode = pm.find_MAP(progressbar=False, include_transformed=True)
    gradient = model.compile_fn(model.dlogp(), inputs=model.value_vars, point_fn=False)
    names = [variable.name for variable in model.value_vars]
    sizes = [int(np.prod(mode[name].shape[1:])) for name in names]
    flat = np.hstack([np.asarray(mode[name]).reshape(stack.n_students, -1) for name in names])
    shapes = [mode[name].shape for name in names]

    def point(values: FloatArray) -> dict[str, FloatArray]:
        parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
        return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

    def slope(values: FloatArray) -> FloatArray:
        parts = point(values)
        grad, first = gradient(*(parts[name] for name in names)), 0
        blocks = []
        for shape in shapes:
            count = int(np.prod(shape))
            blocks.append(np.asarray(grad[first : first + count]).reshape(stack.n_students, -1))
            first += count
        return np.hstack(blocks)

    width = flat.shape[1]
    hessian = np.empty((stack.n_students, width, width))
    for j in range(width):
        step = np.zeros_like(flat)
        step[:, j] = STEP * np.maximum(1.0, np.abs(flat[:, j]))
        hessian[:, j] = (slope(flat + step) - slope(flat - step)) / (2.0 * step[:, j, None])
    precision = -0.5 * (hessian + hessian.swapaxes(1, 2))
    try:
        lower = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        raise PredictionError(
            "`method` must be one other than Laplace here; got a posterior without negative curvature at its mode"
        ) from None
    noise = np.random.Generator(np.random.Philox(seed)).standard_normal((method.draws, stack.n_students, width))
    moves = np.linalg.solve(lower.swapaxes(1, 2), noise[..., None])[..., 0]
    return _constrained(model, [point(flat + move) for move in moves], stack)


def _constrained(model: pm.Model, points: list[dict[str, FloatArray]], stack: Stack) -> az.InferenceData:
    """Return draws of the named variables from points on the unconstrained scale."""
    outputs = model.unobserved_value_vars
    back = model.compile_fn(outputs, inputs=model.value_vars, point_fn=False)
    names = [variable.name for variable in model.value_vars]
    kept = [variable.name for variable in outputs]
    draws: dict[str, list[FloatArray]] = {name: [] for name in kept}
    for point in points:
        for name, array in zip(kept, back(*(point[name] for name in names)), strict=True):
            draws[name].append(array)
    wanted = {name: np.stack(arrays)[None] for name, arrays in draws.items() if name not in names}
    wanted |= {v.name: np.stack(draws[v.name])[None] for v in model.free_RVs if v.name in draws}
    dims = {name: list(model.named_vars_to_dims[name]) for name in wanted}
    used = {dim for listed in dims.values() for dim in listed}
    coords = {"student": np.arange(stack.n_students), **{key: list(value) for key, value in stack.coords.items()}}
    return az.from_dict(posterior=wanted, dims=dims, coords={key: coords[key] for key in coords if key in used})


def _with_derived(data: az.InferenceData, stack: Stack) -> az.InferenceData:
    """Add the quantities a user asks for by name, computed from the draws."""
    coords = {"student": data.posterior.coords["student"], **{key: list(value) for key, value in stack.coords.items()}}
    for name, (dims, array) in stack.derived(draws_of(data)).items():
        labels = {dim: coords[dim] for dim in dims if dim in coords}
        data.posterior[name] = (("chain", "draw", *dims), array)
        data.posterior = data.posterior.assign_coords(labels)
    return data
