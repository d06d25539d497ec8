"""What students say next, token by token: read from their logits on given text, with no noise of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from kdstats.components.class_moments import cells_of_probabilities
from kdstats.components.classes import ClassComponents, estimate_classes
from kdstats.errors import invalid
from kdstats.observation.duplicates import agreeing_students, duplicate_error
from kdstats.observation.language.libraries import torch
from kdstats.observation.language.models import LanguageModel, load_language_model
from kdstats.observation.language.rows import Row, answer_logits, encode_rows, joined
from kdstats.observation.language.store import as_responses
from kdstats.observation.language.students import LanguageStudents
from kdstats.observation.language.training import refuse_other_vocabulary
from kdstats.problem.language import LanguageTeacher
from kdstats.problem.validation import as_count, as_probability
from kdstats.progress import Progress, ProgressLike

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TokenComponents", "decompose_tokens"]

FloatArray = NDArray[np.float64]

#: Bytes of students' probabilities that are kept.
MOST_BYTES = 2**31
#: Positions whose whole laws are held in double precision at a time.
CHUNK = 128
MEASURES = ("gini", "entropy", "log_probability", "kl_from_teacher")


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenComponents:
    """Disagreement and doubt of students about the next token of a text.

    Attributes
    ----------
    classes : ClassComponents
        Of the ``n_tokens`` likeliest tokens and all others as one class; a point is a position in an answer.
    by_position : DataFrame
        One row a student and position: ``student``, ``prompt``, ``row`` (of the responses), ``position`` (in the
        answer, its end counted), ``token``, and over the whole vocabulary ``gini``, ``entropy`` (nats),
        ``log_probability`` of the token, and ``kl_from_teacher``, the divergence KL(teacher, student) in nats (NaN
        without a teacher).
    rest : float
        Mean probability of all other tokens.
    attrs : mapping
        ``n_students``, ``n_positions``, ``n_tokens``, ``n_rows``.

    Notes
    -----
    Taking the other tokens, of probability r, for one class lowers the Gini index of a law by between 0 and r². The
    measures of ``by_position`` are over the whole vocabulary.
    """

    classes: ClassComponents
    by_position: pd.DataFrame
    rest: float
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def averages(self, prob: float = 0.95) -> pd.DataFrame:
        """Return the measures averaged over positions, with intervals over students for these texts.

        Parameters
        ----------
        prob : float, default 0.95

        Returns
        -------
        DataFrame
            Rows ``gini``, ``entropy``, ``log_probability``, ``kl_from_teacher``; columns ``estimate``,
            ``standard_error``, ``lower``, ``upper`` (Student's t; NaN with one student).
        """
        import pandas as pd

        prob = as_probability("prob", prob)
        means = self.by_position.groupby("student")[list(MEASURES)].mean()
        n = len(means)
        errors = means.std(ddof=1) / np.sqrt(n)
        reach = errors * (stdtrit(n - 1, 0.5 + prob / 2) if n > 1 else np.nan)
        center = means.mean()
        columns = {"estimate": center, "standard_error": errors, "lower": center - reach, "upper": center + reach}
        return pd.DataFrame(columns)

    def summary(self, prob: float = 0.95) -> str:
        """Return a printable table of the components and measures, averaged over positions."""
        lines = [self.classes.summary(prob), ""]
        lines.append(
            f"Over the whole vocabulary ({100 * self.rest:.2g}% of it beyond the {self.attrs['n_tokens']} tokens)"
        )
        for name, row in self.averages(prob).iterrows():
            numbers = f"{row['estimate']:>#10.4g}{row['standard_error']:>#10.2g}"
            lines.append(f"{name:<20}{numbers}  [{row['lower']:#.4g}, {row['upper']:#.4g}]")
        return "\n".join(lines)


def decompose_tokens(
    students: LanguageStudents,
    responses: Any,
    *,
    teacher: LanguageTeacher | LanguageModel | None = None,
    n_tokens: int = 64,
    batch_size: int = 16,
    progress: ProgressLike = None,
) -> TokenComponents:
    """Split students' next-token laws on a text into parts between and within them, exactly from their logits.

    Parameters
    ----------
    students : LanguageStudents
        At least two.
    responses : DataFrame or path
        The text: ``prompt`` and ``response`` (and ``ended``). Each student is shown prompt and answer, and asked for
        its law of every token of the answer given those before. Duplicate rows count twice.
    teacher : LanguageTeacher or LanguageModel, optional
        Of the same vocabulary; its likeliest tokens are the classes, and students' divergence from it is measured (at
        temperature 1). Default: the classes are student 0's likeliest tokens.
    n_tokens : int, default 64
        Classes besides the rest; memory is 8 (n_tokens + 1) bytes for each student and position, up to 2 GB.
    batch_size : int, default 16
        Rows computed together.
    progress : bool or callable, optional
        Counts rows.

    Returns
    -------
    TokenComponents
        Its intervals are over students, for these texts.

    Raises
    ------
    ProblemError
        With fewer than two students, another vocabulary, or too many positions for memory.
    DuplicateStudentsError
        If students give the same probabilities.
    """
    if not isinstance(students, LanguageStudents) or students.n_students < 2:
        shown = f"{students.n_students}" if isinstance(students, LanguageStudents) else f"a {type(students).__name__}"
        raise invalid("students", "be at least 2 trained students, to tell what they differ by", shown)
    n_tokens, batch_size = as_count("n_tokens", n_tokens), as_count("batch_size", batch_size)
    frame, base = as_responses(responses), students.base.loaded
    n_tokens = min(n_tokens, int(base.model.config.vocab_size) - 1)
    if isinstance(teacher, LanguageTeacher):
        teacher = load_language_model(teacher.model, dtype=teacher.dtype)
    if teacher is not None:
        refuse_other_vocabulary(base, teacher)
    rows = encode_rows(frame, base, students.student)
    n_positions = sum(row.n_answer for row in rows)
    size = 8 * (n_tokens + 1) * students.n_students * n_positions
    if size > MOST_BYTES:
        rule = f"need at most {MOST_BYTES / 2**30:g} GB for {n_tokens} tokens (n_tokens), students and positions"
        raise invalid("responses", rule, f"{size / 2**30:.1f} GB")
    kept, measures = np.empty((students.n_students, n_positions, n_tokens + 1)), []
    done = 0
    with Progress(progress) as bar:
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            place = slice(done, done + sum(row.n_answer for row in part))
            kept[:, place], measured = _observe_batch(students, part, teacher, n_tokens=n_tokens)
            measures.append(measured)
            done = place.stop
            bar.show(first + len(part), len(rows))
    flat = kept.reshape(students.n_students, -1)
    copies = agreeing_students(flat, np.zeros(flat.shape[1]))
    if copies:
        raise duplicate_error(copies, np.arange(students.n_students))
    return _assembled(students, frame, rows, kept, np.concatenate(measures, axis=1))


def _observe_batch(
    students: LanguageStudents, rows: list[Row], teacher: LanguageModel | None, *, n_tokens: int
) -> tuple[FloatArray, FloatArray]:
    """Return probabilities of the classes, shape (S, positions, n_tokens + 1), and measures, (S, positions, 4)."""
    batch = joined(rows)
    at = batch.targets >= 0
    targets = batch.targets[at]
    with torch.no_grad():
        reference = None if teacher is None else answer_logits(teacher.model, batch)[at]
        top = None if reference is None else reference.topk(n_tokens, dim=-1).indices
        classes, measures = [], []
        for number in range(students.n_students):
            logits = answer_logits(students.load(number).model, batch)[at]
            if top is None:
                top = logits.topk(n_tokens, dim=-1).indices
            pieces = [
                _measure(logits[cut], targets[cut], top[cut], None if reference is None else reference[cut])
                for cut in (slice(first, first + CHUNK) for first in range(0, len(targets), CHUNK))
            ]
            classes.append(np.concatenate([piece[0] for piece in pieces]))
            measures.append(np.concatenate([piece[1] for piece in pieces]))
    return np.stack(classes), np.stack(measures)


def _measure(logits: Any, targets: Any, top: Any, reference: Any) -> tuple[FloatArray, FloatArray]:
    logarithms = logits.double().log_softmax(-1)
    law = logarithms.exp()
    chosen = law.gather(-1, top)
    rest = (1.0 - chosen.sum(-1, keepdim=True)).clamp(min=0.0)
    divergence = torch.full_like(law[:, 0], torch.nan)
    if reference is not None:
        theirs = reference.double().log_softmax(-1)
        divergence = (theirs.exp() * (theirs - logarithms)).sum(-1)
    said = logarithms.gather(-1, targets[:, None])[:, 0]
    measured = torch.stack([1.0 - (law**2).sum(-1), -(law * logarithms).sum(-1), said, divergence], dim=-1)
    probabilities = torch.cat([chosen, rest], dim=-1)
    return (probabilities / probabilities.sum(-1, keepdim=True)).numpy(), measured.numpy()


def _assembled(
    students: LanguageStudents, frame: pd.DataFrame, rows: list[Row], kept: FloatArray, measures: FloatArray
) -> TokenComponents:
    import pandas as pd

    n_students, n_positions, n_classes = kept.shape
    lengths = np.array([row.n_answer for row in rows])
    row_of = np.repeat(np.arange(len(rows)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    cells = cells_of_probabilities(
        kept.reshape(-1, n_classes), np.arange(n_students * n_positions), shape=(n_students, n_positions), known=True
    )
    classes = estimate_classes(
        cells,
        classes=[*(f"rank {rank}" for rank in range(1, n_classes)), "rest"],
        points=[(int(row), int(place)) for row, place in zip(row_of, position, strict=True)],
        kind="next-token probabilities",
        known=True,
        notes=["Points are (row, position) of the text; intervals are over students, for these texts."],
    )
    tokens = np.concatenate([row.tokens[-row.n_answer :] for row in rows])
    table = {
        "student": np.repeat(np.arange(n_students), n_positions),
        "prompt": np.tile(frame["prompt"].to_numpy()[row_of], n_students),
        "row": np.tile(row_of, n_students),
        "position": np.tile(position, n_students),
        "token": np.tile(tokens, n_students),
    }
    table |= dict(zip(MEASURES, measures.reshape(-1, len(MEASURES)).T, strict=True))
    return TokenComponents(
        classes=classes,
        by_position=pd.DataFrame(table),
        rest=float(kept[..., -1].mean()),
        attrs={"n_students": n_students, "n_positions": n_positions, "n_tokens": n_classes - 1, "n_rows": len(rows)},
    )
