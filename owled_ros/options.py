"""Options of commands from where they are declared: out of a dataclass of settings, and out of a yaml file. Needs typer.

`takes(Kind)` gives a command an option for every setting of a dataclass. `with_config` gives it `--config FILE.yaml`, whose keys are
the names of its options; what is given on the command line goes before the file, the file before the defaults.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file
from owled_ros.settings import NAMES, Setting, check_settings, default_of, settings_of, types_of, unknown_key

MAX_BYTES = 1 << 20  # of a config file
CONFIG = "config"
Command = Callable[..., Any]


def takes(kind: type) -> Callable[[Command], Command]:
    """Replace the one parameter of a command that is a `kind` by an option for each of its settings."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        place = next(name for name, parameter in signature.parameters.items() if parameter.annotation is kind)
        options = [_option(kind, name, declared) for name, declared in settings_of(kind).items()]
        kept = [parameter for name, parameter in signature.parameters.items() if name != place]

        def run(**given: Any) -> Any:
            values = {option.name: given.pop(option.name) for option in options}
            made = kind(**{name: _value(kind, name, value) for name, value in values.items()})
            check_settings(made)
            return command(**given, **{place: made})

        return _signed(run, command, [*kept, *options])

    return decorate


def with_config(command: Command) -> Command:
    """Add `--config FILE.yaml` to a command."""
    signature = inspect.signature(command, eval_str=True)
    known = {name: parameter for name, parameter in signature.parameters.items()}

    def read(context: typer.Context, path: Path | None) -> None:
        if path is not None:
            context.default_map = {**(context.default_map or {}), **read_config(path, known)}

    help = "YAML file with values by the names of the options; an option that is given goes before it."
    option = Annotated[Path | None, typer.Option("--config", help=help, is_eager=True, callback=read)]

    def run(**given: Any) -> Any:
        given.pop(CONFIG)
        return command(**given)

    config = inspect.Parameter(CONFIG, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=None)
    return _signed(run, command, [*known.values(), config])


def read_config(path: Path, known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Read values for the parameters of a command; raises OwledError for unknown names and values of another type.

    A key is the name of a parameter or that of its option, with underscores or hyphens.
    """
    import yaml

    data = read_small_file(path, MAX_BYTES)
    if data is None:
        raise OwledError(f"config {path} does not exist; expected a YAML file with the names of options")
    try:
        content = yaml.load(data, _loader())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise OwledError(
            f"config {path} cannot be read ({error}); expected a YAML file with the names of options"
        ) from error
    if not isinstance(content, dict):
        raise OwledError(f"config {path} holds no names with values; expected for example {next(iter(known))}: …")
    names = {spelling: name for name, parameter in known.items() for spelling in _spellings(name, parameter)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            raise unknown_key(str(key), [_spellings(name, known[name])[0] for name in known], f"config {path}")
        if name in values:
            raise OwledError(f"config {path}: {key} is given twice, also by another name of it; leave out one")
        values[name] = _configured(f"config {path}: {key}", known[name], value)
    return values


def _loader() -> Any:
    import yaml

    class Once(yaml.SafeLoader):
        """Refuses a key that stands there twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"{twice} stands there twice", node.start_mark)
            return typing.cast(dict[Any, Any], super().construct_mapping(node, deep))

    return Once


def _configured(where: str, parameter: inspect.Parameter, value: Any) -> Any:
    """Return a value of a config file as typer takes a default; raises OwledError for one of another type."""
    expected, info = _parts(parameter)
    if typing.get_origin(expected) is list:
        items = [f"{key}={share}" for key, share in value.items()] if isinstance(value, dict) else value
        if not isinstance(items, list):
            raise OwledError(f"{where} is {value!r}; expected a list")
        return [_one(where, item, typing.get_args(expected)[0], info) for item in items]
    return _one(where, value, expected, info)


def _one(where: str, value: Any, expected: Any, info: Any) -> Any:
    kinds = set(typing.get_args(expected)) if isinstance(expected, types.UnionType) else {expected}
    if value is None and type(None) in kinds:
        return None
    kind = next(iter(kinds - {type(None)}))
    numbers = (int, float) if kind is float else (int,) if kind is int else (str, int, float)
    right = isinstance(value, bool) if kind is bool else isinstance(value, numbers) and not isinstance(value, bool)
    if not right:
        raise OwledError(f"{where} is {value!r}; expected {NAMES.get(kind, 'a text')}")
    low, high = getattr(info, "min", None), getattr(info, "max", None)
    if (low is not None and value < low) or (high is not None and value > high):
        expected_range = " and ".join(
            f"{word} {limit:g}" for word, limit in (("at least", low), ("at most", high)) if limit is not None
        )
        raise OwledError(f"{where} is {value!r}; expected {expected_range}")
    return value if kind in (bool, int, float) else str(value)


def _parts(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """Return the type and what typer knows of a parameter, annotated or by its default."""
    annotation = parameter.annotation
    if typing.get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__[0]
    return annotation, parameter.default


def _spellings(name: str, parameter: inspect.Parameter) -> list[str]:
    """Return how a config file may call a parameter, first as its option is called."""
    info = _parts(parameter)[1]
    declared = list(info.param_decls or ()) if isinstance(info, OptionInfo) else []
    if isinstance(info, OptionInfo) and isinstance(info.default, str) and info.default.startswith("--"):
        declared.insert(0, info.default)  # typer.Option("--name") within Annotated
    flags = [flag.split("/")[0].removeprefix("--").replace("-", "_") for flag in declared if flag.startswith("--")]
    return list(dict.fromkeys([*flags, name]))


def _option(kind: type, name: str, declared: Setting) -> inspect.Parameter:
    expected, default = types_of(kind)[name], default_of(kind, name)
    words = (" | ".join(declared.choices) + ". " if declared.choices else "") + declared.help
    limits = {} if declared.inside else {"min": declared.low, "max": declared.high}
    flag = _flag(name, declared)
    if expected is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    if typing.get_origin(expected) is not None and not isinstance(expected, types.UnionType):
        expected, default, limits = list[str], [], {}
    if str in (expected, *typing.get_args(expected)):
        limits = {}
    annotation: Any = Annotated[expected, typer.Option(flag, *declared.flags[1:], help=words, **limits)]  # type: ignore[arg-type, valid-type]
    if default is MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _value(kind: type, name: str, value: Any) -> Any:
    """Return what an option gave as the field wants it."""
    origin = typing.get_origin(types_of(kind)[name])
    if origin is tuple:
        return tuple(value)
    return (
        dict(_shares(_flag(name, settings_of(kind)[name]), value))
        if origin is not None and issubclass(origin, Mapping)
        else value
    )


def _flag(name: str, declared: Setting) -> str:
    return (declared.flags or (f"--{name.replace('_', '-')}",))[0]


def _shares(flag: str, entries: list[str]) -> Iterator[tuple[str, float]]:
    for entry in entries:
        key, _, share = entry.partition("=")
        try:
            yield key, float(share)
        except ValueError as error:
            raise OwledError(f"{flag}: {entry!r} is not of the form NAME=SHARE, for example vision=0.3") from error


def _signed(run: Command, command: Command, parameters: list[inspect.Parameter]) -> Command:
    """Dress a function as a command with other parameters, for typer, which reads signature and annotations."""
    functools.update_wrapper(run, command)
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
