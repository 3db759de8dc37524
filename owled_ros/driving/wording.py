"""The text of answers: decoration taken off, signs brought to ASCII, numbers read strictly. Needs nothing.

Models wrap what they were asked for: quotes, bold, a code fence, "Answer:" before it. Taking that off changes no meaning;
everything beyond it does, and is left for the grammars to refuse.
"""

from __future__ import annotations

import re

from owled_ros.errors import OwledError

NUMBER = r"[+-]?(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,8})?"  # no exponent, no inf or nan, no half written "5."
LAYERS = 8  # of decoration that are taken off
_SIGNS = str.maketrans({"\u2212": "-", "\u00b2": "2", "\u00b3": "3", "\u00a0": " ", "\u202f": " "})
_PAIRS = (
    *((mark, mark) for mark in ("**", "__", "*", '"', "'", "`")),
    *(("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u00ab", "\u00bb")),
)
_FENCE = re.compile(r"```[ \t]*(?:[A-Za-z0-9_+-]*[ \t]*\n)?(?P<inside>.*?)```", re.DOTALL)
_LABEL = re.compile(r"(?P<mark>\*\*|__|)(?:final )?answer(?:(?P=mark):|:(?P=mark))", re.IGNORECASE)


class AnswerError(OwledError):
    """The text is not an answer; the message says what was expected."""


def plain(text: str) -> str:
    """Return a text without the decoration that encloses all of it, and with ASCII signs."""
    text = text.translate(_SIGNS).strip()
    for _ in range(LAYERS):
        inner = _undecorated(text).strip()
        if inner == text:
            break
        text = inner
    return text


def shown(text: str, width: int = 80) -> str:
    """Quote a text for a message, shortened."""
    return repr(text if len(text) <= width else text[: width - 3] + "...")


def check_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    """Raise AnswerError for a value outside of its range."""
    if not low - 1e-9 <= value <= high + 1e-9:
        raise AnswerError(f"{name} {value:+g} {unit} is out of range; expected {low:+g} to {high:+g} {unit}")


def unfenced(text: str) -> str | None:
    """Return what stands in the one code fence that a text is; None when it is anything else."""
    match = _FENCE.fullmatch(text.strip())
    return match["inside"] if match and "```" not in match["inside"] else None


def _undecorated(text: str) -> str:
    inside = unfenced(text)
    if inside is not None:
        return inside
    label = _LABEL.match(text)
    if label:
        return text[label.end() :]
    for opening, closing in _PAIRS:
        inner = text[len(opening) : -len(closing)]
        enclosed = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if enclosed and opening not in inner and closing not in inner:
            return inner
    return text
