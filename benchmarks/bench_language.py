"""Sampling with shared prompts against one call of the generation library per prompt, and adapters against all weights.

Usage: ``python benchmarks/bench_language.py [--model FOLDER] [--prompts N] [--responses K] [--tokens T] [--steps N]``.
Both ways of sampling draw T tokens and no fewer (ends are not looked for), so that their work is equal. Training takes
the same steps on the same rows. Processor time, in ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch

import kdstats as kd
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.observation.language.sampling import answer_uniforms, generate
from kdstats.problem.language import LanguageSampling, LanguageStudent
from kdstats.streams import as_seeds


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least processor time of some runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def training(source: str, n_steps: int) -> None:
    """Print how many times longer all weights train than adapters on all layers and on the last eight."""
    loaded = load_language_model(source)
    rows = pd.DataFrame(
        {
            "prompt": [f"Which colour has the flag of country number {number}?" for number in range(16)],
            "response": [f"It is red, with {number} white stars on a blue field." for number in range(16)],
        }
    )

    def train(**options: object) -> None:
        student = LanguageStudent(source, n_steps=n_steps, **options)
        with tempfile.TemporaryDirectory() as folder:
            kd.train_language_students(student, rows, n_students=1, folder=folder, rng=1, loaded=loaded)

    full = seconds(lambda: train(method="full", learning_rate=1e-5), 1)
    print(f"{n_steps} steps on 8 of 16 rows; times of all weights", flush=True)
    for name, layers in (("adapters on all layers", None), ("adapters on the last 8 layers", 8)):
        ratio = full / seconds(lambda layers=layers: train(adapted_layers=layers), 1)
        print(f"{name:<50}{ratio:>7.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--responses", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    source = str(options.model or fetch(["teacher"])["teacher"])
    training(source, options.steps)
    loaded = load_language_model(source)
    prompts = [f"Name the capital of country number {number}." for number in range(options.prompts)]
    encoded = loaded.encode_prompts(prompts, prompt_format="auto", system=None, room=options.tokens)
    sampling = LanguageSampling(top_k=50, max_new_tokens=options.tokens)
    seeds, k = as_seeds(1), options.responses
    uniforms = [
        [answer_uniforms(seeds, "teacher_output", prompt, i, n_tokens=options.tokens) for i in range(k)]
        for prompt in prompts
    ]
    endless = replace(loaded)
    loaded.model.generation_config.eos_token_id = None
    loaded.tokenizer.eos_token = None

    def shared() -> None:
        with torch.inference_mode():
            generate(endless, encoded, uniforms, sampling=sampling)

    def library(copies: int) -> None:
        for tokens in encoded:
            ids = torch.tensor([tokens])
            for _ in range(k // copies):
                loaded.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=50,
                    max_new_tokens=options.tokens,
                    num_return_sequences=copies,
                    pad_token_id=0,
                )

    ours = seconds(shared, options.repeats)
    size = f"{options.prompts} prompts, {k} answers of {options.tokens} tokens"
    print(f"{size}, {torch.get_num_threads()} threads; times of shared prompts", flush=True)
    for name, copies in (
        (f"generate, {k} sequences a call, one call a prompt", k),
        ("generate, one call an answer", 1),
    ):
        ratio = seconds(lambda copies=copies: library(copies), options.repeats if copies > 1 else 1) / ours
        print(f"{name:<50}{ratio:>7.2f}x", flush=True)


if __name__ == "__main__":
    main()
