"""Whether an answer says what a reference says: the same words, the reference within it, or nearly so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["FUZZY_THRESHOLD", "Match", "match", "normalized"]

#: Similarity from which a window of the answer is taken for a misspelt reference.
FUZZY_THRESHOLD = 0.85
ARTICLES = frozenset({"a", "an", "the"})
#: Characters of a reference below which letters must agree: "cat" and "car" are two-thirds the same.
SHORT = 4


@dataclass(frozen=True, kw_only=True)
class Match:
    """How far an answer agrees with the best of its references.

    Attributes
    ----------
    exact : bool
        Equal after normalisation.
    contained : bool
        All words of a reference occur in the answer, next to each other.
    fuzzy : bool
        Contained, or some run of as many words is as similar as the threshold asks.
    similarity : float
        Of the best such run, in [0, 1].
    """

    exact: bool
    contained: bool
    fuzzy: bool
    similarity: float


def normalized(text: str) -> str:
    """Return a text in lower case without accents, punctuation, articles and repeated spaces.

    >>> normalized("The  Café-au-lait!")
    'cafe au lait'
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = re.findall(r"\w+", plain.replace("_", " ").replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))
    return " ".join(word for word in words if word not in ARTICLES) or " ".join(words)


def match(answer: str, references: Sequence[str], *, threshold: float = FUZZY_THRESHOLD) -> Match:
    """Compare a normalised answer with normalised references.

    Parameters
    ----------
    answer : str
        From :func:`normalized`.
    references : sequence of str
        Different ways to say the same; empty ones match nothing.
    threshold : float, default 0.85
        Ratio of :class:`difflib.SequenceMatcher` on the letters of a window with as many words as the reference.
        References of fewer than 4 letters, and numbers, must agree in every letter.

    Examples
    --------
    >>> match("capital is paris", ["paris"])
    Match(exact=False, contained=True, fuzzy=True, similarity=1.0)
    """
    words = answer.split()
    exact, contained, best, near = False, False, 0.0, False
    for reference in references:
        wanted = reference.split()
        if not wanted or not words:
            continue
        exact = exact or answer == reference
        size = len(wanted)
        windows = [words[i : i + size] for i in range(max(len(words) - size + 1, 1))]
        if wanted in windows:
            contained, best = True, 1.0
            continue
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(reference)
        strict = len(reference) < SHORT or any(letter.isdigit() for letter in reference)
        for window in windows:
            matcher.set_seq1(" ".join(window))
            if matcher.real_quick_ratio() <= best or matcher.quick_ratio() <= best:
                continue
            best = max(best, matcher.ratio())
            near = near or (best >= threshold and not strict)
    return Match(exact=exact, contained=contained, fuzzy=contained or near, similarity=best)
