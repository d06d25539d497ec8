"""Transformers trained on k sampled answers of one token: where 1/k of the teacher's spread is between students.

Usage: ``python examples/language_single_token.py [--students S] [--model FOLDER] [--out FOLDER] [--quick]``. The
teacher is a real language model (SmolLM2-135M, ``kdstats language fetch``): its probabilities of eleven colours after
"The color of the small dog is", for 48 pairs of words. Students are transformers of one layer that see the pair and
are trained by Adam on k sampled colours for each prompt, each student on answers and a start of its own. One kind is
trained until it has memorised its answers; the other sees the same prompts, takes few steps, and carries over what
prompts with a word in common share. Both are set against the tabular law, G/k between and (1 - 1/k) G within, G the
teacher's Gini index; and the variance between students against what the first student alone predicts.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import kdstats as kd
from kdstats.observation.language.answers import single_token_answers
from kdstats.observation.language.models import LanguageModel, load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.sampling.classes import draw_class_counts
from kdstats.streams import as_seeds

COLORS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey", "pink", "purple", "orange")
KINDS = ("small", "old", "happy", "wild", "wet", "expensive")
THINGS = ("dog", "car", "house", "flower", "bird", "shirt", "stone", "boat")
RESPONSES = (1, 2, 5, 10)
#: Kind of student -> steps and learning rate.
STUDENTS = {"memorises": (250, 0.01), "generalises": (40, 0.005)}
COLUMNS = ("student", "k", "component", "predicted", "observed", "lower", "upper", "ratio", "law")


class Transformer(torch.nn.Module):
    """One layer of causal attention and one of GELU units, read out at the last word.

    Parameters
    ----------
    n_features : int
        Words in a prompt times words there are; inputs are indicators.
    n_outputs : int
        Answers.
    """

    def __init__(self, n_features: int, n_outputs: int, *, length: int = 2, width: int = 32, n_heads: int = 2) -> None:
        super().__init__()
        self.length, self.n_heads = length, n_heads
        self.words = torch.nn.Parameter(torch.randn(n_features // length, width))
        self.places = torch.nn.Parameter(torch.randn(length, width))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(3))
        self.attend, self.join = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.answer = torch.nn.Linear(width, n_outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits of the answers, one row a prompt."""
        hidden = inputs.reshape(len(inputs), self.length, -1) @ self.words + self.places
        rows, length, width = hidden.shape
        split = self.attend(self.norms[0](hidden)).reshape(rows, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / (width // self.n_heads) ** 0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ value
        hidden = hidden + self.join(mixed.transpose(1, 2).reshape(rows, length, width))
        hidden = hidden + self.down(torch.nn.functional.gelu(self.up(self.norms[1](hidden))))
        return torch.as_tensor(self.answer(self.norms[2](hidden[:, -1])))


def teacher_of(loaded: LanguageModel) -> tuple[kd.CategoricalTeacher, float]:
    """Return the model's law of colours for each pair of words, and the mean probability of a colour."""
    pairs = [(i, len(KINDS) + j) for i in range(len(KINDS)) for j in range(len(THINGS))]
    words = KINDS + THINGS
    prompts = [f"The color of the {words[first]} {words[second]} is" for first, second in pairs]
    indicators = np.eye(len(words))[np.array(pairs)].reshape(len(pairs), -1)
    answers = [f" {color}" for color in COLORS]
    found = single_token_answers(loaded, prompts, answers=answers, inputs=indicators, prompt_format="plain")
    return replace(found.teacher, class_labels=COLORS), float(found.mass.mean())


def measure(
    teacher: kd.CategoricalTeacher, kind: str, *, k: int, n_students: int, seed: int, share: float
) -> tuple[list[tuple[Any, ...]], kd.EffectiveResponses]:
    """Return rows of the table, components with intervals over students, and what the first student predicts."""
    steps, rate = STUDENTS[kind]
    student = kd.NetworkStudent(
        module=Transformer, head="softmax", learning_rate=rate, epochs=max(1, round(share * steps))
    )
    design = kd.Design(n_responses=k, strategy="single" if k == 1 else "multi_response")
    predicted = kd.predict(kd.DistillationProblem(teacher=teacher, student=kd.TabularStudent(), design=design))
    problem = kd.DistillationProblem(teacher=teacher, student=student, design=design)
    laws = kd.observe(problem, n_students=n_students, rng=seed).student_predictions
    assert laws is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kd.errors.ApproximationWarning)  # the regime is printed
        pilot = kd.effective_responses(
            laws.transpose("student", "point", "output").values[0],
            draw_class_counts(problem, as_seeds(seed), 0)[0],
            teacher_probabilities=teacher.probabilities,
        )
    table = laws.rename("p").to_series().unstack("output").reset_index()
    found = kd.decompose_classes(table, classes=list(COLORS), replicate=None).average()
    bounds, rows = found.interval(), []
    for name in ("inter_student", "intra_student", "total"):
        expected = float(getattr(predicted, name).sum("output").mean())
        value = getattr(found, name).item()
        lower, upper = (float(bounds.sel(component=name, ci_bound=end).item()) for end in ("lower", "upper"))
        law = "holds" if lower <= expected <= upper else "departs"
        ratio = value / expected if expected > 1e-12 else float("nan")
        rows.append((kind, k, name, expected, value, lower, upper, ratio, law))
    return rows, pilot


def show(
    rows: pd.DataFrame, pilots: dict[tuple[str, int], kd.EffectiveResponses], gini: float, mass: float, n_students: int
) -> str:
    """Return the table as text."""
    size = f"{len(KINDS) * len(THINGS)} prompts, {len(COLORS)} colours"
    head = f"{'student':<12}{'k':>3}  {'component':<14}{'tabular law':>12}{'observed':>10}  {'95% interval':<18}"
    lines = [
        f"{n_students} students of each kind, {size} (the model gives them {100 * mass:.0f}% of its probability)",
        f"Gini index of the teacher's answers, averaged over prompts: G = {gini:.4f}",
        "",
        f"{head}{'ratio':>7}  law",
        "-" * 88,
    ]
    for row in rows.itertuples():
        interval = f"[{row.lower:.4f}, {row.upper:.4f}]"
        numbers = f"{row.predicted:>12.4f}{row.observed:>10.4f}  {interval:<18}{row.ratio:>7.3f}"
        lines.append(f"{row.student:<12}{row.k:>3}  {row.component:<14}{numbers}  {row.law}")
    lines += ["", "effective number of responses, G / inter_student:"]
    between = rows[rows["component"] == "inter_student"]
    for kind, part in between.groupby("student", sort=False):
        shown = [
            f"{gini / row.observed:.2f} [{gini / row.upper:.2f}, {gini / row.lower:.2f}] at k={row.k}"
            for row in part.itertuples()
        ]
        lines.append(f"  {kind}: {', '.join(shown)}")
    lines += ["", "inter_student predicted from the first student alone, in units of the tabular law:"]
    for (kind, k), one in pilots.items():
        law = one.gini / k
        low, high = (bound / law for bound in one.interval())
        lines.append(
            f"  {kind:<12} k={k:<3} {one.inter_student / law:.3f} ± {one.standard_error / law:.3f} "
            f"[{low:.3f}, {high:.3f}]  bounds [{one.bounds[0] / law:.3f}, {one.bounds[1] / law:.3f}]  {one.regime}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--students", type=int, default=64)
    parser.add_argument("--model", help="folder of another language model that knows the words")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for single_token.csv and single_token.txt")
    parser.add_argument("--quick", action="store_true", help="fewer students and steps: shows that it runs, no more")
    options = parser.parse_args(arguments)
    loaded = load_language_model(options.model or fetch(["teacher"])["teacher"])
    teacher, mass = teacher_of(loaded)
    n_students, share = (30, 0.02) if options.quick else (options.students, 1.0)
    rows: list[tuple[Any, ...]] = []
    pilots = {}
    for kind in STUDENTS:
        for k in RESPONSES:
            found, pilots[kind, k] = measure(teacher, kind, k=k, n_students=n_students, seed=options.seed, share=share)
            rows += found
            print(f"{kind}, k = {k} done", file=sys.stderr)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    text = show(table, pilots, float(teacher.gini.mean()), mass, n_students)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out / "single_token.csv", index=False)
        (options.out / "single_token.txt").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
