"""A plan on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdstats.cli.flags import in_flags
from kdstats.errors import KdstatsError
from kdstats.files import write_atomically
from kdstats.planning import plan

__all__ = ["plan_study"]

#: What `kdstats.plan` calls a target is another flag here: ``--target`` is a column.
GOAL = {"target": "--goal"}


def plan_study(study: Any, *, out: Path | None, as_json: bool, options: dict[str, Any]) -> str:
    """Return the text to print; with ``out`` the plan goes to ``plan.json`` there, its frontier to ``frontier.png``."""
    setting = study.setting()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        result = plan(setting.problem, rng=study.run.seed, **given)
    except KdstatsError as error:
        error.args = (in_flags(str(error), GOAL),)
        raise
    text = json.dumps(result.to_dict(), indent=1)
    if out is not None:
        from kdstats.plots import frontier

        figure = frontier(result, unit=setting.unit or None)
        write_atomically(out / "plan.json", text, parameter="--out")
        write_atomically(
            out / "frontier.png", lambda place: figure.savefig(place, format="png", dpi=150), parameter="--out"
        )
    return text if as_json else result.summary()
