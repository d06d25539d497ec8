"""Names that scripts outside the repository call."""

import inspect
import re
from pathlib import Path

import pytest

import kdstats as kd

CONTRACT = (
    "CategoricalTeacher",
    "Design",
    "DistillationProblem",
    "GaussianTeacher",
    "GradientDescent",
    "LinearStudent",
    "NetworkStudent",
    "Seeds",
    "SoftmaxStudent",
    "TabularStudent",
    "VarianceComponents",
    "VarianceWeighting",
    "compare",
    "decompose",
    "mse_distribution",
    "observe",
    "predict",
    "predict_grid",
)


@pytest.mark.parametrize("name", sorted({*CONTRACT, *kd.__all__} - {"__version__"}))
def test_public_names_exist_with_docstrings(name):
    value = getattr(kd, name)
    assert name in dir(kd)
    assert inspect.getdoc(value)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.startswith("kdstats.")


@pytest.mark.parametrize("name", sorted(n for n in kd.__all__ if n not in ("__version__", "errors", "catalog")))
def test_methods_have_docstrings(name):
    value = getattr(kd, name)
    for attribute, member in vars(value).items() if inspect.isclass(value) else ():
        if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{name}.{attribute}"


@pytest.mark.parametrize("name", sorted(n for n in kd.__all__ if n not in ("__version__", "errors", "catalog")))
def test_at_most_two_positional_arguments(name):
    signature = inspect.signature(getattr(kd, name))
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(positional) <= 2, positional
    assert not any(isinstance(p.default, bool) for p in positional)


def test_type_checkers_see_what_is_there():
    source = Path(kd.__file__).read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("def __getattr__")]
    imported = set(re.findall(r"\b([A-Za-z_]\w*)\b(?=\s*(?:,|\n|\)))", re.sub(r"from [\w.]+ import", "", block)))
    assert set(kd.__all__) - {"__version__"} == imported


def test_unknown_names():
    with pytest.raises(AttributeError, match="has no attribute 'predictt'"):
        getattr(kd, "predict" + "t")


def test_docstring_of_the_contract_runs():
    components = ("inter_student", "intra_student", "total")
    result = kd.predict(kd.catalog.intercept_only())
    assert tuple(result.estimate.data_vars) == components
    assert set(result.interval(0.9).ci_bound.values) == {"lower", "upper"}
    for method in ("summary", "to_dataframe", "to_datatree", "to_netcdf", "from_netcdf", "average", "interval"):
        assert callable(getattr(result, method))
    with pytest.raises(AttributeError):
        result.estimate = None  # frozen
