"""How the one answer is cut out of the text around it. Needs pydantic.

Strict: what is not exactly one answer (none, two, half of one, reasoning that never ends, text around it that the profile does
not allow) raises AnswerError. What is cut away, the marks aside, is returned as reasoning.
"""

from __future__ import annotations

import re
from itertools import pairwise

from pydantic import Field, model_validator

from owled_ros.driving.answers.spec import Spec, Word
from owled_ros.driving.wording import AnswerError, plain, shown

_OPENING, _CLOSING = "[(", "])"
_FENCE = "```"


class Cutting(Spec):
    """Where the answer stands in what a model writes."""

    reasoning_start: str = "<think>"
    """Mark before the reasoning; reasoning comes first, once, and may be missing."""
    reasoning_end: str = "</think>"
    """Mark after the reasoning."""
    reasoning_opened: bool = False
    """The prompt ends within the reasoning: its end must appear."""
    begin: str = ""
    """Mark that the answer follows, exactly once; empty: none."""
    end: str = ""
    """Mark that ends the answer, exactly once; empty: none."""
    labels: tuple[Word, ...] = Field(default=("answer", "final answer"), strict=False)
    """Words that may stand before the answer, followed by a colon, in any case."""
    label_needed: bool = False
    """One of the labels must be there."""
    explanation: str = ""
    """What follows this mark after the answer explains it, such as 'Reason:'; may be missing."""
    brackets: bool = False
    """The answer is the one list in brackets that the text contains."""
    prose: bool = False
    """Text may stand before and after a marked, labelled, fenced or bracketed answer."""

    def of_reasoning(self) -> Cutting:
        """Return what holds for every answer of the model, also for descriptions: the reasoning before it."""
        return Cutting(
            reasoning_start=self.reasoning_start,
            reasoning_end=self.reasoning_end,
            reasoning_opened=self.reasoning_opened,
        )

    @model_validator(mode="after")
    def _whole(self) -> Cutting:
        if bool(self.reasoning_start) != bool(self.reasoning_end):
            raise ValueError("reasoning_start and reasoning_end: give both or neither")
        if self.reasoning_opened and not self.reasoning_end:
            raise ValueError("reasoning_opened needs reasoning_end")
        if self.brackets and not self.prose:
            raise ValueError("brackets searches in prose; expected prose: true")
        if self.label_needed and not self.labels:
            raise ValueError("label_needed needs labels")
        return self


def cut(text: str, cutting: Cutting) -> tuple[str, str]:
    """Return (answer, reasoning); raises AnswerError unless the text holds exactly one answer as the profile says."""
    aside: list[str] = []
    text = _after_reasoning(text, cutting, aside)
    text = _between_marks(text, cutting, aside)
    text = _before_explanation(text, cutting, aside)
    text = _after_label(text, cutting, aside)
    text = _within_fence(text, cutting, aside)
    if cutting.brackets:
        text = _bracketed(text, aside)
    answer = plain(text)
    if not answer:
        raise AnswerError("the text holds no answer; expected one")
    return answer, "\n".join(part for part in (part.strip() for part in aside) if part)


def marked(answer: str, cutting: Cutting) -> str:
    """Write the shortest text from which `cut` takes exactly this answer: what a model is trained to say."""
    text = f"{cutting.begin}{answer}{cutting.end}"
    if cutting.label_needed:
        text = f"{cutting.begin}{cutting.labels[0]}: {answer}{cutting.end}"
    return f"{cutting.reasoning_end}{text}" if cutting.reasoning_opened else text


def _after_reasoning(text: str, cutting: Cutting, aside: list[str]) -> str:
    start, end = cutting.reasoning_start, cutting.reasoning_end
    if not end:
        return text
    starts, ends = text.count(start), text.count(end)
    if starts > 1 or ends > 1:
        raise AnswerError(f"reasoning begins {starts} times and ends {ends} times; expected once each")
    if not ends:
        if starts or cutting.reasoning_opened:
            raise AnswerError(f"the reasoning never ends; expected {end!r} and the answer after it")
        return text
    reasoning, rest = text.split(end)
    if starts:
        if start not in reasoning:
            raise AnswerError(f"{end!r} stands before {start!r}; expected the reasoning between them")
        before, reasoning = reasoning.split(start)
        _set_aside(before, cutting, aside, f"before {start!r}")
    aside.append(reasoning)
    return rest


def _between_marks(text: str, cutting: Cutting, aside: list[str]) -> str:
    for mark in filter(None, (cutting.begin, cutting.end)):
        if text.count(mark) != 1:
            raise AnswerError(f"the mark {mark!r} appears {text.count(mark)} times; expected once")
    if cutting.end:
        text, after = text.split(cutting.end)
        if cutting.begin in after and cutting.begin:
            raise AnswerError(f"{cutting.end!r} stands before {cutting.begin!r}; expected the answer between them")
        _set_aside(after, cutting, aside, f"after {cutting.end!r}")
    if cutting.begin:
        before, text = text.split(cutting.begin)
        _set_aside(before, cutting, aside, f"before {cutting.begin!r}")
    return text


def _before_explanation(text: str, cutting: Cutting, aside: list[str]) -> str:
    if not cutting.explanation or cutting.explanation not in text:
        return text
    text, explanation = text.split(cutting.explanation, 1)
    aside.append(explanation)
    return text


def _after_label(text: str, cutting: Cutting, aside: list[str]) -> str:
    if not cutting.labels:
        return text
    words = "|".join(re.escape(label) for label in sorted(cutting.labels, key=len, reverse=True))
    label = re.compile(rf"^[ \t]*(?P<mark>\*\*|__|)(?:{words})(?:(?P=mark):|:(?P=mark))", re.IGNORECASE | re.MULTILINE)
    found = list(label.finditer(text))
    if len(found) > 1:
        raise AnswerError(f"{len(found)} answers are labelled; expected one")
    if not found:
        if cutting.label_needed:
            raise AnswerError(f"no answer is labelled; expected one of {', '.join(cutting.labels)} and a colon")
        return text
    _set_aside(text[: found[0].start()], cutting, aside, f"before {found[0].group().strip()!r}")
    return text[found[0].end() :]


def _within_fence(text: str, cutting: Cutting, aside: list[str]) -> str:
    fences = text.count(_FENCE)
    if not fences:
        return text
    if fences != 2:
        raise AnswerError(f"{fences} marks of code fences; expected one fence, begun and ended")
    before, inside, after = text.split(_FENCE)
    _set_aside(before, cutting, aside, "before the code fence")
    _set_aside(after, cutting, aside, "after the code fence")
    return f"{_FENCE}{inside}{_FENCE}"


def _bracketed(text: str, aside: list[str]) -> str:
    """Return the one run of bracketed lists; only spaces and commas part the lists of a run."""
    spans: list[tuple[int, int]] = []
    open_marks: list[str] = []
    start = 0
    for place, mark in enumerate(text):
        if mark in _OPENING:
            if not open_marks:
                start = place
            open_marks.append(mark)
        elif mark in _CLOSING:
            if not open_marks or _OPENING.index(open_marks.pop()) != _CLOSING.index(mark):
                raise AnswerError(f"brackets do not match in {shown(text)}; expected a list in brackets")
            if not open_marks:
                spans.append((start, place + 1))
    if open_marks or not spans:
        raise AnswerError(
            f"{'a bracket is never closed' if open_marks else 'no brackets'} in {shown(text)}; expected a list"
        )
    first, last = spans[0][0], spans[-1][1]
    gaps = [text[before[1] : after[0]] for before, after in pairwise(spans)]
    if any(gap.strip(", \n\t;") for gap in gaps):
        raise AnswerError(f"{shown(text)} holds several lists in brackets; expected one")
    aside.extend((text[:first], text[last:]))
    return text[first:last]


def _set_aside(text: str, cutting: Cutting, aside: list[str], where: str) -> None:
    if text.strip() and not cutting.prose:
        raise AnswerError(f"text {shown(text.strip(), 40)} {where}; expected the answer alone (prose is not allowed)")
    aside.append(text)
