"""Trained students of a language model: read from their files, asked one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstats.errors import invalid
from kdstats.observation.language.layers import Base
from kdstats.observation.language.libraries import load_file
from kdstats.observation.language.models import LanguageModel, fingerprint
from kdstats.observation.language.responses import as_prompts, sample_answers
from kdstats.problem.language import LanguageSampling, LanguageStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.streams import Seeds, as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LanguageStudents"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LanguageStudents:
    """Students that were trained alike, one file each.

    Attributes
    ----------
    folder : Path
    student : LanguageStudent
        How they were trained.
    base : Base
        The model that they start from; it holds the parameters of one of them at a time.
    seeds : Seeds
    sources : tuple of str
        What tells them apart.
    n_students : int
    """

    folder: Path
    student: LanguageStudent
    base: Base
    seeds: Seeds
    sources: tuple[str, ...]
    n_students: int

    def path(self, number: int) -> Path:
        """Return the file of a student."""
        return self.folder / f"student-{number:04d}.safetensors"

    def number_of(self, source: str, number: int) -> int:
        """Return the number that a student draws from a source with: its own, or 0 where the source is left out."""
        return number if source in self.sources else 0

    def load(self, number: int) -> LanguageModel:
        """Return a student; it is the same model object for all, and good until the next one is loaded.

        Raises
        ------
        ProblemError
            If there is no student of this number.
        """
        number = as_count("number", number, minimum=0)
        if number >= self.n_students:
            raise invalid("number", f"be less than the number of students, {self.n_students}", number)
        start = self.number_of("student_initialization", number)
        self.base.put(load_file(self.path(number)), self.seeds, start)
        return replace(self.base.loaded, name=f"{self.base.loaded.name}-student-{number}")

    def sample(
        self,
        prompts: Sequence[str] | Mapping[Any, str],
        *,
        n_responses: int = 1,
        sampling: LanguageSampling | None = None,
        rng: Any = None,
        batch_size: int = 64,
        keep: bool = True,
        progress: ProgressLike = None,
    ) -> pd.DataFrame:
        """Return the answers of all students; those that were asked before are read from the folder.

        Parameters
        ----------
        prompts, n_responses, batch_size
            As in :func:`kdstats.sample_responses`.
        sampling : LanguageSampling, optional
            Default: greedy answers of 64 tokens at most.
        rng : int, Generator, SeedSequence, Seeds or None
            Source ``student_output``; each student has streams of its own. Default: the seeds of training.
        keep : bool, default True
            Keep answers in a response store beside each student.
        progress : bool or callable, optional
            Counts students.

        Returns
        -------
        DataFrame
            As :func:`kdstats.sample_responses` returns it, with ``source`` "student" and the numbers in ``student``.
        """
        import pandas as pd

        named, parts = as_prompts(prompts), []
        if sampling is None:
            sampling = LanguageSampling(temperature=0.0)
        seeds = self.seeds if rng is None else as_seeds(rng)
        with Progress(progress) as bar:
            for number in range(self.n_students):
                one = self.load(number)
                if keep:
                    one = replace(one, fingerprint=fingerprint(one.model, one.tokenizer))
                parts.append(
                    sample_answers(
                        one,
                        named,
                        n_responses=n_responses,
                        sampling=sampling,
                        prompt_format=self.student.prompt_format,
                        system=self.student.system,
                        seeds=seeds,
                        store=self.folder / f"answers-{number:04d}" if keep else None,
                        batch_size=batch_size,
                        student=number,
                    )
                )
                bar.show(number + 1, self.n_students)
        return pd.concat(parts, ignore_index=True)

    def summary(self) -> str:
        """Return how many students there are, of what kind and at what budget."""
        student, rows = self.student, self.student.n_steps * self.student.batch_size
        size = sum(value.numel() for value in self.base.trained.values())
        return (
            f"{self.n_students} students of {self.base.loaded.name} ({student.method}, {size:,} parameters trained, "
            f"{student.labels} labels)\n"
            f"budget of each: {student.n_steps} steps on {student.batch_size} rows, {rows} rows in all\n"
            f"they differ in: {', '.join(self.sources)}"
        )
