"""How far a long run has come: a bar on stderr, or a function of the caller's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from kdstats.errors import invalid

__all__ = ["Progress", "ProgressLike"]

ProgressLike = bool | Callable[[int, int], object] | None

#: Seconds after which a terminal is shown progress that nobody asked for.
PATIENCE = 2.0


class Progress:
    """Progress over students, as a context manager.

    Parameters
    ----------
    progress : bool, callable or None
        True shows a bar on stderr, False nothing. None shows one if stderr is a terminal and the run
        lasts more than two seconds. A callable is told the numbers of students done and asked for.

    Raises
    ------
    ProblemError
        If ``progress`` is anything else.
    """

    def __init__(self, progress: ProgressLike) -> None:
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise invalid("progress", "be True, False, None or a function", progress)
        self._function = progress if callable(progress) else None
        self._wanted = bool(progress) or (progress is None and sys.stderr.isatty())
        self._from = time.perf_counter() + (PATIENCE if progress is None else 0.0)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` students are finished."""
        if self._function is not None:
            self._function(done, total)
        elif self._wanted and time.perf_counter() >= self._from:
            self._draw(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            console = Console(stderr=True)
            self._bar = Bar(console=console, transient=console.is_terminal)
            self._task = self._bar.add_task("students", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
