"""Students of a language model: trained on its answers one by one, kept on disk, and resumed where they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.errors import DivergedStudentError, StudyError, invalid
from kdstats.files import write_atomically
from kdstats.networks.descent import Optimizer
from kdstats.observation.duplicates import duplicate_error
from kdstats.observation.language.layers import Base
from kdstats.observation.language.libraries import SafetensorError, load_file, safe_open, save_file, torch
from kdstats.observation.language.lower_layers import LowerLayers
from kdstats.observation.language.models import LanguageModel, load_language_model
from kdstats.observation.language.rows import Batch, Row, answer_logits, encode_rows, joined, student_rows
from kdstats.observation.language.sampling import truncated_law
from kdstats.observation.language.students import LanguageStudents
from kdstats.problem.language import LanguageSampling, LanguageStudent, LanguageTeacher
from kdstats.problem.student import NetworkStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.streams import Seeds, as_seeds

__all__ = ["SOURCES", "refuse_other_vocabulary", "train_language_students"]

#: Sources of randomness that can tell students apart before they answer.
SOURCES = ("teacher_output", "student_initialization", "data_order")


def train_language_students(
    student: LanguageStudent,
    responses: Any,
    *,
    n_students: int,
    folder: str | Path,
    n_responses: int | None = None,
    sources: Sequence[str] = SOURCES,
    rng: Any = None,
    teacher: LanguageTeacher | None = None,
    checkpoint_steps: int = 1,
    loaded: LanguageModel | None = None,
    loaded_teacher: LanguageModel | None = None,
    progress: ProgressLike = None,
) -> LanguageStudents:
    """Train students on a teacher's answers, each on its own, or resume where an interrupted run was.

    Parameters
    ----------
    student : LanguageStudent
    responses : DataFrame or path
        As :func:`kdstats.sample_responses` returns it, or any table with ``prompt`` and ``response`` (and ``ended``).
        With a filled column ``student``, that says whose rows they are; otherwise the first ``n_responses`` of each
        prompt are student 0's, the next ones student 1's, and so on.
    n_students : int
    folder : str or Path
        Where students are kept, one safetensors file each.
    n_responses : int, optional
        Answers to each prompt that a student sees. Default: as many as there are for all students alike.
    sources : sequence, optional
        Which of ``teacher_output`` (answers of one's own), ``student_initialization`` (a start of one's own) and
        ``data_order`` (an order of rows of one's own) tell students apart. What is left out is that of student 0
        for all. Default: all three.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    teacher : LanguageTeacher, optional
        For soft labels alone: whose next-token law, at its sampling settings, takes the place of the tokens.
    checkpoint_steps : int, default 1
        Steps after which parameters and the optimizer's moments are written, so that a run that is killed loses the
        batch it was at. With method ``"full"`` that is three times the model's size (some seconds for each gigabyte):
        more steps spare time at the risk of as many.
    loaded, loaded_teacher : LanguageModel, optional
        The models, if they are in memory; ``loaded`` is copied.
    progress : bool or callable, optional
        Counts steps of all students.

    Returns
    -------
    LanguageStudents

    Raises
    ------
    ProblemError
        If an option or answer does not fit, or the vocabularies of soft labels differ.
    DataError
        If there are too few answers, or empty ones.
    StudyError
        If the folder holds students of another configuration; the message names what differs.
    DuplicateStudentsError
        If two students end with the same parameters.
    DivergedStudentError
        If a loss leaves the finite numbers.

    Notes
    -----
    All rows of a student are used once before one is used again; each pass has an order of its own. A resumed student
    takes the steps of an uninterrupted one.
    """
    if not isinstance(student, LanguageStudent):
        raise invalid("student", "be a LanguageStudent", student)
    n_students = as_count("n_students", n_students)
    _check_sources(student, sources, n_students)
    if (student.labels == "soft") != (teacher is not None):
        raise invalid("teacher", "be given with labels='soft', and only then", teacher)
    every = as_count("checkpoint_steps", checkpoint_steps)
    k = None if n_responses is None else as_count("n_responses", n_responses)
    own_answers, seeds = "teacher_output" in sources, as_seeds(rng)
    parts = student_rows(responses, n_students=n_students, n_responses=k, own_answers=own_answers)
    loaded = loaded or load_language_model(student.model)
    rows = [encode_rows(part, loaded, student) for part in (parts if own_answers else parts[:1])]
    law = None
    if teacher is not None:
        loaded_teacher = loaded_teacher or load_language_model(teacher.model, dtype=teacher.dtype)
        refuse_other_vocabulary(loaded, loaded_teacher)
        law = _teacher_law(loaded_teacher, teacher.sampling)
    base = Base(loaded, student)
    record = _record(base, seeds, sources) | {"teacher": None}
    if teacher is not None and loaded_teacher is not None:
        record["teacher"] = {"fingerprint": loaded_teacher.fingerprint, "sampling": asdict(teacher.sampling)}
    made = LanguageStudents(
        folder=Path(folder), student=student, base=base, seeds=seeds, sources=tuple(sources), n_students=n_students
    )
    total = n_students * student.n_steps
    with Progress(progress) as bar:
        for number in range(n_students):
            done = number * student.n_steps

            def tell(step: int, done: int = done) -> None:
                bar.show(done + step, total)

            own = rows[number if own_answers else 0]
            _train(
                made,
                number,
                own,
                record=record | {"rows": _digest(own), "number": number},
                law=law,
                every=every,
                tell=tell,
            )
    _refuse_copies(made)
    return made


def _train(
    made: LanguageStudents,
    number: int,
    rows: Sequence[Row],
    *,
    record: dict[str, Any],
    law: Callable[[Batch], Any] | None,
    every: int,
    tell: Callable[[int], None],
) -> None:
    """Train one student from where it was to its last step, and write it."""
    base, student, seeds = made.base, made.student, made.seeds
    final, kept = made.path(number), made.path(number).with_suffix(".checkpoint.safetensors")
    if final.exists():
        _check_record(final, record)
        tell(student.n_steps)
        return
    base.start(seeds, made.number_of("student_initialization", number))
    lower = LowerLayers(base, rows)
    names, parameters = list(base.trained), list(base.trained.values())
    descent = Optimizer(NetworkStudent(optimizer="adam", learning_rate=student.learning_rate), parameters)
    moments = {f"mean:{name}": value for name, value in zip(names, descent.means, strict=True)}
    moments |= {f"square:{name}": value for name, value in zip(names, descent.squares, strict=True)}
    state = {**base.trained, **moments}
    if kept.exists():
        descent.n_steps = int(_check_record(kept, record)["step"])
        for name, value in load_file(kept).items():
            state[name].data.copy_(value)
    order = made.number_of("data_order", number)
    for step in range(descent.n_steps, student.n_steps):
        taken = [rows[i] for i in _rows_of_step(seeds, order, step, size=student.batch_size, n_rows=len(rows))]
        loss = _loss(lower, taken, law)
        if not torch.isfinite(loss):
            raise DivergedStudentError(
                f"student {number} diverged at step {step + 1} of {student.n_steps}: the loss is {loss.item()}; a "
                f"learning rate below {student.learning_rate:g} may help"
            )
        descent.step(torch.autograd.grad(loss, parameters))
        if (step + 1) % every == 0 and step + 1 < student.n_steps:
            _write(kept, state, record | {"step": step + 1})
        tell(step + 1)
    _write(final, base.trained, record | {"step": student.n_steps})
    kept.unlink(missing_ok=True)


def _loss(lower: LowerLayers, rows: Sequence[Row], law: Callable[[Batch], Any] | None) -> Any:
    student, batch = lower.base.student, joined(rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=student.dtype == "bfloat16" and student.method == "full"):
        logits = lower.logits(rows, batch)
    at = batch.targets >= 0
    if law is None:
        return torch.nn.functional.cross_entropy(logits[at], batch.targets[at])
    return torch.nn.functional.cross_entropy(logits[at], law(batch)[at])


def _rows_of_step(seeds: Seeds, number: int, step: int, *, size: int, n_rows: int) -> list[int]:
    """Return which rows a step takes: passes over all of them, each in a random order, cut into batches."""
    places = np.arange(step * size, (step + 1) * size)
    orders = {
        int(turn): seeds.generator("data_order", number, int(turn)).permutation(n_rows)
        for turn in np.unique(places // n_rows)
    }
    return [int(orders[int(place // n_rows)][place % n_rows]) for place in places]


def _teacher_law(loaded: LanguageModel, sampling: LanguageSampling) -> Callable[[Batch], Any]:
    """Return the function from a batch to the teacher's next-token laws at its answers."""

    def law(batch: Batch) -> Any:
        with torch.no_grad():
            return truncated_law(answer_logits(loaded.model, batch), sampling)

    return law


def _check_sources(student: LanguageStudent, sources: Sequence[str], n_students: int) -> None:
    unknown = [name for name in sources if name not in SOURCES]
    if unknown or isinstance(sources, str):
        raise invalid("sources", f"be among {', '.join(SOURCES)}", str(unknown or sources))
    same_start = student.method == "full" and not student.perturbation_sd
    if n_students > 1 and not set(sources) - ({"student_initialization"} if same_start else set()):
        why = " (students of method 'full' start alike without perturbation_sd)" if sources else ""
        raise invalid("sources", "have one that tells students apart", f"{', '.join(sources) or 'none'}{why}")


def refuse_other_vocabulary(student: LanguageModel, teacher: LanguageModel) -> None:
    """Raise an error unless token ids mean the same to both models."""
    mine, other = (loaded.tokenizer.get_vocab() for loaded in (student, teacher))
    sizes = [int(loaded.model.config.vocab_size) for loaded in (student, teacher)]
    if mine != other or sizes[0] != sizes[1]:
        differing = len(set(mine.items()) ^ set(other.items()))
        raise invalid(
            "teacher",
            "have the vocabulary of the student, token by token",
            f"{teacher.name!r} with {sizes[1]} tokens and {student.name!r} with {sizes[0]}, {differing} entries differ",
        )


def _record(base: Base, seeds: Seeds, sources: Sequence[str]) -> dict[str, Any]:
    """Return what a student's file is checked against."""
    options = asdict(base.student)
    del options["model"]  # the fingerprint tells
    used = {name: seed for name, seed in seeds.as_dict().items() if name in ("student_initialization", "data_order")}
    return {"model": base.loaded.fingerprint, **options, "seeds": used, "sources": sorted(sources)}


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps([[row.tokens, row.n_answer] for row in rows]).encode()).hexdigest()


def _check_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of itself, which must be what is asked for but for the step."""
    try:
        with safe_open(path, "pt") as stream:
            found: dict[str, Any] = json.loads(stream.metadata()["record"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        raise StudyError(f"`folder` must hold students that can be read; {path.name} is not one: delete it") from None
    differing = [name for name in record if found.get(name) != record[name]]
    if differing:
        shown = ", ".join(f"{name} {str(found.get(name))[:60]} there" for name in differing[:3])
        raise StudyError(
            f"`folder` must hold students of this configuration; {path.name} differs in {', '.join(differing)} "
            f"({shown}): take another folder, or delete it"
        )
    return found


def _write(path: Path, tensors: dict[str, Any], record: dict[str, Any]) -> None:
    kept = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_atomically(
        path, lambda part: save_file(kept, part, metadata={"record": json.dumps(record)}), parameter="folder"
    )


def _refuse_copies(made: LanguageStudents) -> None:
    groups: dict[str, list[int]] = {}
    for number in range(made.n_students):
        digest = hashlib.sha256()
        for name, value in sorted(load_file(made.path(number)).items()):
            digest.update(name.encode() + value.numpy().tobytes())
        groups.setdefault(digest.hexdigest(), []).append(number)
    copies = [np.array(group) for group in groups.values() if len(group) > 1]
    if copies:
        raise duplicate_error(copies, np.arange(made.n_students))
