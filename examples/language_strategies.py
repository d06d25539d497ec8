"""Five ways to make labels of a language model's responses, at equal budget: what each does to its students.

    python examples/language_strategies.py            # 40 questions, 5 students a strategy, 50 steps
    python examples/language_strategies.py --quick    # 8 questions, 3 students, 6 steps: some minutes

The first took an hour and a quarter of one processor's time.

Teacher: SmolLM2-135M-Instruct. Students: the same model without the 6 layers in its middle, with low-rank adapters on
its last layers, each trained on responses of its own to general trivia. Every student takes the same number of steps on
the same number of rows, and every strategy may ask the teacher k responses to a prompt (single uses one of them).

* single: the first response.
* multi_response: all k as rows.
* medoid: the response nearest to the mean embedding of the k.
* weighting: the first response trains a pilot (the student of ``single``); the other k-1 and the pilot's own answers
  are weighted by their variances in embedding space, and the nearest text is the label.
* soft_labels: all k as texts, and at each token the teacher's whole next-token law.
* untrained (with ``--published``): weighting with the answers of the untrained student, as published.

Writes results.json and summary.md into ``--out``. Responses, students and answers are kept there too: an interrupted
run goes on where it was, and a larger one asks the teacher only for what is new.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import language_setting
import numpy as np
import pandas as pd
from language_setting import Setting, label_variance, scale_of, teacher_at

import kdstats as kd
from kdstats.observation.language.training import train_language_students
from kdstats.observation.responses.labels import choose_labels

SEED = 20260118
STRATEGIES = ("single", "multi_response", "medoid", "weighting", "soft_labels")
PUBLISHED = "untrained"
SHOWN = (
    "embedding_inter",
    "embedding_intra",
    "embedding_total",
    "systematic_error",
    "squared_error",
    "teacher_distance",
    "fuzzy_match",
    "hallucination",
    "semantic_entropy",
)


@dataclass(frozen=True, kw_only=True)
class Scale(language_setting.Scale):
    """How much is run."""

    prompts: int = 40
    responses: int = 5
    bulk: int = 10
    steps: int = 50
    new_tokens: int = 20
    temperature: float = 1.0


QUICK = Scale(prompts=8, students=3, responses=3, bulk=5, outputs=2, steps=6, new_tokens=10)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all strategies share."""

    scale: Scale
    out: Path
    setting: Setting
    teacher: kd.LanguageTeacher
    responses: pd.DataFrame

    @property
    def taught(self) -> pd.DataFrame:
        """Responses that students learn from."""
        return self.responses[self.responses["response_index"] < self.scale.students * self.scale.responses]

    @property
    def kept_apart(self) -> pd.DataFrame:
        """Responses that no student learns, which show what the teacher says."""
        return self.responses.drop(self.taught.index)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = _options(arguments)
    scale = scale_of(options, QUICK if options.quick else Scale())
    started = time.perf_counter()
    bench = prepare(scale, options.out, model=options.model, embedder=options.embedder)
    names = (*STRATEGIES, PUBLISHED) if options.published else STRATEGIES
    found, notes, spread, answers = {}, {}, {}, {}
    for name in names:
        rows, notes[name] = labels(name, bench, answers)
        spread[name] = label_variance(rows, bench.setting)
        answers[name] = students_answers(name, rows, bench)
        table = pd.concat([answers[name], bench.kept_apart])
        found[name] = kd.decompose_responses(table, embeddings=bench.setting.embed, references=bench.setting.references)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    result = {
        "scale": asdict(scale),
        "seconds": time.perf_counter() - started,
        "n_prompts": len(bench.setting.prompts),
        "teacher": {name: _row(found["single"], name) for name in ("teacher_spread", "teacher_error", "teacher_match")},
        "label_variance": spread,
        "notes": notes,
        "measures": {name: {m: _row(one, m) for m in SHOWN} for name, one in found.items()},
        "against_single": {name: compare(one, found["single"]) for name, one in found.items() if name != "single"},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    return result


def prepare(scale: Scale, out: Path, *, model: str | None, embedder: str | None) -> Bench:
    """Load the models, choose questions and sample the teacher's responses, or read them."""
    setting = language_setting.prepare(scale, model=model, embedder=embedder, seed=SEED)
    teacher = teacher_at(setting, scale, scale.temperature)
    responses = kd.sample_responses(
        teacher,
        setting.prompts,
        n_responses=scale.students * scale.responses + scale.bulk,
        store=out / "teacher",
        rng=SEED,
        loaded=setting.loaded,
        progress=True,
    )
    empty = set(responses["prompt_id"][responses["response"].str.strip() == ""])
    return Bench(
        scale=scale,
        out=out,
        setting=setting.without(empty),
        teacher=teacher,
        responses=responses[~responses["prompt_id"].isin(empty)].reset_index(drop=True),
    )


def labels(name: str, bench: Bench, answers: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """Return what the students of one strategy learn, and what is to be said of it."""
    k, size = (
        bench.scale.responses,
        {"n_students": bench.scale.students, "embeddings": bench.setting.embed, "rng": SEED},
    )
    if name in ("weighting", PUBLISHED):
        taught = bench.taught[bench.taught["response_index"] % k > 0]  # the first taught the pilot
        pilot = answers["single"] if name == "weighting" else untrained_answers(bench)
        chosen = choose_labels(
            taught,
            "variance_weighting",
            n_responses=k - 1,
            pilot=pilot,
            student_estimate="pilot" if name == "weighting" else "untrained",
            **size,
        )
    else:
        strategy = "multi_response" if name == "soft_labels" else name
        chosen = choose_labels(bench.taught, strategy, n_responses=k, **size)
    return chosen.table, list(chosen.attrs["notes"])


def students_answers(name: str, rows: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    """Train the students of one strategy, or find them, and return their answers."""
    is_soft = name == "soft_labels"
    made = train_language_students(
        replace(bench.setting.student, labels="soft") if is_soft else bench.setting.student,
        rows,
        n_students=bench.scale.students,
        folder=bench.out / name,
        rng=SEED,
        teacher=bench.teacher if is_soft else None,
        loaded=bench.setting.loaded,
        loaded_teacher=bench.setting.loaded if is_soft else None,
        progress=True,
    )
    return _of_prompts(
        made.sample(bench.setting.prompts, n_responses=bench.scale.outputs, sampling=bench.teacher.sampling), bench
    )


def untrained_answers(bench: Bench) -> pd.DataFrame:
    """Return the answers of the student before training, as one pilot for all."""
    none = replace(bench.setting.student, n_steps=1, learning_rate=1e-12)
    made = train_language_students(
        none,
        bench.taught,
        n_students=1,
        n_responses=1,
        folder=bench.out / "untrained-pilot",
        rng=SEED,
        loaded=bench.setting.loaded,
    )
    return _of_prompts(
        made.sample(bench.setting.prompts, n_responses=bench.scale.outputs, sampling=bench.teacher.sampling), bench
    )


def compare(one: Any, single: Any) -> dict[str, Any]:
    """Return ratios of variances and errors to those of single, and differences of rates, with 95% intervals."""
    ratios, changes = one.difference(single, relative=True), one.difference(single)
    found = {}
    for name in SHOWN:
        kind = "change" if name in ("fuzzy_match", "hallucination", "semantic_entropy", "teacher_distance") else "ratio"
        if kind == "ratio" and not np.isfinite(ratios.loc[name, "lower"]):
            kind = "not separable"  # one of both may be 0: the difference is what can be said
        row = (ratios if kind == "ratio" else changes).loc[name]
        found[name] = {"kind": kind} | {key: float(row[key]) for key in ("estimate", "lower", "upper")}
    return found


def report(result: Mapping[str, Any]) -> str:
    """Return the tables and the verdict as Markdown."""
    names, scale = list(result["measures"]), result["scale"]
    lines = [
        f"{result['n_prompts']} prompts, {scale['students']} students a strategy, k = {scale['responses']}, "
        f"temperature {scale['temperature']:g}, {scale['steps']} steps on {scale['batch_size']} rows each, "
        f"{scale['outputs']} answers of a student to a prompt, at most {scale['new_tokens']} tokens. "
        "Mean [95% interval over students and prompts].",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        "| label variance between students | "
        + " | ".join(f"{v['estimate']:.3f} ± {v['standard_error']:.3f}" for v in result["label_variance"].values())
        + " |",
    ]
    for measure in SHOWN:
        cells = [result["measures"][name][measure] for name in names]
        lines.append(
            f"| {measure} | "
            + " | ".join(f"{c['estimate']:.3f} [{c['lower']:.3f}, {c['upper']:.3f}]" for c in cells)
            + " |"
        )
    teacher = result["teacher"]
    lines += [
        "",
        "Teacher: "
        + ", ".join(
            f"{name} {row['estimate']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}]" for name, row in teacher.items()
        )
        + ".",
        "",
        "Against `single`, prompts paired (ratio of variances and errors, x; change of rates, and of what is not "
        "separable from 0, for which a ratio says nothing):",
        "",
        "| | " + " | ".join(result["against_single"]) + " |",
        "|---|" + "---|" * len(result["against_single"]),
    ]
    for measure in SHOWN:
        cells = [row[measure] for row in result["against_single"].values()]
        shown = [
            f"{'x ' if c['kind'] == 'ratio' else ''}{c['estimate']:.3f} [{c['lower']:.3f}, {c['upper']:.3f}]"
            for c in cells
        ]
        lines.append(f"| {measure} | " + " | ".join(shown) + " |")
    lines += ["", *[f"* {name}: {note}" for name, notes in result["notes"].items() for note in notes], ""]
    lines += ["Verdict:", "", *[f"* {line}" for line in verdict(result)], ""]
    return "\n".join(lines)


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Say of each published gain whether it is seen here: only an interval that excludes no change says so."""
    k, lines = result["scale"]["responses"], []
    for name, rows in result["against_single"].items():
        inter, is_ratio = rows["embedding_inter"], rows["embedding_inter"]["kind"] == "ratio"
        expected = result["label_variance"][name]["estimate"] / result["label_variance"]["single"]["estimate"]
        bounds = f"{inter['estimate']:.3f} [{inter['lower']:.3f}, {inter['upper']:.3f}]"
        found = f"x {bounds} of single's" if is_ratio else f"changes by {bounds}, no ratio: not separable from 0"
        lines.append(
            f"{name}: inter-student variance {found} ({_said(inter, float(is_ratio), 'lower', 'higher')}); "
            f"its labels vary x {expected:.2f}, where averaging numbers gives x {1 / k:.2f}"
        )
        for measure, good, bad in (
            ("systematic_error", "less", "more"),
            ("hallucination", "fewer", "more"),
            ("fuzzy_match", "fewer", "more"),
        ):
            row = rows[measure]
            sign = "x " if row["kind"] == "ratio" else ""
            lines.append(
                f"{name}: {measure} {sign}{row['estimate']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}] "
                f"({_said(row, 1.0 if sign else 0.0, good, bad)})"
            )
    return lines


def _said(row: Mapping[str, Any], none: float, below: str, above: str) -> str:
    if not np.isfinite(row["lower"]):
        return "undecided"
    return below if row["upper"] < none else above if row["lower"] > none else "undecided"


def _row(found: Any, measure: str) -> dict[str, float]:
    mean, (lower, upper) = found.mean(measure), found.interval(measure)
    return {"estimate": mean.estimate, "standard_error": mean.standard_error, "lower": lower, "upper": upper}


def _of_prompts(answers: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    return answers[answers["prompt_id"].isin(bench.setting.prompts)]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = language_setting.parser_of(__doc__, Scale, out="out/language_strategies")
    parser.add_argument("--published", action="store_true", help="the published weighting as well")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
