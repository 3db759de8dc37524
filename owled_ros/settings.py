"""Values that are declared once: default, meaning, range and choices beside the field of a dataclass. Needs the standard library.

The options of a command (options.py), the parameters of a node (nodes/parameters.py), the fields of a goal, a yaml file
and a JSON request are all read off the same field, and checked by the same words.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from owled_ros.errors import OwledError

KEY = "setting"
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Setting:
    """What is known of a value beside its name, type and default."""

    help: str  # with the unit
    low: float | None = None
    high: float | None = None
    inside: bool = False  # the bounds themselves are excluded
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # options on the command line; empty: the name with hyphens
    parameter: str | None = ""  # of the node; empty: the name; None: the node has none
    parameter_value: Any = None  # of the node's parameter file, where it is not the default
    goal: str = ""  # field of an action's goal; empty: not in it
    bare: bool = False  # a text that may be written as a number

    def describe_range(self) -> str:
        """Say which values are expected; empty: any."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"more than {self.low:g}" if self.inside else f"{self.low:g} or more"
        if self.low is None:
            return f"less than {self.high:g}" if self.inside else f"{self.high:g} or less"
        brackets = "()" if self.inside else "[]"
        return f"a number in {brackets[0]}{self.low:.17g}, {self.high:.17g}{brackets[1]}"


def setting(default: Any, help: str, **more: Any) -> Any:
    """Declare a field of a dataclass; `more` are the other fields of Setting. A mapping is copied for every instance."""
    metadata = {KEY: Setting(help, **more)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(kind: type) -> dict[str, Setting]:
    """Return what is declared, by name, in order."""
    return {field.name: field.metadata[KEY] for field in dataclasses.fields(kind) if KEY in field.metadata}


def types_of(kind: type) -> dict[str, Any]:
    """Return the types of the fields."""
    return _hints(kind)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Resolve the annotations once: every option, parameter and check asks for them."""
    return typing.get_type_hints(kind)


def default_of(kind: type, name: str) -> Any:
    """Return the default of a field; MISSING where it has none."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def check_settings(values: object) -> None:
    """Raise OwledError for the first value of an instance that does not have its type, or is outside its range."""
    for name, declared in settings_of(type(values)).items():
        problem = problem_of(declared, types_of(type(values))[name], getattr(values, name))
        if problem:
            raise OwledError(f"{name} is {problem}")


def problem_of(declared: Setting, expected: Any, value: Any) -> str:
    """Say what is wrong about a value and what was expected; empty: nothing."""
    kinds = _plain(expected)
    if value is None and type(None) in kinds:
        return ""
    if isinstance(value, Mapping):
        return next(
            (f"{item!r} for {key}; expected {declared.describe_range()}" for key, item in value.items() if not _fits(declared, item)),
            "",
        )  # fmt: skip
    if isinstance(value, tuple) or not kinds <= {bool, int, float, str, type(None)}:
        return ""  # lists and paths are checked by whoever uses them
    right = (
        bool in kinds if isinstance(value, bool) else type(value) in kinds or (type(value) is int and float in kinds)
    )
    if not right:
        return f"{value!r}; expected {NAMES[next(iter(kinds - {type(None)}))]}"
    if _fits(declared, value):
        return ""
    hint = ""
    if declared.high == 1.0 and isinstance(value, float | int) and 1.0 < value < 100.0:
        hint = f"; for {value:g} % give {value / 100:g}"
    return f"{value!r}; expected {declared.describe_range() or 'a finite number'}{hint}"


def unknown_key(name: str, known: Iterable[str], where: str) -> OwledError:
    """Make the error for a name that nothing is declared under."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    more = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return OwledError(f"{where}: unknown key {name!r}; {more}")


def from_mapping(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """Make an instance of what `dataclasses.asdict` gave; raises OwledError for unknown names and values out of range."""
    known = types_of(kind)
    for name in values:
        if name not in settings_of(kind):
            raise unknown_key(str(name), settings_of(kind), where)
    given = {name: tuple(value) if typing.get_origin(known[name]) is tuple else value for name, value in values.items()}
    made = kind(**given)
    try:
        check_settings(made)
    except OwledError as error:
        raise OwledError(f"{where}: {error}") from error
    return made


NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _plain(expected: Any) -> set[Any]:
    if isinstance(expected, types.UnionType) or typing.get_origin(expected) is typing.Union:
        return set(typing.get_args(expected))
    return {typing.get_origin(expected) or expected}


def _fits(declared: Setting, value: Any) -> bool:
    if declared.choices:
        return value in declared.choices
    if isinstance(value, str | bool):
        return True
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False
    low, high = declared.low, declared.high
    if declared.inside:
        return (low is None or value > low) and (high is None or value < high)
    return (low is None or value >= low) and (high is None or value <= high)
