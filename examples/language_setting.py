"""What the examples with a real language model share: how much is run, the models, the questions, the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

import kdstats as kd
from kdstats.components.crossed_means import crossed_mean, pair_contributions
from kdstats.observation.language.embedding import SentenceEmbedder
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.parts import fetch
from kdstats.observation.responses.files import read_trivia

SYSTEM: str | None = "Answer in a few words."
TOP_K = 50


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    prompts: int
    students: int = 5
    outputs: int = 3
    steps: int
    batch_size: int = 8
    new_tokens: int
    layers: int = 24
    adapted: int = 8
    learning_rate: float = 2e-3
    dtype: str = "float32"


ScaleType = TypeVar("ScaleType", bound=Scale)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Models loaded, and the questions asked."""

    model: str
    loaded: Any
    embed: Any
    student: kd.LanguageStudent
    prompts: Mapping[str, str]
    references: Mapping[str, list[str]]

    def without(self, prompts: set[str]) -> Setting:
        """Return the setting without some questions."""
        return replace(self, prompts={name: text for name, text in self.prompts.items() if name not in prompts})


def prepare(scale: Scale, *, model: str | None, embedder: str | None, seed: int) -> Setting:
    """Fetch what is not given, load it and choose the questions."""
    given = {"teacher": model, "embedder": embedder, "questions": None}
    parts = fetch([name for name, folder in given.items() if folder is None])
    questions = read_trivia(parts["questions"])
    chosen = questions.iloc[np.sort(np.random.default_rng(seed).permutation(len(questions))[: scale.prompts])]
    source = str(model or parts["teacher"])
    return Setting(
        model=source,
        loaded=load_language_model(source, dtype=scale.dtype),
        embed=SentenceEmbedder(embedder or parts["embedder"]),
        student=kd.LanguageStudent(
            source,
            n_layers=scale.layers,
            adapted_layers=scale.adapted,
            n_steps=scale.steps,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            system=SYSTEM,
            dtype=scale.dtype,
        ),
        prompts=dict(zip(chosen["prompt_id"], chosen["prompt"], strict=True)),
        references=dict(zip(chosen["prompt_id"], chosen["references"], strict=True)),
    )


def teacher_at(setting: Setting, scale: Scale, temperature: float) -> kd.LanguageTeacher:
    """Return the teacher that answers at a temperature; 0 is greedy."""
    return kd.LanguageTeacher(setting.model, sampling=sampling_at(scale, temperature), system=SYSTEM, dtype=scale.dtype)


def sampling_at(scale: Scale, temperature: float) -> kd.LanguageSampling:
    """Return how answers are drawn at a temperature; 0 is greedy."""
    cut = TOP_K if temperature > 0 else None
    return kd.LanguageSampling(temperature=temperature, top_k=cut, max_new_tokens=scale.new_tokens)


def label_variance(rows: pd.DataFrame, setting: Setting) -> dict[str, float]:
    """Return the variance between students of the mean embedding of a prompt's labels: inter, if each memorised.

    ``rows`` has ``student``, ``prompt_id`` and ``response``, the same prompts for every student.
    """
    vectors = setting.embed(rows["response"].tolist())
    keys = [rows["student"].to_numpy(), rows["prompt_id"].to_numpy()]
    means = pd.DataFrame(vectors).groupby(keys).mean()
    cube = means.to_numpy().reshape(rows["student"].nunique(), rows["prompt_id"].nunique(), -1)
    found = crossed_mean((cube**2).sum(axis=-1) - pair_contributions(cube))
    return {"estimate": found.estimate, "standard_error": found.standard_error}


def parser_of(description: str | None, scale: type[Scale], *, out: str) -> argparse.ArgumentParser:
    """Return the command line: where to write, which models, and every size of the scale."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--quick", action="store_true", help="a few minutes: shows that it runs, no more")
    parser.add_argument("--model", help="teacher, a folder or a name on the hub, in place of SmolLM2")
    parser.add_argument("--embedder", help="folder of a sentence encoder, in place of MiniLM")
    for field in fields(scale):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")
    return parser


def scale_of(options: argparse.Namespace, default: ScaleType) -> ScaleType:
    """Return the scale with the sizes that the command line gives."""
    given = {field.name: getattr(options, field.name) for field in fields(default)}
    return replace(default, **{name: value for name, value in given.items() if value is not None})
