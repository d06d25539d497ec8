"""The options that pose a study, for every command that takes one: a study file, or a table and its roles."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from kdstats.errors import invalid

__all__ = ["ROLES", "PosedStudy", "of_a_study"]


@dataclass(frozen=True, kw_only=True)
class PosedStudy:
    """What was given on the command line: a study file, or ``--csv`` and the flags that go with it."""

    study: Annotated[Path | None, typer.Argument(metavar="[STUDY]", help="Study file (TOML).", show_default=False)] = (
        None
    )
    csv: Annotated[Path | None, typer.Option("--csv", help="Your own table, in place of a study file.")] = None
    target: Annotated[str | None, typer.Option(help="Column of true values, with --csv.")] = None
    teacher_mean: Annotated[str | None, typer.Option(help="Column of the teacher's mean answers, with --csv.")] = None
    noise_variance: Annotated[
        str | None, typer.Option(help="Variance of one response: a column or a number, with --csv.")
    ] = None
    features: Annotated[
        list[str] | None,
        typer.Option("--features", help="Input column, with --csv; repeat. Default: every column without a role."),
    ] = None
    n_responses: Annotated[int | None, typer.Option("--n-responses", "-k", help="Responses per input, with --csv.")] = (
        None
    )
    strategy: Annotated[str | None, typer.Option(help="single, averaging or multi_response, with --csv.")] = None
    penalty: Annotated[float | None, typer.Option(help="Ridge penalty, with --csv.")] = None
    test_fraction: Annotated[float | None, typer.Option(help="Share of rows kept as query points, with --csv.")] = None

    def load(self) -> Any:
        """Return the study.

        Raises
        ------
        ProblemError
            If there is a study file and a table, neither, or a flag of the table with a study file.
        """
        from kdstats.cli.tables import study_of_csv
        from kdstats.study import Study

        if (self.study is None) == (self.csv is None):
            raise invalid(
                "STUDY", "be given, or --csv in its place (and not both)", "both" if self.study else "neither"
            )
        given = {name: value for name in ROLES if (value := getattr(self, name)) is not None}
        if self.study is not None:
            if given:
                flag = f"--{next(iter(given)).replace('_', '-')}"
                raise invalid(flag, "go with --csv, not with a study file", str(self.study))
            return Study.from_toml(self.study)
        assert self.csv is not None
        loaded = study_of_csv(self.csv, **given)
        if "features" not in given:
            names = ", ".join(loaded.setting().problem.gaussian_teacher.feature_names or ())
            typer.echo(f"kdstats: inputs: {names} (every column without a role; choose with --features)", err=True)
        return loaded


#: The flags that say what a column or number of the table is.
ROLES = tuple(field.name for field in fields(PosedStudy) if field.name not in ("study", "csv"))


def of_a_study(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`PosedStudy` before its own; what they pose is its first argument."""
    own = inspect.signature(command, eval_str=True)
    hints = get_type_hints(PosedStudy, include_extras=True)
    posing = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if field.name == "study" else inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(PosedStudy)
    ]
    options = [*posing, *list(own.parameters.values())[1:]]

    @wraps(command)
    def filled(**given: Any) -> None:
        command(PosedStudy(**{field.name: given.pop(field.name) for field in fields(PosedStudy)}), **given)

    filled.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
    filled.__annotations__ = {option.name: option.annotation for option in options}
    return filled
