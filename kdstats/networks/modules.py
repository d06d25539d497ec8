r"""Networks that a user wrote: any ``torch.nn.Module``, trained in stacks where torch can, else one by one.

A module is looked at once, before any training: what it returns, whether it gives the same output twice, whether
it treats every row by itself, and whether :func:`torch.func.vmap` can run it for several students at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, vmap

from kdstats.errors import KdstatsError, invalid

__all__ = ["ModuleStack", "UserModule", "inspect_module"]

Float32Array = NDArray[np.float32]

#: Rows and students with which a module is tried.
PROBE_ROWS, PROBE_STUDENTS = 6, 3
#: Relative difference of float32 results that is put down to rounding.
ROUNDING = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class UserModule:
    """A module that can be trained for many students.

    Attributes
    ----------
    factory : callable
        Of numbers of inputs and outputs, returns a new module with first parameters of its own.
    template : torch.nn.Module
        One module, whose parameters are replaced by those of the students.
    names : tuple of str
        Of its parameters.
    n_features, n_outputs : int
    units : int
        Numbers that its layers return for a row.
    obstacle : str
        Why torch cannot run several students at once; empty if it can.
    """

    factory: Callable[[int, int], Any]
    template: torch.nn.Module
    names: tuple[str, ...]
    n_features: int
    n_outputs: int
    units: int = 0
    obstacle: str = ""

    @property
    def n_parameters(self) -> int:
        """Number of parameters of one module."""
        return sum(parameter.numel() for parameter in self.template.parameters())

    def draw(self, generator: np.random.Generator, *, n_students: int) -> tuple[Float32Array, ...]:
        """Make modules anew, each from a seed of its own, and return their parameters, shapes (n_students, ...)."""
        drawn = []
        for seed in generator.integers(2**63, size=n_students):
            module = _made(self.factory, self.n_features, self.n_outputs, int(seed))
            drawn.append([parameter.detach().numpy() for parameter in module.parameters()])
        return tuple(np.stack(parts) for parts in zip(*drawn, strict=True))


class ModuleStack:
    """Stacked parameters of some students and the pass from inputs to outputs.

    Attributes
    ----------
    parameters : list of tensors
        In the order of the module, shapes (C, ...).
    """

    def __init__(self, module: UserModule, parameters: tuple[Float32Array, ...] | list[Float32Array]) -> None:
        self.module, self.template = module, copy.deepcopy(module.template)
        self.parameters = [torch.tensor(part) for part in parameters]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs (C, rows, q) at inputs that all students share (rows, p), or of their own (C, rows, p)."""
        is_own = inputs.ndim == 3
        if not self.module.obstacle:
            return torch.as_tensor(vmap(self._one, in_dims=(0, 0 if is_own else None))(tuple(self.parameters), inputs))
        students = range(self.parameters[0].shape[0])
        return torch.stack(
            [self._one(tuple(p[s] for p in self.parameters), inputs[s] if is_own else inputs) for s in students]
        )

    def _one(self, parameters: tuple[torch.Tensor, ...], inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.module.names, parameters, strict=True))
        return torch.as_tensor(functional_call(self.template, named, (inputs,)))

    def arrays(self) -> tuple[Float32Array, ...]:
        """Return the parameters."""
        return tuple(parameter.detach().numpy() for parameter in self.parameters)


def inspect_module(factory: Callable[[int, int], Any], *, n_features: int, n_outputs: int) -> UserModule:
    """Make a module and look at it.

    Raises
    ------
    ProblemError
        If the factory returns no module, or one that kdstats cannot train: without parameters or not in float32,
        with batch normalisation or another mixing of rows, with randomness of its own, with outputs of another shape.
    """
    module = _made(factory, n_features, n_outputs, 0)
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            raise invalid(
                "module",
                "treat every row by itself (batch normalisation mixes the rows of a batch: use LayerNorm)",
                f"{type(part).__name__} at {name or 'the top'!r}",
            )
    if not list(module.parameters()):
        raise invalid("module", "have parameters to train", f"{type(module).__name__} without any")
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise invalid("module", "have float32 parameters", f"{parameter.dtype} in {name!r}")
    units = _probe(module, n_features, n_outputs)
    names = tuple(name for name, _ in module.named_parameters())
    known = UserModule(
        factory=factory, template=module, names=names, n_features=n_features, n_outputs=n_outputs, units=units
    )
    return UserModule(**{**vars(known), "obstacle": _obstacle(known)})


def _made(factory: Callable[[int, int], Any], n_features: int, n_outputs: int, seed: int) -> torch.nn.Module:
    """Call the factory with torch's generator at a seed, and put the generator back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = factory(n_features, n_outputs)
    if not isinstance(module, torch.nn.Module):
        raise invalid("module", "return a torch.nn.Module", f"a {type(module).__name__}")
    return module


def _probe_rows(n_features: int) -> torch.Tensor:
    return torch.randn(PROBE_ROWS, n_features, generator=torch.Generator().manual_seed(1))


def _probe(module: torch.nn.Module, n_features: int, n_outputs: int) -> int:
    """Refuse outputs of another shape, of chance or of the company of other rows; count what layers return."""
    rows, units = _probe_rows(n_features), 0

    def count(layer: torch.nn.Module, _: Any, output: Any) -> None:
        nonlocal units
        if not list(layer.children()) and isinstance(output, torch.Tensor):
            units += output.numel() // PROBE_ROWS

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    outputs = _outputs(module, rows, seed=1)
    for hook in hooks:
        hook.remove()
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
    if shape != (PROBE_ROWS, n_outputs):
        raise invalid(
            "module",
            f"turn rows of {n_features} inputs into rows of {n_outputs} outputs",
            f"shape {shape} for {PROBE_ROWS} rows",
        )
    if not torch.allclose(outputs, _outputs(module, rows, seed=2), rtol=0.0, atol=0.0, equal_nan=True):
        raise invalid(
            "module",
            "give the same outputs for the same inputs and parameters (take out dropout and other noise; "
            "`NetworkStudent(dropout=...)` has dropout of its own)",
            f"a {type(module).__name__} that does not",
        )
    if not torch.allclose(outputs[:2], _outputs(module, rows[:2], seed=1), ROUNDING, ROUNDING, equal_nan=True):
        raise invalid(
            "module", "treat every row by itself", f"a {type(module).__name__} whose outputs depend on other rows"
        )
    return units


def _outputs(module: torch.nn.Module, rows: torch.Tensor, *, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            return module(rows)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            first = str(error).partition("\n")[0]
            raise invalid("module", f"accept rows of {rows.shape[1]} inputs", f"an error: {first}") from None


def _obstacle(module: UserModule) -> str:
    """Return why torch cannot run several students at once, or that its answers differ; empty if it can."""
    parameters = module.draw(np.random.default_rng(0), n_students=PROBE_STUDENTS)
    rows = _probe_rows(module.n_features)
    with torch.no_grad():
        single = ModuleStack(UserModule(**{**vars(module), "obstacle": "not yet tried"}), parameters)(rows)
        try:
            stacked = ModuleStack(module, parameters)(rows)
        except (RuntimeError, NotImplementedError, ValueError, KdstatsError) as error:
            return str(error).partition("\n")[0]
    if torch.allclose(single, stacked, rtol=ROUNDING, atol=ROUNDING, equal_nan=True):
        return ""
    return "its outputs differ when students are stacked"
