"""A plan on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdstats.files import write_atomically
from kdstats.planning import plan

__all__ = ["plan_study"]


def plan_study(study: Any, *, out: Path | None, as_json: bool, options: dict[str, Any]) -> str:
    """Return the text to print; with ``out`` the plan goes to ``plan.json`` there, its frontier to ``frontier.png``."""
    setting = study.setting()
    result = plan(setting.problem, rng=study.run.seed, **{k: v for k, v in options.items() if v is not None})
    text = json.dumps(result.to_dict(), indent=1)
    if out is not None:
        from kdstats.plots import frontier

        figure = frontier(result, unit=setting.unit or None)
        write_atomically(out / "plan.json", text, parameter="--out")
        write_atomically(
            out / "frontier.png", lambda place: figure.savefig(place, format="png", dpi=150), parameter="--out"
        )
    return text if as_json else result.summary()
