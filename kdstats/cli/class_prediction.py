"""Predicted students of sampled answers on the command line: a table of the teacher's probabilities in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.components.class_prediction import ClassPrediction
from kdstats.components.classes import COMPONENTS
from kdstats.errors import DataError, invalid
from kdstats.files import write_atomically
from kdstats.observation.columns import output_values
from kdstats.prediction.closed_form.classes import predict_classes
from kdstats.prediction.closed_form.hallucination import HallucinationRisk, hallucination_risk
from kdstats.problem.categorical import CategoricalTeacher, DirichletStudent, TabularStudent
from kdstats.problem.design import Design
from kdstats.problem.specification import DistillationProblem

__all__ = ["predict_class_table"]

#: Column of names of prompts; may be absent.
POINT = "point"
#: Measures in the table of several numbers of responses: heading -> name.
COLUMNS = {
    "missing": "missing_mass",
    "distinct": "distinct_answers",
    "mode right": "mode_is_teachers",
    "modes agree": "modes_agree",
}


def predict_class_table(
    frame: Any,
    *,
    classes: str | None,
    n_responses: str,
    response_correlation: float,
    pseudo_count: float | None,
    prior_count: float | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    threshold: float | None,
    unit: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> str:
    """Return the text to print; with ``out`` prompts go to ``predicted_classes.csv`` there, risks to ``risk.csv``."""
    if pseudo_count is not None and prior_count is not None:
        raise invalid("--prior-count", "be left out with --pseudo-count", prior_count)
    student = (
        DirichletStudent(prior_count=prior_count)
        if prior_count is not None
        else TabularStudent(pseudo_count=0.0 if pseudo_count is None else pseudo_count)
    )
    keys = [POINT] if POINT in frame.columns else []
    names: Any = [column for column in frame.columns if column not in keys]
    if classes is not None:
        names = [name.strip() for name in classes.split(",")]
    try:
        values, columns = output_values(frame, keys, names, omit=False)
    except DataError as error:
        raise DataError(str(error).replace("`value`", "`--classes`")) from None
    whole = CategoricalTeacher(values, class_labels=columns, response_correlation=response_correlation)
    sampled = whole if temperature is None else whole.at_temperature(temperature)
    if top_k is not None or top_p is not None:
        sampled = sampled.truncated(top_k=top_k, top_p=top_p)
    points = tuple(frame[POINT].tolist()) if keys else tuple(range(len(values)))
    counts = _counts(n_responses)
    problems = [
        DistillationProblem(teacher=sampled, student=student, design=Design(n_responses=count, point_labels=points))
        for count in counts
    ]
    found = {
        count: predict_classes(problem, reference=whole, unit=unit, rng=seed)
        for count, problem in zip(counts, problems, strict=True)
    }
    risk = None
    if threshold is not None:
        risk = hallucination_risk(problems[0], threshold=threshold, n_responses=counts, reference=whole, rng=seed)
    if out is not None:
        _write(found, risk, out)
    if as_json:
        return json.dumps(_as_json(found, risk), indent=1)
    text = found[counts[0]].summary() if len(counts) == 1 else _table(found, unit)
    return text if risk is None else f"{text}\n\n{risk.summary()}"


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise invalid("--n-responses", "be whole numbers such as 5 or 1,5,20", text) from None
    if len(set(counts)) < len(counts):
        raise invalid("--n-responses", "be unique", text)
    return counts


def _table(found: dict[int, ClassPrediction], unit: str) -> str:
    """Return one line per number of responses, averaged over prompts."""
    heads = ("responses", "inter", "intra", f"info, {unit}", f"H, {unit}", *COLUMNS)
    lines = ["Predicted class probabilities of students, averages over prompts", "=" * (12 * len(heads))]
    lines += ["".join(f"{head:>12}" for head in heads), "-" * (12 * len(heads))]
    for count, prediction in found.items():
        mean = prediction.average()
        numbers = [mean.inter_student, mean.intra_student, mean.mutual_information, mean.expected_entropy]
        numbers += [mean.measures[name] for name in COLUMNS.values()]
        lines.append(f"{count:>12d}" + "".join(f"{number.item():>#12.4g}" for number in numbers))
    return "\n".join([*lines, "=" * (12 * len(heads))])


def _write(found: dict[int, ClassPrediction], risk: HallucinationRisk | None, out: Path) -> None:
    import pandas as pd

    frames = [prediction.to_dataframe().reset_index() for prediction in found.values()]
    for count, frame in zip(found, frames, strict=True):
        frame.insert(0, "n_responses", count)
    tables = {"predicted_classes.csv": pd.concat(frames)}
    if risk is not None:
        tables["risk.csv"] = risk.to_dataframe()
    for name, table in tables.items():
        write_atomically(out / name, table.to_csv(index=False), parameter="--out", error=DataError)


def _as_json(found: dict[int, ClassPrediction], risk: HallucinationRisk | None) -> dict[str, Any]:
    predictions = [
        {
            "n_responses": count,
            "exactness": prediction.attrs["exactness"],
            "unit": prediction.attrs["unit"],
            "average": _entries(prediction.average())[0],
            "points": _entries(prediction),
        }
        for count, prediction in found.items()
    ]
    rows = None if risk is None else _plain_rows(risk.to_dataframe())
    return {"predictions": predictions, "components": list(COMPONENTS), "risk": rows}


def _entries(prediction: ClassPrediction) -> list[dict[str, Any]]:
    return _plain_rows(prediction.to_dataframe().reset_index())


def _plain_rows(frame: Any) -> list[dict[str, Any]]:
    """Return rows as plain values; what is not finite (an infinite divergence) becomes null."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
