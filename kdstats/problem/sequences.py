"""Teachers that answer with sequences of tokens, one after another: tables of next-token probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, xlogy

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.validation import as_array, as_count, frozen

__all__ = ["SequenceTeacher"]

FloatArray = NDArray[np.float64]

#: Doublings of the time over which a chain's state is averaged: 2^64 tokens.
DOUBLINGS = 64


@dataclass(frozen=True, eq=False)
class SequenceTeacher:
    r"""Teacher whose answer to a prompt is a sequence of L tokens out of C, the next one depending on the last.

    The probability of a sequence is the product of conditionals
    :math:`p(x) = p_1(x_1)\prod_{t=2}^L p_t(x_t\mid x_{t-1})`. An end of sequence is a token that is followed by itself
    alone: it adds nothing to any entropy.

    Parameters
    ----------
    initial : array_like, shape (C,)
        Probabilities of the first token.
    transition : array_like, shape (C, C) or (L - 1, C, C)
        Row a has the probabilities of the token after a; of each position, or the same for all.
    length : int, optional
        L, at least 1; needed with one transition for all positions.

    Raises
    ------
    ProblemError
        If rows are no probabilities (see :class:`CategoricalTeacher`) or shapes do not fit.

    Examples
    --------
    >>> import kdstats as kd
    >>> teacher = kd.SequenceTeacher([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], length=3)
    >>> teacher.token_entropies.round(3)
    array([0.693, 0.413, 0.404])
    >>> round(teacher.entropy, 3), round(teacher.entropy_rate, 3)
    (1.51, 0.384)
    """

    initial: FloatArray
    transition: FloatArray
    length: int = field(default=None, kw_only=True)  # type: ignore[assignment]

    if TYPE_CHECKING:

        def __init__(self, initial: ArrayLike, transition: ArrayLike, *, length: int | None = None) -> None: ...

    def __post_init__(self) -> None:
        first = as_array("initial", self.initial, ndim=1)
        object.__setattr__(self, "initial", _rows("initial", first[None])[0])
        n_tokens = len(first)
        table = as_array("transition", self.transition, ndim=(2, 3))
        if table.shape[-2:] != (n_tokens, n_tokens):
            raise invalid("transition", f"have {n_tokens} rows and columns, as initial has", f"shape {table.shape}")
        rows = _rows("transition", table.reshape(-1, n_tokens)).reshape(table.shape)
        object.__setattr__(self, "transition", frozen(rows))
        if table.ndim == 3:
            if self.length is not None and self.length != len(table) + 1:
                raise invalid("length", f"be {len(table) + 1}, or left out, with {len(table)} transitions", self.length)
            object.__setattr__(self, "length", len(table) + 1)
        elif self.length is None:
            raise invalid("length", "be given with one transition for all positions", None)
        else:
            object.__setattr__(self, "length", as_count("length", self.length))

    @property
    def n_tokens(self) -> int:
        """Number of tokens, C."""
        return len(self.initial)

    def step(self, position: int) -> FloatArray:
        """Return the probabilities of the token at a position (1 to L - 1, counted from 0) after each token, (C, C)."""
        return self.transition if self.transition.ndim == 2 else np.asarray(self.transition[position - 1])

    @property
    def marginals(self) -> FloatArray:
        """Probability of each token at each position, shape (L, C)."""
        found = [self.initial]
        for position in range(1, self.length):
            found.append(found[-1] @ self.step(position))
        return frozen(np.array(found))

    @property
    def token_entropies(self) -> FloatArray:
        """Entropy of each token given those before it, in nats, shape (L,). Their sum is the sequence's."""
        later = [
            state @ entr(self.step(position)).sum(axis=1)
            for position, state in zip(range(1, self.length), self.marginals, strict=False)
        ]
        return frozen([entr(self.initial).sum(), *later])

    @property
    def entropy(self) -> float:
        """Entropy of a sequence in nats: the sum over tokens, by the chain rule."""
        return float(self.token_entropies.sum())

    @property
    def entropy_rate(self) -> float:
        """Entropy per token of an endless sequence, in nats.

        The average over the long run of states, from the initial one; whatever the chain's classes and periods.

        Raises
        ------
        UnsupportedProblemError
            If transitions depend on the position.
        """
        if self.transition.ndim == 3:
            raise UnsupportedProblemError("the entropy rate needs one transition for all positions; got one for each")
        power, state = self.transition, self.initial
        for _ in range(DOUBLINGS):
            state = 0.5 * (state + state @ power)
            power = power @ power
            power = power / power.sum(axis=1, keepdims=True)
        return float(state @ entr(self.transition).sum(axis=1))

    @property
    def gini(self) -> float:
        """Probability that two sequences differ."""
        state = self.initial**2
        for position in range(1, self.length):
            state = state @ self.step(position) ** 2
        return float(1.0 - state.sum())

    def log_probability(self, sequences: ArrayLike) -> FloatArray:
        """Return the logarithm of the probability of sequences of tokens 0 to C - 1, shape (..., L)."""
        tokens = np.asarray(sequences)
        if tokens.shape[-1:] != (self.length,) or tokens.dtype.kind not in "iu":
            raise invalid("sequences", f"be integers of shape (..., {self.length})", f"{tokens.dtype} {tokens.shape}")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.n_tokens):
            raise invalid(
                "sequences", f"hold tokens from 0 to {self.n_tokens - 1}", f"{tokens.min()} to {tokens.max()}"
            )
        found = xlogy(1.0, self.initial)[tokens[..., 0]]
        for position in range(1, self.length):
            found = found + xlogy(1.0, self.step(position))[tokens[..., position - 1], tokens[..., position]]
        return np.asarray(found)

    def visit_law(self, token: int, *, n_responses: int = 1) -> FloatArray:
        """Return the law of how often a token is followed by another in k sequences: 0 to k (L - 1) times.

        So often a student that shares one table between all positions sees an example of what comes after it.

        Parameters
        ----------
        token : int
        n_responses : int, default 1
            Independent sequences, k.
        """
        token, k = as_count("token", token, minimum=0), as_count("n_responses", n_responses)
        if token >= self.n_tokens:
            raise invalid("token", f"be at most {self.n_tokens - 1}", token)
        law = np.zeros((self.length, self.n_tokens))  # visits so far, current token
        law[0] = self.initial
        for position in range(1, self.length):
            here = law[:, token].copy()
            law[:, token] = 0.0
            moved = law @ self.step(position)
            moved[1:] += np.outer(here[:-1], self.step(position)[token])
            law = moved
        one, found = law.sum(axis=1), np.ones(1)
        for _ in range(k):
            found = np.convolve(found, one)
        return frozen(found)

    def at_temperature(self, temperature: float) -> SequenceTeacher:
        """Return the teacher that samples every token at another temperature."""
        rows = np.vstack([self.initial, self.transition.reshape(-1, self.n_tokens)])
        heated = CategoricalTeacher(rows).at_temperature(temperature).probabilities
        return replace(self, initial=heated[0], transition=heated[1:].reshape(self.transition.shape))


def _rows(name: str, rows: FloatArray) -> FloatArray:
    """Return rows of probabilities, checked as a categorical teacher's."""
    try:
        return CategoricalTeacher(rows).probabilities
    except ValueError as error:
        raise type(error)(str(error).replace("`probabilities`", f"`{name}`")) from None
