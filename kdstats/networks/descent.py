"""Optimisers of stacked parameters, in PyTorch's order of operations.

They work element by element, so that one step moves every student of a stack. ``torch.optim`` would do the same, but
loads its compiler first, which takes longer than training most students.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kdstats.problem.student import NetworkStudent

__all__ = ["BETA1", "BETA2", "EPSILON", "Optimizer"]

#: Adam's usual constants.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Optimizer:
    """Plain or accelerated gradient descent, Adam or AdamW, as a student says.

    Parameters
    ----------
    student : NetworkStudent
    parameters : sequence of tensors
        Moved in place.
    """

    def __init__(self, student: NetworkStudent, parameters: Sequence[torch.Tensor]) -> None:
        self.student, self.parameters, self.n_steps = student, [p.detach() for p in parameters], 0
        self.means = [torch.zeros_like(p) for p in self.parameters]
        adaptive = student.optimizer != "sgd"
        self.squares = [torch.zeros_like(p) for p in self.parameters] if adaptive else []

    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Take one step."""
        decay, rate = self.student.weight_decay, self.student.learning_rate
        self.n_steps += 1
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if decay and self.student.optimizer == "adamw":
                parameter.mul_(1.0 - rate * decay)
            elif decay:
                gradient = gradient.add(parameter, alpha=decay)
            if self.squares:
                self._adapt(parameter, gradient, self.means[index], self.squares[index])
            elif self.student.momentum:
                velocity = self.means[index].mul_(self.student.momentum).add_(gradient)
                parameter.add_(velocity, alpha=-rate)
            else:
                parameter.add_(gradient, alpha=-rate)

    def _adapt(self, parameter: torch.Tensor, gradient: torch.Tensor, mean: torch.Tensor, square: torch.Tensor) -> None:
        mean.lerp_(gradient, 1.0 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
        size = self.student.learning_rate / (1.0 - BETA1**self.n_steps)
        scale = (square.sqrt() / math.sqrt(1.0 - BETA2**self.n_steps)).add_(EPSILON)
        parameter.addcdiv_(mean, scale, value=-size)
