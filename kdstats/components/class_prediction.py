"""What is predicted of students that answer with classes: components of their table, and how they meet the teacher."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from kdstats.components.class_parts import COMPONENTS, ENTROPY, GINI, ClassParts, check_components

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "ClassPrediction"]

#: What is told of student and teacher: name -> what it is.
MEASURES = {
    "kl_to_teacher": "expected KL(student || teacher)",
    "kl_from_teacher": "expected KL(teacher || student)",
    "kl_from_teacher_infinite": "probability that KL(teacher || student) is infinite",
    "missing_mass": "teacher's probability of what the student can never say",
    "distinct_answers": "distinct answers among those it saw",
    "answers_agree": "probability that two students' answers agree",
    "modes_agree": "probability that two students' likeliest answers agree",
    "mode_is_teachers": "probability that its likeliest answer is the teacher's",
    "mode_probability": "teacher's probability of its likeliest answer",
}
WIDTH = 86


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassPrediction(ClassParts):
    """Predicted components of class probabilities, aligned with those that :class:`ClassComponents` estimates.

    Parameters
    ----------
    estimate : xarray.DataArray
        Dims ``component`` and ``point``, with the components of :class:`~kdstats.ClassComponents`: exact.
    measures : xarray.Dataset
        Dim ``point``; the variables of ``MEASURES``. Those of modes are absent where they were not asked for.
    measure_errors : xarray.Dataset
        The same variables: standard errors, 0 where exact.
    attrs : mapping
        ``engine``, ``exactness``, ``unit`` (of entropies and divergences), ``classes``, ``n_responses``, ``problem``,
        ``versions``, ``wall_time``.
    parts : xarray.Dataset, optional
        For Bayesian students, dim ``point``: ``epistemic_gini`` and ``aleatoric_gini`` (they sum to ``intra_student``),
        ``epistemic_entropy`` and ``aleatoric_entropy`` (to ``expected_entropy``).
    """

    estimate: xr.DataArray
    measures: xr.Dataset
    measure_errors: xr.Dataset
    attrs: Mapping[str, Any]
    parts: xr.Dataset | None = None

    def __post_init__(self) -> None:
        check_components("estimate", self.estimate)
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def average(self) -> ClassPrediction:
        """Return the prediction averaged over points."""

        def mean(dataset: Any) -> Any:
            return dataset.mean("point").expand_dims(point=["average"], axis=-1)

        return replace(
            self,
            estimate=mean(self.estimate),
            measures=mean(self.measures),
            measure_errors=np.sqrt(mean(self.measure_errors**2) / self.estimate.sizes["point"]),
            parts=None if self.parts is None else mean(self.parts),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per point: components, measures and parts."""
        columns = {name: self._of(name) for name in COMPONENTS}
        columns |= {str(name): array for name, array in self.measures.items()}
        columns |= {} if self.parts is None else {str(name): array for name, array in self.parts.items()}
        return xr.Dataset(columns).to_dataframe()

    def summary(self) -> str:
        """Return a printable table of averages over points."""
        mean, unit = self.average(), self.attrs["unit"]
        lines = ["Predicted class probabilities of students", "=" * WIDTH]
        lines += [
            f"Points: {self.estimate.sizes['point']}, classes: {len(self.attrs['classes'])}, responses per input: "
            f"{self.attrs['n_responses']}, {self.attrs['exactness']}"
        ]
        for title, names in (("Gini index", GINI), (f"entropy, {unit}", ENTROPY)):
            lines += ["-" * WIDTH, f"{title:<60}{'average':>14}{'share':>12}"]
            whole = mean._of(names[2]).item()
            for name in names:
                value = mean._of(name).item()
                share = f"{100 * value / whole:>11.1f}%" if whole > 0 else f"{'-':>12}"
                lines.append(f"{name:<60}{value:>#14.5g}{share}")
        if mean.parts is not None:
            lines += ["-" * WIDTH, "one student: doubt about its probabilities (epistemic), and the rest (aleatoric)"]
            lines += [f"{name:<60}{array.item():>#14.5g}" for name, array in mean.parts.items()]
        lines += ["-" * WIDTH, f"{'student and teacher':<60}{'average':>14}{'std err':>12}"]
        for name, meaning in MEASURES.items():
            if name in mean.measures:
                error = mean.measure_errors[name].item()
                shown = f"{error:>#12.2g}" if error > 0 else f"{'-':>12}"
                lines.append(f"{meaning:<60}{mean.measures[name].item():>#14.5g}{shown}")
        lines.append("=" * WIDTH)
        for note in self.attrs.get("notes", ()):
            lines += textwrap.wrap(note, WIDTH)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<ClassPrediction exactness={self.attrs['exactness']!r} (point: {self.estimate.sizes['point']}, "
            f"classes: {len(self.attrs['classes'])}, responses: {self.attrs['n_responses']})>"
        )

    __str__ = __repr__
