"""Lists of groups of numbers, "[(1.0, 0.0), (2.1, -0.1)]", read strictly and written. Needs numpy. Letters: N groups, K numbers."""

from __future__ import annotations

import re

import numpy as np

from owled_ros.driving.wording import NUMBER, AnswerError, plain, shown

_BRACKETS = (("[", "]"), ("(", ")"))


def parse_groups(text: str, count: int, names: tuple[str, ...], label: str = "") -> np.ndarray:
    """Read exactly `count` groups of one number for each name, (N, K); round or square brackets, the outer ones may be missing."""
    line = plain(text)
    for opening, closing in _BRACKETS:
        group = rf"{re.escape(opening)}\s*{NUMBER}(?:\s*,\s*{NUMBER}){{{len(names) - 1}}}\s*{re.escape(closing)}"
        listed = f"{_opened(label)}{group}(?:[\\s,;]+{group})*"
        outer = "|".join(rf"{re.escape(start)}\s*{listed}\s*{re.escape(end)}" for start, end in _BRACKETS)
        if re.fullmatch(rf"{listed}|{outer}", line, re.ASCII):
            body = line[line.index(label) + len(label) :] if label else line
            values = np.array([float(number) for number in re.findall(NUMBER, body)]).reshape(-1, len(names))
            if len(values) != count:
                raise AnswerError(f"answer has {len(values)} groups of numbers; expected {count}")
            return values
    raise AnswerError(f"answer {shown(text)} is no list; expected {count} times ({', '.join(names)}){_after(label)}")


def format_groups(
    values: np.ndarray, decimals: tuple[int, ...], brackets: str, label: str = "", row: bool = False
) -> str:
    """Write groups of numbers, each column with its own decimals; in a row: without the outer list, and with a sign from the second number on."""
    opening, closing = brackets[0], brackets[-1]
    signs = ("", *("+" if row else "",) * (len(decimals) - 1))
    groups = (
        opening
        + ", ".join(
            f"{round(float(value), places) + 0.0:{sign}.{places}f}"
            for value, places, sign in zip(group, decimals, signs, strict=True)
        )
        + closing
        for group in values
    )
    if row:
        return " ".join((label, *groups) if label else groups)
    return "[" + ", ".join((label, *groups) if label else groups) + "]"


def check_column(name: str, values: np.ndarray, low: float, high: float, unit: str) -> None:
    """Raise AnswerError for a number outside of its range."""
    bad = np.flatnonzero(~((values >= low) & (values <= high)))
    if len(bad):
        raise AnswerError(f"{name} {bad[0] + 1} is {values[bad[0]]:g} {unit}; expected {low:g} to {high:g} {unit}")


def _opened(label: str) -> str:
    return rf"{re.escape(label)}[\s,:]*" if label else ""


def _after(label: str) -> str:
    return f" after {label!r}" if label else ""
