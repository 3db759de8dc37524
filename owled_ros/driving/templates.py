"""Texts with fields in braces, filled in without any way to code: a stated set of fields, plain number formats. Needs nothing.

A template is read once and checked whole: `str.format` itself never sees it, so attributes, indices, conversions, nested
fields and giant widths cannot be said. `{{` and `}}` are braces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from string import Formatter

from owled_ros.driving.conversation import Slot
from owled_ros.errors import OwledError

MAX_TEMPLATE = 20_000  # characters
MAX_FIELDS = 200  # in one template
MAX_FILLED = 200_000  # characters
MAX_WIDTH, MAX_DECIMALS = 40, 12
FORMAT = re.compile(r"[<>=^]?[+\- ]?0?(?P<width>\d{0,2})(?:\.(?P<decimals>\d{1,2}))?(?P<type>[defg%]?)", re.ASCII)

Part = str | Slot
Value = float | str | tuple[Part, ...]


class FieldKind(Enum):
    """What a field holds."""

    NUMBER = "number"
    COUNT = "whole number"
    TEXT = "text"
    IMAGES = "images"


@dataclass(frozen=True)
class FieldUse:
    """A field where it stands in a template."""

    name: str
    format: str


def read_template(text: str, fields: Mapping[str, FieldKind]) -> tuple[str | FieldUse, ...]:
    """Take a template apart and check it.

    Raises:
        OwledError: braces that do not match, an unknown field, or a format that is not a plain number format.
    """
    pieces = _split(text)
    uses = [piece for piece in pieces if isinstance(piece, FieldUse)]
    for use in uses:
        _check(use, fields)
    return pieces


def fields_of(text: str) -> tuple[str, ...]:
    """List the fields of a template in order, each as often as it stands there."""
    return tuple(piece.name for piece in _split(text) if isinstance(piece, FieldUse))


def fill(text: str, values: Mapping[str, Value]) -> str:
    """Fill in a template that shows no images."""
    return "".join(part for part in fill_parts(text, values) if isinstance(part, str))


def fill_parts(text: str, values: Mapping[str, Value]) -> tuple[Part, ...]:
    """Fill in a template; neighbouring texts are one part.

    Raises:
        OwledError: a field without a value, a number that is not finite, a text that becomes too long.
    """
    parts: list[Part] = []
    length = 0
    for piece in _split(text):
        for part in (piece,) if isinstance(piece, str) else _written(piece, values):
            if isinstance(part, Slot):
                parts.append(part)
                continue
            length += len(part)
            if length > MAX_FILLED:
                raise OwledError(f"the prompt grows beyond {MAX_FILLED} characters; shorten the profile's texts")
            if parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
    return tuple(parts)


def escaped(text: str) -> str:
    """Write a text as a template that gives it back."""
    return text.replace("{", "{{").replace("}", "}}")


@lru_cache(maxsize=512)
def _split(text: str) -> tuple[str | FieldUse, ...]:
    if len(text) > MAX_TEMPLATE:
        raise OwledError(f"a template has {len(text)} characters; expected at most {MAX_TEMPLATE}")
    pieces: list[str | FieldUse] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(text):
            if literal:
                pieces.append(literal)
            if name is None:
                continue
            if conversion:
                raise OwledError(f"template field {_shown(name)} has a conversion '!{conversion}'; leave it out")
            pieces.append(FieldUse(name, spec or ""))
    except ValueError as err:
        raise OwledError(
            f"the template {_shown(text)} is not sound ({err}); double the braces that are meant literally"
        ) from err
    if sum(isinstance(piece, FieldUse) for piece in pieces) > MAX_FIELDS:
        raise OwledError(f"a template has more than {MAX_FIELDS} fields; shorten it")
    return tuple(pieces)


def _check(use: FieldUse, fields: Mapping[str, FieldKind]) -> None:
    kind = fields.get(use.name)
    if kind is None:
        known = ", ".join(sorted(fields)) or "none"
        raise OwledError(
            f"template field {_shown(use.name)} is not known here; known: {known}. Double the braces that are meant literally"
        )
    if kind in (FieldKind.TEXT, FieldKind.IMAGES):
        if use.format:
            raise OwledError(f"template field {use.name} is {kind.value}: it takes no format, not {_shown(use.format)}")
        return
    match = FORMAT.fullmatch(use.format)
    sound = match is not None and int(match["width"] or 0) <= MAX_WIDTH and int(match["decimals"] or 0) <= MAX_DECIMALS
    if match is None or not sound or not _fits(match, kind):
        raise OwledError(
            f"template field {use.name} has the format {_shown(use.format)}; expected a plain number format such as "
            f".1f or +.2f, at most {MAX_WIDTH} wide with {MAX_DECIMALS} decimals"
        )


def _fits(match: re.Match[str], kind: FieldKind) -> bool:
    """Tell whether a format is one for numbers of this kind: 'd' for whole ones, and those have no decimals of their own."""
    if kind is FieldKind.COUNT:
        return match["type"] not in ("", "d") or not match["decimals"]
    return match["type"] != "d"


def _written(use: FieldUse, values: Mapping[str, Value]) -> tuple[Part, ...]:
    if use.name not in values:
        raise OwledError(f"the prompt needs {use.name}, which is not known now")
    value = values[use.name]
    if isinstance(value, tuple):
        return value
    if isinstance(value, str):
        return (value,)
    if not math.isfinite(value):
        raise OwledError(f"the prompt cannot say {use.name}: its value is {value}; expected a finite number")
    return (format(value, use.format),)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
