"""Options out of a dataclass and a yaml file: one declaration, one precedence, every mistake named."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from owled_ros.commands import evaluate, prune, recalibrate
from owled_ros.errors import OwledError
from owled_ros.options import read_config, takes, with_config
from owled_ros.recalibration.parameters import JobParameters
from owled_ros.settings import check_settings, from_mapping, setting, settings_of, types_of


@dataclass(frozen=True)
class Tea:
    """Something to declare."""

    share: float = setting(0.5, "Share of milk.", low=0.0, high=1.0, inside=True, flags=("--milk",))
    cups: int = setting(2, "How many.", low=1, high=9)
    kind: str = setting("green", "Which one.", choices=("green", "black"))
    hot: bool = setting(True, "Not iced.")
    waits_s: float = setting(0.0, "Brewing time [s].", low=0.0)
    spices: Mapping[str, float] = setting({}, "NAME=SHARE.", low=0.0, high=1.0)
    guests: int | None = setting(None, "Who comes; nothing: nobody knows.", low=0)


made: list[Any] = []


@with_config
@takes(Tea)
def brew(
    tea: Tea,
    rooms: list[str] = typer.Argument(...),
    note: Annotated[str, typer.Option("--note", "-n", help="What to write.")] = "",
) -> None:
    """Brew."""
    made.append((tea, rooms, note))


def run(*words: object, code: int = 0) -> Any:
    made.clear()
    app = typer.Typer()
    app.command()(brew)
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, ["brew", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return made[0] if made else done.output


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tea.yaml"
    path.write_text(text)
    return path


def test_a_dataclass_becomes_options_with_its_defaults_ranges_and_words() -> None:
    assert run("hall") == (Tea(), ["hall"], "")
    said = run(
        "hall", "--milk", 0.25, "--cups", 3, "--kind", "black", "--no-hot", "--spices", "clove=0.5", "--guests", 4
    )[0]
    assert said == Tea(0.25, 3, "black", False, 0.0, {"clove": 0.5}, 4)
    assert "Share of milk." in run("--help")
    run("hall", "--cups", 10, code=2)
    for words, problem in (
        (("--milk", 1.0), r"share is 1\.0; expected a number in \(0, 1\)"),
        (("--kind", "red"), "expected one of green, black"),
        (("--spices", "clove"), "not of the form NAME=SHARE"),
    ):
        with pytest.raises(OwledError, match=problem):
            run("hall", *words)


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = config(
        tmp_path, "rooms: [hall]\nmilk: 0.25\ncups: 3\nhot: false\nspices: {clove: 0.5}\nguests: 2\nnote: early\n"
    )
    assert run("--config", file) == (Tea(0.25, 3, hot=False, spices={"clove": 0.5}, guests=2), ["hall"], "early")
    said = run("attic", "--config", file, "--cups", 1, "--hot", "-n", "late")
    assert said == (Tea(0.25, 1, hot=True, spices={"clove": 0.5}, guests=2), ["attic"], "late")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cupz: 3", "unknown key 'cupz'; did you mean cups"),
        ("zzz: 3", "unknown key 'zzz'; known are .*milk.*cups"),
        ("cups: three", "cups is 'three'; expected a whole number"),
        ("cups: 2.5", r"cups is 2\.5; expected a whole number"),
        ("cups: true", "cups is True; expected a whole number"),
        ("hot: 1", "hot is 1; expected true or false"),
        ("cups: 10", "cups is 10; expected at least 1 and at most 9"),
        ("milk: 0.2\nshare: 0.3", "share is given twice"),
        ("cups: 1\ncups: 2", "stands there twice"),
        ("rooms: hall", "rooms is 'hall'; expected a list"),
        ("kind: red", "kind is 'red'; expected one of green, black"),
        ("- 1", "holds no names with values"),
        ("cups: [", "cannot be read"),
        ("config: other.yaml", "unknown key 'config'"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(OwledError, match=words):
        run("hall", "--config", config(tmp_path, text))
    with pytest.raises(OwledError, match="does not exist"):
        run("hall", "--config", tmp_path / "nowhere.yaml")


@given(st.text(max_size=80))
def test_no_file_does_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    known = dict(inspect.signature(brew).parameters)
    try:
        read_config(path, known)
    except OwledError as error:
        said = str(error)
    else:
        said = str(path)
    assert str(path) in said


@given(
    st.builds(
        Tea,
        st.floats(0.01, 0.99),
        st.integers(1, 9),
        st.sampled_from(["green", "black"]),
        st.booleans(),
        st.floats(0, 1e9),
        st.dictionaries(st.sampled_from("ab"), st.floats(0, 1)),
        st.none() | st.integers(0, 9),
    )
)
def test_what_is_written_is_read_again(tea: Tea) -> None:
    check_settings(tea)
    assert from_mapping(Tea, asdict(tea), "here") == tea


def test_values_outside_their_declaration_are_refused_by_name() -> None:
    for wrong, words in (
        ({"cups": 0}, "here: cups is 0; expected a number in"),
        ({"cups": True}, "cups is True; expected a whole number"),
        ({"waits_s": float("inf")}, "waits_s is inf; expected 0 or more"),
        ({"waits_s": -1.0}, "expected 0 or more"),
        ({"share": 50.0}, "for 50 % give 0.5"),
        ({"guests": "many"}, "guests is 'many'; expected a whole number"),
        ({"spices": {"clove": 2.0}}, "spices is 2.0 for clove"),
        ({"cup": 1}, "unknown key 'cup'; did you mean cups"),
    ):
        with pytest.raises(OwledError) as caught:
            from_mapping(Tea, wrong, "here")
        assert words in str(caught.value)


@pytest.mark.parametrize(("module", "name"), [(recalibrate, "recalibrate"), (prune, "prune"), (evaluate, "evaluate")])
def test_commands_with_many_options_take_a_file(module: Any, name: str, tmp_path: Path) -> None:
    app = typer.Typer()
    module.register(app)
    file = config(tmp_path, yaml.safe_dump({"sparsty": 0.5, "threads": 1}))
    with pytest.raises(OwledError, match=r"tea\.yaml: unknown key 'sparsty'"):
        CliRunner().invoke(app, [name, "--config", str(file)], catch_exceptions=False)


def test_names_of_a_job_have_their_units_and_numbers_their_ranges() -> None:
    for name, declared in settings_of(JobParameters).items():
        unit = declared.help.partition("[")[2].partition("]")[0]
        assert {"s": "_s", "GiB": "_gb", "": ""}[unit] in name
        if types_of(JobParameters)[name] in (int, float):
            assert declared.describe_range(), name
