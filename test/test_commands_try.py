"""`owled try`: what a newcomer reads first is what is wrong and what to change, whatever is wrong; with code 0 it drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_vlms import ROLES, save_family
from tuning_drives import START, make_drives
from typer.testing import CliRunner

from owled_ros.bags.write import BagWriter
from owled_ros.commands import profile as command
from owled_ros.driving.ego import EgoState
from owled_ros.models import chat

app = typer.Typer()
command.register(app)


def tried(*words: Any) -> tuple[int, list[str]]:
    """Run `owled try`; returns the code and the lines."""
    done = CliRunner().invoke(app, ["try", *map(str, words)], catch_exceptions=False)
    return done.exit_code, done.output.splitlines()


def found(lines: list[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(word)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("try")
    save_family("smolvlm", home / "vlm")
    make_drives(home / "bag", drives=1, seconds=8.0)
    return home


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answering(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the model answer so, one text after the other, the last one ever after."""
    left = list(texts)

    def reply(*_: Any) -> chat.Reply:
        return chat.Reply(left.pop(0) if len(left) > 1 else left[0], (5, 6), True, (0.0,), 0.0, 0.01)

    monkeypatch.setattr(chat.Chat, "reply", reply)


def test_random_weights_are_told_to_be_taught(home: Path) -> None:
    code, lines = tried(home / "vlm", home / "bag", "--profile", "points")
    assert code == 1
    assert found(lines, "problem: call answer did not come to an end within its tokens")
    assert found(lines, "what to change, 1")[0].startswith(
        f"what to change, 1: it does not know this form: `owled tune {home / 'vlm'} {home / 'bag'}… --profile points --out DIR`"
    )
    assert "a higher max_tokens alone will not" in found(lines, "what to change, 2")[0]
    assert not found(lines, "note")  # of the confidence of what does not drive


def test_a_template_without_a_place_for_images(home: Path, tmp_path: Path) -> None:
    save_family("smolvlm", tmp_path / "blind", template=ROLES.replace("IMAGE", ""))
    code, lines = tried(tmp_path / "blind", home / "bag", "--profile", "points")
    assert code == 1
    assert lines[-1].startswith(
        "problem: the model's chat template cannot hold the prompt (it writes what is said, but no image)"
    )
    assert "take the chat_template.jinja of a checkpoint that sees, or let it write '<image>'" in lines[-1]


def test_a_bag_without_what_the_profile_needs(home: Path, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "blind") as bag:
        for step in range(40):
            bag.odometry(START + step * 50_000_000, EgoState(START + step * 50_000_000, 5.0, 0.0))
    code, lines = tried(home / "vlm", tmp_path / "blind", "--profile", "points")
    assert code == 1
    assert lines[-1].startswith("problem: ")
    assert "image" in lines[-1]
    code, lines = tried(home / "vlm", home / "bag", "--profile", "meta_action")  # six cameras
    assert code == 1
    assert "front_left" in lines[-1]


def test_the_same_answer_to_all_frames_does_not_drive(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = "[" + ", ".join(f"[{2.5 * step:.2f}, 0.00]" for step in range(1, 7)) + "]"
    answering(monkeypatch, right)
    code, lines = tried(home / "vlm", home / "bag", "--profile", "points")
    assert code == 1
    assert "it says the same about" in found(lines, "problem")[0]
    assert "teach it on more, and more varied drives" in found(lines, "what to change, 1")[0]
    answering(monkeypatch, right, right.replace("0.00", "0.10"))
    code, lines = tried(home / "vlm", home / "bag", "--profile", "points")
    assert code == 0, lines
    assert found(lines, "it drives")
    assert len(found(lines, "at ")) >= 2
