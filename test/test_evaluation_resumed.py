"""Closed-loop drives and rendered scenes keep what they had when they are stopped, and resume there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from owled_ros.commands import drive as drive_command
from owled_ros.commands import evaluate_scenes
from owled_ros.driving.prediction import Generation
from owled_ros.evaluation import rendered
from owled_ros.scenes import closed_loop
from owled_ros.scenes.closed_loop import Route
from owled_ros.scenes.world import DriveEnd

app = typer.Typer()
drive_command.register(app)
evaluate_scenes.register(app)
LINE = "cruise, acceleration +0.4 m/s2, steering +0.00 rad"


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Routes that end at once; the fourth one that is driven is interrupted."""
    seen: list[int] = []

    def drive(seed: int, *_: Any) -> Route:
        seen.append(seed)
        if len(seen) == 4:
            raise KeyboardInterrupt
        error = float("nan") if seed == 8 else 0.1  # nothing was answered on that one
        return Route(seed, DriveEnd.FINISHED, "", 1.0, 30.0, 8.0, 300, 0, error, error)

    monkeypatch.setattr(closed_loop, "drive_route", drive)
    return seen


def drive(out: Path | None, *more: str) -> Any:
    keep = ["--json", str(out)] if out else []
    return CliRunner().invoke(
        app, ["drive", "--policy", "constant", "--alone", "--routes", "5", "--seed", "7", *keep, *more]
    )


def test_a_stopped_drive_keeps_its_routes_and_goes_on(driven: list[int], tmp_path: Path) -> None:
    out = tmp_path / "drive.json"
    stopped = drive(out)
    assert stopped.exit_code == 130
    assert "world 8: finished at 100%" in stopped.output
    assert "stopped after 3 of 5 routes" in stopped.output
    kept = json.loads(out.read_text())
    assert (kept["complete"], kept["drivers"]["constant"]["standing"]["routes"]) == (False, 3)
    assert kept["drivers"]["constant"]["routes"][1]["acceleration_error"] is None
    again = drive(out)
    assert again.exit_code == 0, again.output
    assert driven == [7, 8, 9, 10, 10, 11]  # what was driven is not driven again
    whole = json.loads(out.read_text())
    assert whole["complete"]
    assert [route["seed"] for route in whole["drivers"]["constant"]["routes"]] == [7, 8, 9, 10, 11]
    assert drive(out).exit_code == 0
    assert len(driven) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 1}', '{"settings": null, "drivers": []}'])
def test_other_settings_and_foreign_files_are_begun_anew(driven: list[int], tmp_path: Path, content: str) -> None:
    out = tmp_path / "drive.json"
    out.write_text(content)
    drive(out)
    assert driven[:3] == [7, 8, 9]
    drive(out, "--rate-hz", "5")
    assert driven[4:7] == [7, 8, 9]


def test_a_drive_without_a_file_says_what_it_had(driven: list[int]) -> None:
    stopped = drive(None)
    assert (stopped.exit_code, len(driven)) == (130, 4)
    assert "--json FILE would keep them" in stopped.output


class _Answering:
    """Stands for the bundled model; the images it has answered, and where it is stopped."""

    def __init__(self) -> None:
        self.answered = 0
        self.stop_after = 10**6

    def __call__(self, model: Any, images: list[Any], *_: Any) -> list[tuple[Generation, Generation]]:
        if self.answered >= self.stop_after:
            raise KeyboardInterrupt
        self.answered += len(images)
        scene = Generation("0 cars; 0 pedestrians; no traffic light", True, 0.9, 9, 0.0)
        return [
            (Generation(LINE.replace("0.4", f"0.{int(i.mean()) % 5 * 2}"), True, 0.9, 9, 0.0), scene) for i in images
        ]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> _Answering:
    stub = _Answering()
    monkeypatch.setattr(rendered, "answer_images", stub)
    monkeypatch.setattr(rendered, "BATCH", 4)
    monkeypatch.setattr("owled_ros.models.load.load_model", lambda directory, device: None)
    return stub


def scenes(out: Path | None, count: int = 10) -> Any:
    keep = ["--out", str(out)] if out else []
    return CliRunner().invoke(app, ["evaluate-scenes", "--scenes", str(count), *keep])


def test_stopped_scenes_go_on_to_the_same_metrics(answering: _Answering, tmp_path: Path) -> None:
    whole = scenes(tmp_path / "whole.json")
    assert whole.exit_code == 0, whole.output
    assert answering.answered == 30  # ten scenes under three conditions
    answering.answered, answering.stop_after = 0, 16
    out = tmp_path / "out.json"
    stopped = scenes(out)
    assert stopped.exit_code == 130, stopped.output
    assert "4 of 10 scenes" in stopped.output
    part = tmp_path / "out.json.part.jsonl"
    part.write_bytes(part.read_bytes()[:-30])  # killed while writing
    answering.answered, answering.stop_after = 0, 10**6
    assert scenes(out).exit_code == 0
    assert answering.answered == 18  # six scenes more; the first four were done
    assert json.loads(out.read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert not part.exists()


def test_the_part_of_another_run_is_begun_anew(answering: _Answering, tmp_path: Path) -> None:
    answering.stop_after = 12
    out = tmp_path / "out.json"
    scenes(out)
    answering.answered, answering.stop_after = 0, 10**6
    assert scenes(out, count=8).exit_code == 0
    assert answering.answered == 24


def test_the_images_of_the_next_batch_are_the_same_as_in_one() -> None:
    every = rendered.evaluation_scenes(10)
    images = rendered._other_images([scene.image for scene in every[4:8]], range(4, 8), 10, 0)
    assert all((image == every[(index + 7) % 10].image).all() for index, image in zip(range(4, 8), images, strict=True))
