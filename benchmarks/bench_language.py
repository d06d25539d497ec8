"""Sampling with shared prompts against one call of the generation library per prompt, side by side in one run.

Usage: ``python benchmarks/bench_language.py [--model FOLDER] [--prompts N] [--responses K] [--tokens T]``. Both draw T
tokens and no fewer (ends are not looked for), so that their work is equal. Processor time, in ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.observation.language.sampling import answer_uniforms, generate
from kdstats.problem.language import LanguageSampling
from kdstats.streams import as_seeds


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least processor time of some runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--responses", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    loaded = load_language_model(options.model or fetch(["teacher"])["teacher"])
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
