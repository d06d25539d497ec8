"""One root, one family per stage; messages that say parameter, rule and value."""

import inspect

import pytest

from kdstats import errors
from kdstats.errors import KdstatsError, KdstatsWarning, invalid

CLASSES = [value for name in errors.__all__ if inspect.isclass(value := getattr(errors, name))]


@pytest.mark.parametrize("cls", CLASSES)
def test_one_root(cls):
    assert issubclass(cls, KdstatsWarning if cls.__name__.endswith("Warning") else KdstatsError)
    assert inspect.getdoc(cls)


def test_everything_is_public():
    defined = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ProblemError, ValueError),
        (errors.MissingDependencyError, ImportError),
        (errors.KdstatsWarning, UserWarning),
    ],
)
def test_builtin_handlers_catch_them_too(cls, builtin):
    assert issubclass(cls, builtin)


def test_message_names_parameter_rule_and_value():
    error = invalid("n_students", "be at least 2 to estimate inter-student variance", 1)
    assert type(error) is errors.ProblemError
    assert str(error) == "`n_students` must be at least 2 to estimate inter-student variance; got 1"
    assert str(invalid("a", "be b", "as is")) == "`a` must be b; got as is"
    assert isinstance(invalid("a", "be b", 1, errors.StudyError), errors.StudyError)


def test_long_values_are_cut():
    message = str(invalid("a", "be short", list(range(1000))))
    assert len(message) < 160
    assert message.endswith("...")
