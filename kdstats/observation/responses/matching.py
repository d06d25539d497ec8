"""Whether an answer says what a reference says: the same words, the reference within it, or nearly so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["FUZZY_THRESHOLD", "Match", "match", "normalized"]

#: Similarity from which a window of the answer is taken for a misspelt reference.
FUZZY_THRESHOLD = 0.85
ARTICLES = frozenset({"a", "an", "the"})
#: Characters of a reference below which letters must agree: "cat" and "car" are two-thirds the same.
SHORT = 4
#: Signs in other dresses, and what is no part of a word.
SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        "\u2044": "/",
        "\u266f": "#",
        "_": " ",
        "'": None,
        "\u2019": None,
    }
)
#: Punctuation that is an answer where it is all of it.
SIGNS = frozenset("#%&*/@\\-")
#: A fraction in one character, raised digits, and spaces within a number.
FRACTION, RAISED = (
    re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]"),
    re.compile("(?<=[0-9])(?=[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070-\u2079])(?<![\u00b2\u00b3\u00b9\u2070-\u2079])"),
)
GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")
GERMAN = re.compile(r"\d{1,3}(\.\d{3})+,\d+")
#: A number with what belongs to it, or a word. A hyphen is a sign where nothing stands right before it.
TOKEN = re.compile(
    r"""(?:(?P<relation>[<>]=?|[≤≥±])\s*)?
        (?:(?P<sign>(?<![\w)\]\-])[-+])[$€£¥]?(?=\.?\d))?
        [$€£¥]?(?<![\w])(?P<number>\d+(?:[.,:/]\d+)*|\.\d+)(?P<rest>(?:\^[-+]?\d+)?(?:e[-+]\d+(?!\w))?\w*)
      | \w+(?:(?<=\d)[.:/]\d+)*(?:\+\+|[+#♭](?!\w))?""",
    re.VERBOSE,
)


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
        Of the best such run for any reference, in [0, 1].
    """

    exact: bool
    contained: bool
    fuzzy: bool
    similarity: float


def normalized(text: str) -> str:
    """Return a text in lower case without accents, punctuation, articles and repeated spaces; numbers stay whole.

    A number is one word with its sign, decimals and relation (``-5``, ``0.5``, ``12:30``, ``1/2``, ``<5``, ``10^3``);
    separators of thousands and a plus are dropped, a comma between other than three digits is a decimal point. Words
    keep a trailing ``+`` or ``#``. A text of symbols alone keeps them.

    Words are what spaces and punctuation part: in scripts without spaces (Chinese, Japanese, Thai) a whole phrase is
    one word, so that a reference within an answer is not found there; split such texts into words first. A dot before
    three digits is a decimal point, whatever the language. Units and currencies do not count, nor does a minus after a
    word.

    >>> normalized("The  Café-au-lait!")
    'cafe au lait'
    >>> normalized("C++: it is −1,234.50, not 12:30")
    'c++ it is -1234.50 not 12:30'
    """
    plain = _plain(text)
    words = [_word(found) for found in TOKEN.finditer(plain)]
    kept = " ".join(word for word in words if word not in ARTICLES) or " ".join(words)
    return kept or "".join(letter for letter in plain if unicodedata.category(letter)[0] == "S" or letter in SIGNS)


def _plain(text: str) -> str:
    """Return a text in lower case without accents, apostrophes and underscores, its minus and fractions in ASCII."""
    text = FRACTION.sub(" \\g<0>", RAISED.sub("^", text.casefold()))
    plain = unicodedata.normalize("NFKD", GROUPED.sub("", text).translate(SYMBOLS))
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).translate(SYMBOLS)


def _word(found: re.Match[str]) -> str:
    if found["number"] is None:
        return found[0]
    number = found["number"]
    if GERMAN.fullmatch(number):
        number = number.replace(".", "").replace(",", ".")
    elif THOUSANDS.fullmatch(number):
        number = number.replace(",", "")
    else:
        number = number.replace(",", "." if number.count(",") == 1 else " ")
    relation = (found["relation"] or "").replace("<=", "≤").replace(">=", "≥")
    sign = "-" if found["sign"] == "-" else ""
    return relation + sign + ("0" if number.startswith(".") else "") + number + found["rest"]


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
    exact, contained, near, best = False, False, False, 0.0
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
            decides = not (strict or near)
            if any(most <= best and not (decides and most >= threshold) for most in _bounds(matcher)):
                continue
            ratio = matcher.ratio()
            best, near = max(best, ratio), near or (decides and ratio >= threshold)
    return Match(exact=exact, contained=contained, fuzzy=contained or near, similarity=best)


def _bounds(matcher: SequenceMatcher[str]) -> Iterator[float]:
    """Yield upper bounds of the ratio, the cheaper one first."""
    yield matcher.real_quick_ratio()
    yield matcher.quick_ratio()
