"""A teacher's answers to prompts, sampled once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstats.errors import DataError, invalid
from kdstats.observation.language.models import LanguageModel, load_language_model
from kdstats.observation.language.sampling import answer_uniforms, generate
from kdstats.observation.language.store import COLUMNS, ResponseStore, response_key
from kdstats.problem.language import LanguageSampling, LanguageTeacher
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.streams import Seeds, as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_prompts", "read_prompts", "sample_answers", "sample_responses"]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Answers to one prompt that are computed in one batch."""

    prompt_id: str
    prompt: str
    key: str
    tokens: list[int]
    numbers: list[int]


def sample_responses(
    teacher: LanguageTeacher,
    prompts: Sequence[str] | Mapping[Any, str],
    *,
    n_responses: int = 1,
    store: str | Path | None = None,
    rng: Any = None,
    batch_size: int = 64,
    loaded: LanguageModel | None = None,
    progress: ProgressLike = None,
) -> pd.DataFrame:
    """Sample a teacher's answers to prompts, or read those that are in the store.

    Parameters
    ----------
    teacher : LanguageTeacher
    prompts : sequence of str, or mapping
        All different; a mapping names them. Sequences are named by position.
    n_responses : int, default 1
        Answers to each prompt.
    store : str or Path, optional
        Folder of a :class:`ResponseStore`. Each batch is added when it is finished, so that a run that is killed loses
        the batch it was at and no more; answers in the store are not sampled again. Default: nothing is kept.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`; the source is ``teacher_output``. The first answers of a larger number
        are the answers of a smaller one.
    batch_size : int, default 64
        Answers computed together. It changes answers through rounding alone: see the notes.
    loaded : LanguageModel, optional
        The teacher's model, if it is in memory.
    progress : bool or callable, optional
        Counts answers; see :class:`kdstats.progress.Progress`.

    Returns
    -------
    DataFrame
        One row an answer, in the order of prompts and numbers: ``prompt_id``, ``prompt``, ``response_index``,
        ``response``, ``token_ids`` (without the end), ``ended``, ``model``, ``temperature``, ``top_k``, ``top_p``,
        ``max_new_tokens``, ``seed``, ``source``, ``student``, ``logprob`` (of the answer and its end under the model at
        temperature 1, nats).

    Raises
    ------
    ProblemError
        If a prompt is empty, repeated or too long for the context, or the tokenizer has no end-of-sequence token.
    DataError
        If the model cannot be loaded, or the store holds another model's answers.

    Notes
    -----
    Each answer has a random stream of its own, addressed by its prompt and number. Batches of other sizes sum in
    another order, which moves probabilities by about 1e-7 (float32) and now and then a token with them. The batches are
    the same however much of them is in the store, so that an interrupted run ends with the answers of an uninterrupted
    one.
    """
    if not isinstance(teacher, LanguageTeacher):
        raise invalid("teacher", "be a LanguageTeacher", teacher)
    named = as_prompts(prompts)
    loaded = loaded or load_language_model(teacher.model, dtype=teacher.dtype)
    return sample_answers(
        loaded,
        named,
        n_responses=n_responses,
        sampling=teacher.sampling,
        prompt_format=teacher.prompt_format,
        system=teacher.system,
        store=store,
        seeds=as_seeds(rng),
        batch_size=batch_size,
        progress=progress,
    )


def sample_answers(
    loaded: LanguageModel,
    prompts: Mapping[str, str],
    *,
    n_responses: int,
    sampling: LanguageSampling,
    prompt_format: str,
    system: str | None,
    seeds: Seeds,
    store: str | Path | None = None,
    batch_size: int = 64,
    student: int | None = None,
    progress: ProgressLike = None,
) -> pd.DataFrame:
    """Return answers of a loaded teacher, or of student number ``student``; see :func:`sample_responses`."""
    import pandas as pd

    n_responses, batch_size = as_count("n_responses", n_responses), as_count("batch_size", batch_size)
    source = "teacher_output" if student is None else "student_output"
    seed = getattr(seeds, source)
    if seed >= 2**64:
        raise invalid("rng", "give seeds below 2**64", seed)
    loaded.end_token()
    encoded = loaded.encode_prompts(
        list(prompts.values()), prompt_format=prompt_format, system=system, room=sampling.max_new_tokens
    )
    settings = {**asdict(sampling), "prompt_format": prompt_format, "system": system}
    kept = None if store is None else ResponseStore(store, model=loaded.name, fingerprint=loaded.fingerprint)
    keys = {name: response_key(loaded.fingerprint, prompt, settings, seed=seed) for name, prompt in prompts.items()}
    known = {} if kept is None else kept.numbers()
    wanted = [
        _Wanted(prompt_id=name, prompt=prompt, key=keys[name], tokens=tokens, numbers=list(numbers))
        for (name, prompt), tokens in zip(prompts.items(), encoded, strict=True)
        for numbers in _chunks(n_responses, batch_size)
    ]
    path = () if student is None else (student,)
    rows: list[dict[str, Any]] = []
    total, done = len(prompts) * n_responses, 0
    with Progress(progress) as bar:
        for batch in _batches(wanted, batch_size):
            new = _sample_batch(loaded, batch, known, seeds=seeds, source=source, path=path, sampling=sampling)
            for row in new:
                row |= {"seed": seed, "source": source.removesuffix("_output"), "student": student}
            if kept is not None and new:
                kept.add(new)
            rows += new
            done += sum(len(part.numbers) for part in batch)
            bar.show(done, total)
    if kept is not None:
        frame = kept.read()
        frame = frame[frame["key"].isin(set(keys.values())) & (frame["response_index"] < n_responses)]
    else:
        frame = pd.DataFrame(rows)
    place = {key: number for number, key in enumerate(keys.values())}
    frame = frame.assign(_place=frame["key"].map(place)).sort_values(["_place", "response_index"], ignore_index=True)
    name_of = {key: name for name, key in keys.items()}
    frame["prompt_id"] = frame["key"].map(name_of)
    return frame[list(COLUMNS)].astype(
        {"top_k": "Int32", "max_new_tokens": "Int32", "student": "Int32", "seed": "UInt64"}
    )


def as_prompts(prompts: Any) -> dict[str, str]:
    """Return prompts by name; sequences are named by position."""
    if isinstance(prompts, str) or not isinstance(prompts, (Mapping, Sequence)) or not len(prompts):
        raise invalid("prompts", "be a sequence of texts, or a mapping of names to texts", prompts)
    items = prompts.items() if isinstance(prompts, Mapping) else enumerate(prompts)
    named = {str(name): prompt for name, prompt in items}
    seen: dict[str, str] = {}
    for name, prompt in named.items():
        if not isinstance(prompt, str) or not prompt.strip():
            raise invalid("prompts", "be text that is not empty", f"{prompt!r} at {name}")
        if prompt in seen:
            raise invalid("prompts", "be all different", f"{prompt!r} at {seen[prompt]} and {name}")
        seen[prompt] = name
    return named


def read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts of a file by name: one a line, or a table with ``prompt`` and maybe ``prompt_id``.

    Raises
    ------
    DataError
        If it cannot be read or has no column ``prompt``.
    """
    import pandas as pd

    try:
        if path.suffix in (".csv", ".jsonl", ".ndjson"):
            frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=False)
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame({"prompt": [line for line in lines if line.strip()]})
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise invalid("prompts", "be a file that can be read", f"{str(path)!r} ({reason})", DataError) from None
    if "prompt" not in frame.columns:
        raise invalid("prompts", "have a column 'prompt'", ", ".join(map(str, frame.columns)) or "none", DataError)
    names = frame["prompt_id"] if "prompt_id" in frame.columns else range(len(frame))
    return as_prompts({str(name): prompt for name, prompt in zip(names, frame["prompt"], strict=True)})


def _sample_batch(
    loaded: LanguageModel,
    batch: Sequence[_Wanted],
    known: Mapping[str, set[int]],
    *,
    seeds: Seeds,
    source: str,
    path: tuple[int, ...],
    sampling: LanguageSampling,
) -> list[dict[str, Any]]:
    """Return rows of the answers of a batch that are not known."""
    missing = [(part, [n for n in part.numbers if n not in known.get(part.key, ())]) for part in batch]
    missing = [(part, numbers) for part, numbers in missing if numbers]
    if not missing:
        return []
    uniforms = [
        [answer_uniforms(seeds, source, part.prompt, *path, n, n_tokens=sampling.max_new_tokens) for n in numbers]
        for part, numbers in missing
    ]
    answers = generate(loaded, [part.tokens for part, _ in missing], uniforms, sampling=sampling)
    return [
        {
            "key": part.key,
            "prompt_id": part.prompt_id,
            "prompt": part.prompt,
            "response_index": number,
            "response": loaded.tokenizer.decode(answer.tokens, skip_special_tokens=True),
            "token_ids": answer.tokens,
            "ended": answer.ended,
            "model": loaded.name,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
            "logprob": answer.log_probability,
        }
        for (part, numbers), found in zip(missing, answers, strict=True)
        for number, answer in zip(numbers, found, strict=True)
    ]


def _chunks(n_responses: int, batch_size: int) -> list[range]:
    return [range(first, min(first + batch_size, n_responses)) for first in range(0, n_responses, batch_size)]


def _batches(wanted: Sequence[_Wanted], batch_size: int) -> list[list[_Wanted]]:
    """Fill batches in order of the prompts' lengths, so that little is padded."""
    batches: list[list[_Wanted]] = []
    size = batch_size
    for part in sorted(wanted, key=lambda part: len(part.tokens)):
        if size + len(part.numbers) > batch_size:
            batches.append([])
            size = 0
        batches[-1].append(part)
        size += len(part.numbers)
    return batches
