"""Adapters against all weights at equal quality: loss on responses that no student learnt, against processor time.

Usage: ``python benchmarks/bench_adapters.py [--model FOLDER] [--steps N] [--students S]``. Students are the
model without the 6 layers in its middle; each learns one response of its own to each prompt, sampled at temperature 1,
and is read on another response to the same prompts after a third of the steps and after all. Loss is the mean negative
log probability of a token, in nats. Student s of every method learns the same responses in the same order, so that
differences are paired over students: mean and 95% t interval, from all weights after those of both numbers of steps
that serve them better (more steps learn the responses by heart). Times are processor times in units of theirs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats

import kdstats as kd
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.observation.responses.files import read_trivia

METHODS = {
    "all weights": {"method": "full", "learning_rate": 5e-5},
    "adapters on all layers": {"learning_rate": 2e-3},
    "adapters on the last 8 layers": {"learning_rate": 2e-3, "adapted_layers": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--students", type=int, default=5, help="at least 2")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=12)
    options = parser.parse_args()
    if options.students < 2:
        parser.error(f"--students must be at least 2 (differences are over students), got {options.students}")
    parts = fetch(["teacher", "questions"] if options.model is None else ["questions"])
    source = str(options.model or parts["teacher"])
    loaded = load_language_model(source)
    questions = read_trivia(parts["questions"]).head(options.prompts)
    sampling = kd.LanguageSampling(top_k=50, max_new_tokens=options.tokens)
    teacher = kd.LanguageTeacher(source, sampling=sampling, system="Answer in a few words.")
    found: list[tuple[str, int, float, np.ndarray]] = []
    with tempfile.TemporaryDirectory() as folder:
        responses = kd.sample_responses(
            teacher,
            dict(zip(questions["prompt_id"], questions["prompt"], strict=True)),
            n_responses=options.students + 1,
            store=Path(folder) / "teacher",
            rng=1,
            loaded=loaded,
        )
        empty = set(responses["prompt_id"][responses["response"].str.strip() == ""])
        responses = responses[~responses["prompt_id"].isin(empty)]
        unseen = responses[responses["response_index"] == options.students]
        taught = responses.drop(unseen.index)
        for name, how in METHODS.items():
            for steps in (max(options.steps // 3, 1), options.steps):
                student = kd.LanguageStudent(
                    source, n_layers=options.layers, n_steps=steps, system=teacher.system, **how
                )
                began = time.process_time()
                made = kd.train_language_students(
                    student,
                    taught,
                    n_students=options.students,
                    n_responses=1,
                    folder=Path(folder) / f"{name}-{steps}",
                    rng=1,
                    loaded=loaded,
                )
                spent = time.process_time() - began
                losses = -kd.decompose_tokens(made, unseen).by_position.groupby("student")["log_probability"].mean()
                found.append((name, steps, spent, losses.to_numpy()))
                print(f"{name}, {steps} steps: loss {losses.mean():.3f} {np.round(losses.to_numpy(), 3)}", flush=True)
    full = [(spent, losses) for name, _, spent, losses in found if name == "all weights"]
    unit, ours = min(full, key=lambda one: one[1].mean())
    print(f"\n{'students':<32}{'steps':>6}{'loss':>8}{'time':>7}  difference in loss")
    for name, steps, spent, losses in found:
        print(f"{name:<32}{steps:>6}{losses.mean():>8.3f}{spent / unit:>7.2f}  {difference(losses - ours)}")


def difference(paired: np.ndarray) -> str:
    """Return the mean of paired differences with its 95% interval."""
    half = stats.t.ppf(0.975, len(paired) - 1) * stats.sem(paired)
    return f"{paired.mean():+.3f} [{paired.mean() - half:+.3f}, {paired.mean() + half:+.3f}]" if paired.any() else ""


if __name__ == "__main__":
    main()
