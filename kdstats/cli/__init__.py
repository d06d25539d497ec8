"""Command line: one sub-command per verb."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run ``kdstats``."""
    from kdstats.cli.application import run

    run()
