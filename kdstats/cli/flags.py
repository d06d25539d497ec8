"""Messages in the words of the command line: an error that names a parameter names its flag there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from typer.core import TyperCommand

from kdstats.cli.posing import ROLES
from kdstats.errors import KdstatsError

__all__ = ["CommandOfFlags", "in_flags", "spoken"]

#: Flags of the running command by the parameter they set, and those given on its command line.
RUNNING: ContextVar[tuple[Mapping[str, str], frozenset[str]]] = ContextVar("running", default=({}, frozenset()))

VALUE = r"(\w+)=(?:'([\w-]+)'|\"([\w-]+)\"|(None|\.\.\.))"
CALL, ARGUMENT = re.compile(rf"\b\w+\({VALUE}\)"), re.compile(rf"\b{VALUE}")
NAME = re.compile(r"`(?:(\w+)\.)?(\w+)`")


class CommandOfFlags(TyperCommand):
    """A command whose errors name flags."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        flags = {
            str(parameter.name): max(parameter.opts, key=len)
            for parameter in self.params
            if parameter.opts[0].startswith("-") and parameter.name
        }
        given = frozenset(name for name in flags if "COMMANDLINE" in str(ctx.get_parameter_source(name)))
        named = {name: flag for name, flag in flags.items() if name in given or name not in ROLES}  # else of the file
        token = RUNNING.set((named, given))
        try:
            return super().invoke(ctx)
        except KdstatsError as error:
            error.args = (spoken(str(error)),)
            raise
        finally:
            RUNNING.reset(token)


def spoken(text: str) -> str:
    """Return a text of the running command with the flags it has."""
    flags, given = RUNNING.get()
    return in_flags(text, flags, given=given)


def in_flags(text: str, flags: Mapping[str, str], *, given: frozenset[str] = frozenset()) -> str:
    """Return a text with flags in place of parameters.

    Parameters
    ----------
    text : str
        Names parameters as ```name```, and values of them as ``name='value'`` or ``call(name='value')``. The key of a
        study file, ```section.name```, becomes a flag only where that flag was given.
    flags : mapping of str to str
        Flag of each parameter.
    given : frozenset of str
        Parameters set on the command line.

    Examples
    --------
    >>> in_flags("`nan_policy` must be one of raise, omit", {"nan_policy": "--nan-policy"})
    '`--nan-policy` must be one of raise, omit'
    >>> in_flags('interval(students="any") allows for it', {"students": "--students"})
    '--students any allows for it'
    """

    def named(match: re.Match[str]) -> str:
        section, name = match.groups()
        known = name in flags and (section is None or name in given)
        return f"`{flags[name]}`" if known else match[0]

    def valued(match: re.Match[str]) -> str:
        name, single, double, bare = match.groups()
        if name not in flags:
            return match[0]
        return {"None": f"no {flags[name]}", "...": flags[name]}.get(bare or "", f"{flags[name]} {single or double}")

    return NAME.sub(named, ARGUMENT.sub(valued, CALL.sub(valued, text)))
