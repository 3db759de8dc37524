"""The files that people join, cite and copy by: they agree with each other and name only what exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.main import get_command

from owled_ros import cli
from owled_ros.commands.run import NODES
from owled_ros.version import VERSION

TOP = Path(__file__).resolve().parent.parent
EXAMPLES = TOP / "examples"
SHARE = "$(find-pkg-share owled_ros)/"
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md"), *EXAMPLES.glob("*.md")])
BEFORE_THE_COMMAND = {"test", "python", "shell", "--setup-only"}  # words of ./owled itself
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def by_name(path: Path) -> str:
    return str(path.relative_to(TOP))


def test_version_and_address_are_one() -> None:
    package = ElementTree.parse(TOP / "package.xml").getroot()
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    headings = re.findall(r"^## (\S+)", (TOP / "CHANGELOG.md").read_text(), re.M)
    assert package.findtext("version") == citation["version"] == VERSION
    assert next(heading for heading in headings if heading != "Unreleased") == VERSION
    address = citation["repository-code"]
    assert f'HOME = "{address}"' in (TOP / "setup.py").read_text()
    assert package.findtext("url") == address


def test_the_citation_has_what_readers_of_the_format_need() -> None:
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert all(entry.get("title") and entry.get("authors") and entry.get("type") for entry in citation["references"])


def test_the_bundled_weights_have_a_licence() -> None:
    said = (TOP / "owled_ros" / "share" / "mini" / "README.md").read_text()
    facts = yaml.safe_load(said.split("---")[1])
    assert facts["license"] == "apache-2.0"
    from owled_ros.scenes.mini_export import card

    assert card(7.9, 102016) == said, "a model that is trained again gets the same card"
    turning = TOP / "owled_ros" / "share" / "mini_turns"
    assert card(8.2, 73792, paths=True, start="mini") == (turning / "README.md").read_text()
    assert sum(file.stat().st_size for file in turning.iterdir()) < 40_000_000


def test_the_bundled_weights_that_read_vectors_are_small_and_have_a_licence() -> None:
    directory = TOP / "owled_ros" / "share" / "llm_driver"
    facts = yaml.safe_load((directory / "README.md").read_text().split("---")[1])
    assert facts["license"] == "apache-2.0"
    assert (directory / "model.safetensors").stat().st_size < 8_000_000


@pytest.mark.parametrize("name", ["ci.yml"])
def test_hosted_checks_call_what_exists(name: str) -> None:
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / name).read_text())
    script = json.dumps(workflow["jobs"])
    assert ".ci/run" in script
    assert "ros2 launch owled_ros" in script
    for path in re.findall(r"(?:src/owled_ros/)?((?:test|requirements|docs)/[\w.]+\.(?:py|txt))", script):
        assert (TOP / path).is_file(), path
    pythons = workflow["jobs"]["wheels"]["strategy"]["matrix"]["python"]
    assert set(pythons) == set(re.findall(r"Python :: (3\.\d+)", (TOP / "setup.py").read_text()))


def test_templates_and_containers_can_be_read() -> None:
    for path in (TOP / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)
    assert json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())["image"] == "ros:jazzy"
    copied = re.findall(r"^COPY (\S+) ", (TOP / "docker" / "Dockerfile").read_text(), re.M)
    assert copied
    assert all((TOP / source).exists() for source in copied)
    hooks = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tests = [word for hook in hooks for word in hook["entry"].split() if word.endswith(".py")]
    assert tests
    assert all((TOP / test).is_file() for test in tests)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.launch.xml")), ids=by_name)
def test_example_launch_files_give_only_arguments_that_are_taken(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    places = {element.attrib["name"]: element.attrib["value"] for element in root.findall("let")}
    own = {element.attrib["name"] for element in root.findall("arg")} | set(places)
    for include in root.iter("include"):
        included = TOP / include.attrib["file"].removeprefix(SHARE)
        taken = {element.attrib["name"] for element in ElementTree.parse(included).getroot().findall("arg")}
        given = {element.attrib["name"]: element.attrib["value"] for element in include.findall("arg")}
        assert set(given) <= taken
        assert {name for value in given.values() for name in re.findall(r"\$\(var ([^)]+)\)", value)} <= own
        for value in given.values():
            assert "$(dirname)" not in value, "inside an include it is the directory of the included file"
            for name, place in places.items():
                if value.startswith(f"$(var {name})/"):
                    assert (path.parent / place.replace("$(dirname)", ".") / value.partition("/")[2]).is_file()


def test_example_parameters_are_parameters() -> None:
    shipped = yaml.safe_load((TOP / "config" / "driving_node.param.yaml").read_text())["/**"]["ros__parameters"]
    example = yaml.safe_load((EXAMPLES / "launch" / "my_camera.param.yaml").read_text())["/**"]["ros__parameters"]
    assert set(example) <= set(shipped)
    assert set(example["vehicle"]) <= set(shipped["vehicle"])


def written_commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of every `owled …` line in the fenced blocks of a page."""
    for block in re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\s*(?:\./)?owled +([^|]*)", line)
            if match and "…" not in match[1]:
                yield shlex.split(match[1], comments=True)


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_in_the_documentation_exist(path: Path) -> None:
    cli.register_commands()
    for words in written_commands(path):
        if not words or words[0] in BEFORE_THE_COMMAND:
            continue
        command = get_command(cli.app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"{path.name}: {words}"
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        if "node" in {parameter.name for parameter in command.params}:
            assert words[0] in NODES
            words = words[: words.index("--ros-args")] if "--ros-args" in words else words
        unknown = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - known - {"--help"}
        assert not unknown, f"{path.name}: {command.name} has no {', '.join(unknown)}"


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_api_page_is_made_from_docstrings(tmp_path: Path) -> None:
    made = tmp_path / "deep" / "api.md"
    subprocess.run([sys.executable, "-I", "-S", str(TOP / "docs" / "make_api.py"), str(made)], check=True)
    text = made.read_text()
    assert "### `owled_ros.driving.answer`" in text
    assert "- `parse_action(text: str) -> Action | None`: Read an action; None when the model declines" in text
    assert not re.search(r"^ *- \**`_", text, re.M), "what is private is left out"
    rooms = {path.name for path in (TOP / "owled_ros").iterdir() if (path / "__init__.py").exists()}
    assert rooms - set(re.findall(r"^## (\w+):", text, re.M)) == {"commands", "demo"}
