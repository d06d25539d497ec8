"""Where the variance of language students comes from: the teacher's temperature, first weights, their own outputs.

    python examples/language_sources.py                      # all three experiments
    python examples/language_sources.py --only temperature   # or weights, outputs
    python examples/language_sources.py --quick              # a few minutes: shows that it runs, no more
    python examples/language_sources.py --scale 4            # four times the students and prompts

Teacher and students are those of language_strategies.py: SmolLM2-135M-Instruct, and the same model without the 6 layers
in its middle, with low-rank adapters on its last layers. One source of randomness is on in each experiment:

* temperature: each student learns one response of its own, drawn at 0.3, 0.7, 1 or 1.5; start and order are shared.
* weights: all learn the teacher's greedy answers in one order. They differ by their adapters' first values alone, or
  by these and relative noise on every frozen weight, of 1%, 3% and 10%.
* outputs: all learn greedy answers, each with adapters and an order of its own. Then the same students answer
  greedily, and at temperatures 0.3, 0.7 and 1.

Students answer at temperature 1 (top-k 50) in the first two. What they are: the variance of sentence embeddings between
and within students, over students and prompts; and, on the teacher's greedy answers, the Gini index of their next-token
laws, read from their logits without noise. Writes results.json and summary.md into ``--out``; an interrupted run goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import language_setting
import pandas as pd
from language_setting import Setting, label_variance, sampling_at, scale_of, teacher_at

import kdstats as kd

SEED = 20260119
EXPERIMENTS = ("temperature", "weights", "outputs")
TEMPERATURES = (0.3, 0.7, 1.0, 1.5)
NOISE = (None, 0.01, 0.03, 0.1)
OUTPUT_TEMPERATURES = (0.0, 0.3, 0.7, 1.0)
SHOWN = ("embedding_inter", "embedding_intra", "embedding_total", "fuzzy_match")
TOKENS = ("inter_student", "intra_student", "total")


@dataclass(frozen=True, kw_only=True)
class Scale(language_setting.Scale):
    """How much is run."""

    prompts: int = 24
    texts: int = 12
    steps: int = 30
    new_tokens: int = 16


QUICK = Scale(prompts=6, students=3, outputs=2, texts=4, steps=5, new_tokens=8)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all experiments share."""

    scale: Scale
    out: Path
    setting: Setting

    def responses(self, temperature: float, *, n_responses: int) -> pd.DataFrame:
        """Return the teacher's responses at a temperature; at 0 there is one."""
        return kd.sample_responses(
            teacher_at(self.setting, self.scale, temperature),
            self.setting.prompts,
            n_responses=n_responses,
            store=self.out / "teacher",
            rng=SEED,
            loaded=self.setting.loaded,
        )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = _options(arguments)
    scale = scale_of(options, QUICK if options.quick else Scale())
    scale = replace(scale, students=round(scale.students * options.scale), prompts=round(scale.prompts * options.scale))
    started = time.perf_counter()
    bench = prepare(scale, options.out, model=options.model, embedder=options.embedder)
    result: dict[str, Any] = {
        "scale": asdict(scale),
        "n_prompts": len(bench.setting.prompts),
        "experiments": {},
        "seconds": {},
    }
    for name in options.only or EXPERIMENTS:
        began, rows = time.perf_counter(), []
        for row in {"temperature": temperature, "weights": weights, "outputs": outputs}[name](bench):
            rows.append(row)
            print(f"{name} {row['level']}: {time.perf_counter() - started:.0f} s", flush=True)
        result["experiments"][name], result["seconds"][name] = rows, time.perf_counter() - began
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    return result


def prepare(scale: Scale, out: Path, *, model: str | None, embedder: str | None) -> Bench:
    """Load the models and choose questions whose greedy answer has a word."""
    setting = language_setting.prepare(scale, model=model, embedder=embedder, seed=SEED)
    bench = Bench(scale=scale, out=out, setting=setting)
    greedy = bench.responses(0.0, n_responses=1)
    return replace(bench, setting=setting.without(set(greedy["prompt_id"][greedy["response"].str.strip() == ""])))


def temperature(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield what students of one response each are, by the temperature at which it was drawn."""
    for level in TEMPERATURES:
        rows = bench.responses(level, n_responses=bench.scale.students)
        rows = rows[rows["response"].str.strip() != ""]
        kept = rows.groupby("prompt_id")["response_index"].transform("size") == bench.scale.students
        folder = bench.out / f"temperature-{level:g}"
        made = train(bench, rows[kept], folder, sources=["teacher_output"])
        labels = label_variance(rows[kept].assign(student=rows["response_index"]), bench.setting)
        yield {"level": f"T = {level:g}", "label_variance": labels} | measured(bench, made, tokens=True)


def weights(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield what students of different first weights are."""
    rows = bench.responses(0.0, n_responses=1)
    for level in NOISE:
        student = replace(bench.setting.student, perturbation_sd=level)
        name = "adapters alone" if level is None else f"weights {100 * level:g}%"
        made = train(
            bench, rows, bench.out / name.replace(" ", "-"), sources=["student_initialization"], student=student
        )
        yield {"level": name} | measured(bench, made, tokens=True)


def outputs(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield what the answers of the same students are, by the temperature at which they answer."""
    rows = bench.responses(0.0, n_responses=1)
    made = train(bench, rows, bench.out / "outputs", sources=["student_initialization", "data_order"])
    for level in OUTPUT_TEMPERATURES:
        yield {"level": f"T = {level:g}"} | measured(bench, made, temperature=level, tokens=level == 1.0)


def train(
    bench: Bench, rows: pd.DataFrame, folder: Path, *, sources: list[str], student: kd.LanguageStudent | None = None
) -> kd.LanguageStudents:
    """Train students, or find them."""
    return kd.train_language_students(
        student or bench.setting.student,
        rows,
        n_students=bench.scale.students,
        n_responses=1,
        folder=folder,
        sources=sources,
        rng=SEED,
        loaded=bench.setting.loaded,
    )


def measured(
    bench: Bench, made: kd.LanguageStudents, *, temperature: float = 1.0, tokens: bool = False
) -> dict[str, Any]:
    """Return components of the students' answers and, if asked for, of their next-token laws."""
    count = bench.scale.outputs if temperature > 0 else 1
    answers = made.sample(bench.setting.prompts, n_responses=count, sampling=sampling_at(bench.scale, temperature))
    found = kd.decompose_responses(
        answers,
        embeddings=bench.setting.embed,
        references={name: bench.setting.references[name] for name in bench.setting.prompts},
        allow_duplicates=True,
    )
    row = {"measures": {name: _numbers(found, name) for name in SHOWN if name in found.measures}, "tokens": None}
    if tokens:
        texts = bench.responses(0.0, n_responses=1).head(bench.scale.texts)
        average = kd.decompose_tokens(made, texts, teacher=bench.setting.loaded).classes.average()
        bounds = average.interval()
        row["tokens"] = {
            name: {"estimate": getattr(average, name).item()}
            | {end: float(bounds.sel(component=name, ci_bound=end).item()) for end in ("lower", "upper")}
            for name in TOKENS
        }
    return row


def report(result: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    scale, lines = result["scale"], []
    lines.append(
        f"{result['n_prompts']} prompts, {scale['students']} students a level, {scale['steps']} steps on "
        f"{scale['batch_size']} rows, {scale['outputs']} answers of a student to a prompt, at most "
        f"{scale['new_tokens']} tokens. Mean [95% interval over students and prompts; of next tokens over students]."
    )
    for name, rows in result["experiments"].items():
        spread = "label_variance" in rows[0]
        heads = ["level", *(["label variance"] if spread else []), *SHOWN, *(f"next token: {part}" for part in TOKENS)]
        lines += ["", f"## {name} ({result['seconds'][name]:.0f} s)", "", "| " + " | ".join(heads) + " |"]
        lines.append("|---|" + "---|" * (len(heads) - 1))
        for row in rows:
            cells = [row["level"], *([_plus_minus(row["label_variance"])] if spread else [])]
            cells += [_shown(row["measures"].get(measure)) for measure in SHOWN]
            cells += [_shown((row["tokens"] or {}).get(part)) for part in TOKENS]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _numbers(found: Any, measure: str) -> dict[str, float]:
    lower, upper = found.interval(measure)
    return {"estimate": found.mean(measure).estimate, "lower": lower, "upper": upper}


def _shown(cell: Mapping[str, float] | None) -> str:
    return "" if cell is None else f"{cell['estimate']:.4f} [{cell['lower']:.4f}, {cell['upper']:.4f}]"


def _plus_minus(cell: Mapping[str, float]) -> str:
    return f"{cell['estimate']:.4f} ± {cell['standard_error']:.4f}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = language_setting.parser_of(__doc__, Scale, out="out/language_sources")
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="one experiment (may be repeated)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies students and prompts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
