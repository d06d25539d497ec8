"""Five ways to make labels of a language model's responses, at equal budget: what each does to its students.

    python examples/language_strategies.py            # 40 questions, 5 students a strategy, 50 steps
    python examples/language_strategies.py --quick    # 10 questions, 3 students, 10 steps: some minutes

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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import kdstats as kd
from kdstats.components.crossed_means import crossed_mean, pair_contributions
from kdstats.observation.language.embedding import SentenceEmbedder
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.observation.language.training import train_language_students
from kdstats.observation.responses.files import read_trivia
from kdstats.observation.responses.labels import choose_labels
from kdstats.problem.language import LanguageSampling, LanguageStudent, LanguageTeacher

SEED = 20260118
STRATEGIES = ("single", "multi_response", "medoid", "weighting", "soft_labels")
PUBLISHED = "untrained"
SYSTEM = "Answer in a few words."
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
class Scale:
    """How much is run."""

    prompts: int = 40
    students: int = 5
    responses: int = 5
    bulk: int = 10
    outputs: int = 3
    steps: int = 50
    batch_size: int = 8
    new_tokens: int = 20
    temperature: float = 1.0
    layers: int = 24
    adapted: int = 8
    learning_rate: float = 2e-3
    dtype: str = "float32"


QUICK = Scale(prompts=10, students=3, responses=3, bulk=5, outputs=2, steps=10, new_tokens=12)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all strategies share."""

    scale: Scale
    out: Path
    teacher: LanguageTeacher
    student: LanguageStudent
    loaded: Any
    embed: Any
    prompts: Mapping[str, str]
    references: Mapping[str, list[str]]
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
    scale = QUICK if options.quick else Scale()
    given = {field.name: getattr(options, field.name) for field in fields(Scale)}
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    started = time.perf_counter()
    bench = prepare(scale, options.out, model=options.model, embedder=options.embedder)
    names = (*STRATEGIES, PUBLISHED) if options.published else STRATEGIES
    found, notes, spread, answers = {}, {}, {}, {}
    for name in names:
        rows, notes[name] = labels(name, bench, answers)
        spread[name] = label_variance(rows, bench)
        answers[name] = students_answers(name, rows, bench)
        table = pd.concat([answers[name], bench.kept_apart])
        found[name] = kd.decompose_responses(table, embeddings=bench.embed, references=bench.references)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    result = {
        "scale": asdict(scale),
        "seconds": time.perf_counter() - started,
        "n_prompts": len(bench.prompts),
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
    wanted = [
        name for name, given in (("teacher", model), ("embedder", embedder), ("questions", None)) if given is None
    ]
    parts = fetch(wanted)
    questions = read_trivia(parts["questions"])
    chosen = questions.iloc[np.sort(np.random.default_rng(SEED).permutation(len(questions))[: scale.prompts])]
    prompts = dict(zip(chosen["prompt_id"], chosen["prompt"], strict=True))
    teacher = LanguageTeacher(
        model or parts["teacher"],
        sampling=LanguageSampling(
            temperature=scale.temperature, top_k=50 if scale.temperature > 0 else None, max_new_tokens=scale.new_tokens
        ),
        system=SYSTEM,
        dtype=scale.dtype,
    )
    loaded = load_language_model(teacher.model, dtype=scale.dtype)
    responses = kd.sample_responses(
        teacher,
        prompts,
        n_responses=scale.students * scale.responses + scale.bulk,
        store=out / "teacher",
        rng=SEED,
        loaded=loaded,
        progress=True,
    )
    empty = set(responses["prompt_id"][responses["response"].str.strip() == ""])
    prompts = {name: text for name, text in prompts.items() if name not in empty}
    return Bench(
        scale=scale,
        out=out,
        teacher=teacher,
        student=LanguageStudent(
            teacher.model,
            n_layers=scale.layers,
            adapted_layers=scale.adapted,
            n_steps=scale.steps,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            system=SYSTEM,
            dtype=scale.dtype,
        ),
        loaded=loaded,
        embed=SentenceEmbedder(embedder or parts["embedder"]),
        prompts=prompts,
        references=dict(zip(chosen["prompt_id"], chosen["references"], strict=True)),
        responses=responses[~responses["prompt_id"].isin(empty)].reset_index(drop=True),
    )


def labels(name: str, bench: Bench, answers: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """Return what the students of one strategy learn, and what is to be said of it."""
    k, size = bench.scale.responses, {"n_students": bench.scale.students, "embeddings": bench.embed, "rng": SEED}
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
        replace(bench.student, labels="soft") if is_soft else bench.student,
        rows,
        n_students=bench.scale.students,
        folder=bench.out / name,
        rng=SEED,
        teacher=bench.teacher if is_soft else None,
        loaded=bench.loaded,
        loaded_teacher=bench.loaded if is_soft else None,
        progress=True,
    )
    return _of_prompts(
        made.sample(bench.prompts, n_responses=bench.scale.outputs, sampling=bench.teacher.sampling), bench
    )


def untrained_answers(bench: Bench) -> pd.DataFrame:
    """Return the answers of the student before training, as one pilot for all."""
    none = replace(bench.student, n_steps=1, learning_rate=1e-12)
    made = train_language_students(
        none,
        bench.taught,
        n_students=1,
        n_responses=1,
        folder=bench.out / "untrained-pilot",
        rng=SEED,
        loaded=bench.loaded,
    )
    return _of_prompts(
        made.sample(bench.prompts, n_responses=bench.scale.outputs, sampling=bench.teacher.sampling), bench
    )


def label_variance(rows: pd.DataFrame, bench: Bench) -> dict[str, float]:
    """Return the variance between students of the mean embedding of a prompt's labels: inter, if each memorised."""
    vectors = bench.embed(rows["response"].tolist())
    keys = [rows["student"].to_numpy(), rows["prompt_id"].to_numpy()]
    means = pd.DataFrame(vectors).groupby(keys).mean()
    cube = means.to_numpy().reshape(bench.scale.students, len(bench.prompts), -1)
    found = crossed_mean((cube**2).sum(axis=-1) - pair_contributions(cube))
    return {"estimate": found.estimate, "standard_error": found.standard_error}


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
    return answers[answers["prompt_id"].isin(bench.prompts)]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/language_strategies"))
    parser.add_argument("--quick", action="store_true", help="10 questions, 3 students, 10 steps")
    parser.add_argument("--published", action="store_true", help="the published weighting as well")
    parser.add_argument("--model", help="teacher, a folder or a name on the hub, in place of SmolLM2")
    parser.add_argument("--embedder", help="folder of a sentence encoder, in place of MiniLM")
    for field in fields(Scale):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
