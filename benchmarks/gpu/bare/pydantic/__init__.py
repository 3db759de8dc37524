"""What the package uses of pydantic, where a machine that is only measured has none: builds what is written, checks nothing."""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any


class ValidationError(ValueError):
    """Never raised here."""


class _Given:
    """A field's default, or what makes it."""

    def __init__(self, default: Any = ..., default_factory: Callable[[], Any] | None = None, **rules: Any) -> None:
        self.default, self.factory = default, default_factory

    def value(self, name: str) -> Any:
        if self.factory is not None:
            return self.factory()
        if self.default is ...:
            raise TypeError(f"{name} is missing")
        return copy.copy(self.default)


Field = _Given
ConfigDict = dict


def _unchecked(*told: Any, **how: Any) -> Callable[[Any], Any]:
    return lambda function: function


model_validator = field_validator = _unchecked


class BaseModel:
    """Fields by their annotations; nested models are built from mappings."""

    def __init__(self, **values: Any) -> None:
        hints = _hints(type(self))
        for name, hint in hints.items():
            given = getattr(type(self), name, _Given())
            default = given if isinstance(given, _Given) else _Given(given)
            value = _built(values[name], hint) if name in values else default.value(name)
            self.__dict__[name] = value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), repr(self.__dict__)))

    def model_copy(self, update: dict[str, Any] | None = None) -> BaseModel:
        """Copy with some values changed."""
        made = copy.copy(self)
        made.__dict__.update(update or {})
        return made

    @classmethod
    def model_validate(cls, content: dict[str, Any]) -> BaseModel:
        """Build from a mapping."""
        return cls(**{name: value for name, value in content.items() if name in _hints(cls)})

    @classmethod
    def model_validate_json(cls, data: bytes | str) -> BaseModel:
        """Build from JSON."""
        return cls.model_validate(json.loads(data))


def _hints(cls: type) -> dict[str, Any]:
    found = typing.get_type_hints(cls, include_extras=True)
    return {
        name: hint
        for name, hint in found.items()
        if name != "model_config" and typing.get_origin(hint) is not typing.ClassVar
    }


def _built(value: Any, hint: Any) -> Any:
    origin, told = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _built(value, told[0])
    if origin in (typing.Union, types.UnionType):
        return _built(value, _fitting(value, told))
    if origin is tuple and isinstance(value, (list, tuple)):
        parts = [told[0]] * len(value) if told[-1] is ... else told
        return tuple(_built(item, part) for item, part in zip(value, parts, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _built(item, told[1]) for key, item in value.items()}
    if isinstance(value, dict) and isinstance(hint, type) and (issubclass(hint, BaseModel) or is_dataclass(hint)):
        return hint(**value)
    return float(value) if hint is float and isinstance(value, int) else value


def _fitting(value: Any, hints: tuple[Any, ...]) -> Any:
    """Choose what a value of a union is: by its kind, else by its form."""
    plain = [typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint for hint in hints]
    for hint in plain:
        origin = typing.get_origin(hint) or hint
        if isinstance(value, dict) and isinstance(hint, type) and issubclass(hint, BaseModel):
            if "kind" not in value or value["kind"] == getattr(hint, "kind", value["kind"]):
                return hint
        elif (isinstance(value, list) and origin is tuple) or (
            origin is not typing.Literal and isinstance(origin, type) and isinstance(value, origin)
        ):
            return hint
    return Any
