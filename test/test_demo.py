"""owled demo with real processes over real DDS; the model is a stand-in except in one drive, so that nothing waits for torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

import cv2
from driving_rig import TEST, free_domain, until
from fake_driving_node import make_model
from rich.console import Console

from owled_ros.demo.processes import node_environment, sweep_segments
from owled_ros.demo.report import print_report
from owled_ros.demo.run import DemoOptions, run_demo
from owled_ros.demo.tally import Tally, percentiles
from owled_ros.demo.view import image_of, line_of
from owled_ros.errors import OwledError

DOMAIN = free_domain()
FAKE = (str(TEST / "fake_driving_node.py"),)
CRUISE = "cruise, acceleration +0.4 m/s2, steering +0.00 rad"


def options(tmp_path: Path, **changes: Any) -> DemoOptions:
    model = changes.pop("model", None) or make_model(tmp_path / "model", text=CRUISE)
    values: dict[str, Any] = {
        "seconds": 1.5,
        "width": 320,
        "height": 180,
        "lockstep": True,
        "routes": 1,
        "domain": DOMAIN,
    }
    return DemoOptions(out=tmp_path / "out", model=str(model), driver=FAKE, **{**values, **changes})


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"), force_terminal=False)


def alive(directory: Path) -> list[str]:
    """Return the command lines of processes that name a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in words and "ros-args" in words:
            found.append(words)
    return found


def test_lockstep_drive_record_and_replay(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    tally = run_demo(options(tmp_path, record=bag), quiet())
    # 1.5 s at 10 Hz: 15 images, each answered; the first is shown until a node answers that has heard clock and odometry
    assert (tally.sent, tally.reasons["VALID"], tally.passed_over) == (15, 15, 0)
    assert tally.routes[0]["outcome"] == "stopped"
    assert tally.scenes > 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answered"] == tally.answered
    assert report["camera_to_action_ms"]["p99"] >= report["camera_to_action_ms"]["p50"] > 0
    film = cv2.VideoCapture(str(tmp_path / "out" / "drive.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) >= 13
    image = cv2.imread(str(tmp_path / "out" / "overlay.png"))
    assert image is not None
    assert image.shape == (180, 320, 3)
    assert alive(tmp_path) == []

    from owled_ros.bags.frames import read_samples

    samples = list(read_samples(bag))
    assert len(samples) == 15
    assert all(sample.expert is not None and sample.scene is not None for sample in samples)
    assert samples[0].frame.image.shape == (180, 320, 3)

    again = run_demo(options(tmp_path / "replay", source="bag", path=str(bag), seconds=0.0, film=False), quiet())
    assert again.reasons["VALID"] >= 13
    assert again.end["film_images"] == 0
    clip = str(tmp_path / "out" / "drive.mp4")
    shown = run_demo(options(tmp_path / "clip", source="video", path=clip, seconds=0.0, film=False), quiet())
    assert shown.reasons["VALID"] >= 11


def test_actions_move_the_ego(tmp_path: Path) -> None:
    braking = make_model(tmp_path / "braking", text="stop, acceleration -6.0 m/s2, steering +0.00 rad")
    stopped = run_demo(options(tmp_path / "a", model=braking, film=False, seconds=3.0), quiet())
    going = make_model(tmp_path / "going", text="cruise, acceleration +2.0 m/s2, steering +0.00 rad")
    moved = run_demo(options(tmp_path / "b", model=going, film=False, seconds=3.0), quiet())
    assert stopped.answer["speed"] == 0.0
    assert moved.answer["speed"] > stopped.answer["speed"] + 3.0


def test_a_world_with_turns_tells_where_to_go(tmp_path: Path) -> None:
    """A model that asks for a command gets the world's own; the recording has it, and its replay too."""
    needs = {"cameras": ["front"], "images": [0.0], "needs_command": True}
    model = make_model(tmp_path / "model", text=CRUISE, needs=needs)
    bag = tmp_path / "bag"
    tally = run_demo(options(tmp_path, model=model, turns=True, record=bag, film=False), quiet())
    assert (tally.sent, tally.reasons["VALID"]) == (15, 15)

    from owled_ros.bags.frames import read_samples
    from owled_ros.scenes.world import World

    given = [sample.frame.command for sample in read_samples(bag)]
    first = World(1, turns=True).command
    assert first is not None
    assert given[0] is not None
    assert given[0].kind == first.kind
    assert given[0].distance == pytest.approx(first.distance, abs=1e-4)  # 32-bit in a message
    assert [command is not None for command in given] == [True] * 15
    again = run_demo(
        options(tmp_path / "replay", model=model, source="bag", path=str(bag), seconds=0.0, film=False), quiet()
    )
    assert again.reasons["VALID"] >= 13


def test_real_time_drive(tmp_path: Path) -> None:
    tally = run_demo(
        options(
            tmp_path, lockstep=False, film=False, seconds=2.0, parameters=("deadline_s:=5.0", "max_frame_age_s:=5.0")
        ),
        quiet(),
    )
    assert tally.reasons["VALID"] > 0
    assert sum(tally.reasons.values()) + tally.passed_over <= tally.sent <= 21


def test_nothing_answered_is_a_failure_with_the_cause(tmp_path: Path) -> None:
    silent = make_model(tmp_path / "silent", fail="fault")
    with pytest.raises(OwledError, match="weights of layer 7 are NaN"):
        run_demo(options(tmp_path, model=silent, film=False, seconds=0.5), quiet())
    with pytest.raises(OwledError, match=r"has no control\.json"):
        run_demo(options(tmp_path / "b", model=tmp_path / "none", film=False), quiet())
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(OwledError, match="cannot be read as a video"):
        run_demo(options(tmp_path / "c", source="video", path=str(tmp_path / "clip.mp4"), film=False), quiet())
    with pytest.raises(OwledError, match="does not exist"):
        run_demo(options(tmp_path / "d", source="bag", path=str(tmp_path / "no_bag")), quiet())
    (tmp_path / "there").mkdir()
    with pytest.raises(OwledError, match="exists already"):
        run_demo(options(tmp_path / "e", record=tmp_path / "there"), quiet())
    assert alive(tmp_path) == []


def test_the_command_ends_with_1_where_the_demonstration_failed(tmp_path: Path) -> None:
    words = [
        "demo",
        "--model",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "out"),
        "--domain",
        str(DOMAIN),
        "--headless",
    ]
    done = subprocess.run([sys.executable, "-m", "owled_ros", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: driving_node ended with code 1 before it answered" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ROS_DOMAIN_ID": "300"}, "ROS_DOMAIN_ID is '300'"),
        ({"RMW_IMPLEMENTATION": "rmw_nonsense"}, "rmw_nonsense"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "no node finds another"),
    ],
)
def test_an_environment_that_cannot_work_is_refused_before_anything_starts(
    variables: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    wanted = options(tmp_path, domain=None)
    with pytest.raises(OwledError, match=words):
        run_demo(wanted, quiet())
    assert not wanted.out.exists()


def test_waiting_for_the_model_ends(tmp_path: Path) -> None:
    slow = make_model(tmp_path / "slow", load_s=120.0)
    with pytest.raises(OwledError, match=r"the model is not loaded after 4 s.*--load-timeout"):
        run_demo(options(tmp_path, model=slow, film=False, load_timeout_s=4.0), quiet())
    assert alive(tmp_path) == []


def test_nodes_that_cannot_find_each_other_are_told_apart_from_slow_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is put into another domain: both run, neither sees the other."""
    from owled_ros.demo import run

    apart = (str(TEST / "in_another_domain.py"), str(free_domain()))
    monkeypatch.setattr(run, "SOURCE", apart)
    monkeypatch.setattr(run, "DISCOVERY_S", 1.0)
    with pytest.raises(OwledError, match=rf"source_node has not found it.*ROS_DOMAIN_ID={DOMAIN}"):
        run_demo(options(tmp_path, film=False), quiet())


def test_a_drive_that_breaks_off_reports_and_fails(tmp_path: Path) -> None:
    leaving = make_model(tmp_path / "leaving", text=CRUISE, exit_at=5)
    with pytest.raises(OwledError, match="driving_node ended with code 7 during the drive"):
        run_demo(options(tmp_path, model=leaving, film=False, seconds=0.0), quiet())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["answered"] > 0


def test_a_drive_without_any_action_reports_and_fails(tmp_path: Path) -> None:
    vague = make_model(tmp_path / "vague", text="perhaps to the left")
    with pytest.raises(OwledError, match=r"no action in .* answered images; the last was withheld for UNPARSED"):
        run_demo(options(tmp_path, model=vague, film=False, go_on=True), quiet())
    assert (tmp_path / "out" / "report.json").exists()


def test_hopeless_work_is_told_after_sixteen_answers() -> None:
    tally = Tally()
    answer = {"event": "answer", "sent": 1, "passed_over": 0}
    found = []
    for reason in ["UNPARSED"] * 15 + ["INCOMPLETE", "UNPARSED"]:
        tally.hear({**answer, "reason": reason})
        found.append(tally.is_hopeless)
    assert found == [False] * 15 + [True, False]
    for reason in ("VALID", "INFEASIBLE", "DECLINED"):
        once = Tally()
        for said in [reason] + ["UNPARSED"] * 16:
            numbers = {"camera_to_action_ms": 1.0, "latency_ms": 1.0}
            once.hear({**answer, **numbers, "reason": said})
            assert not once.is_hopeless


def test_the_report_fits_eighty_columns(tmp_path: Path) -> None:
    tally = Tally()
    tally.hear(ANSWER)
    tally.hear({"event": "end", "slipped_s": 12.3, "left_out": 4, "problem": ""})
    routes = [
        {"seed": seed, "driver": name, "outcome": "red light", "driven": "100%", "mean speed": "10.9 m/s"}
        for seed in (1000, 1001)
        for name in ("model", "expert", "constant speed")
    ]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_report(console, tally, routes, "owled demo: bundled model, closed loop, seed 1000")
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("red light" in line and "10.9 m/s" in line for line in lines) == 6, "no row is broken into two lines"


SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from owled_ros.demo.run import DemoOptions, run_demo
out, model, fake = map(Path, sys.argv[1:4])
run_demo(DemoOptions(out=out, model=str(model), driver=(str(fake),), width=320, height=180, domain=int(sys.argv[4]), routes=100), Console())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_demonstration(tmp_path: Path, number: int) -> None:
    model = make_model(tmp_path / "model", text=CRUISE)
    log = tmp_path / "log"
    with open(log, "wb") as stream:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), str(model), FAKE[0], str(DOMAIN)]
        demo = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        assert until(lambda: "m/s" in log.read_text(errors="replace") or demo.poll() is not None, 60), log.read_text()
        assert len(alive(tmp_path)) == 2
        demo.send_signal(number)
        demo.wait(40)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert until(lambda: alive(tmp_path) == [], 15), alive(tmp_path)
    if number != signal.SIGKILL:
        assert demo.returncode == 0, log.read_text()
        assert (tmp_path / "out" / "report.json").exists(), "an interrupted demonstration still reports"
        assert "Traceback" not in log.read_text()


def test_segments_of_the_dead_are_removed_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from owled_ros.demo import processes

    monkeypatch.setattr(processes, "SHARED_MEMORY", tmp_path)
    (tmp_path / "fastrtps_before").touch()
    before = {tmp_path / "fastrtps_before"}
    (tmp_path / "fastrtps_dead").touch()
    (tmp_path / "other").touch()
    assert sweep_segments(before) == [tmp_path / "fastrtps_dead"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fastrtps_before", "other"]


def test_nodes_get_the_transport_settings_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    environment = node_environment(5)
    assert Path(environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).name == "fastdds.xml"
    assert environment["MALLOC_ARENA_MAX"] == "7", "what the user has set stays"
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) > 1 << 20
    assert environment["ROS_DOMAIN_ID"] == "5"


ANSWER = {
    "event": "answer", "reason": "VALID", "detail": "", "text": CRUISE, "confidence": 0.8, "latency_ms": 40.0,
    "camera_to_action_ms": 60.0, "speed": 8.0, "sent": 3, "passed_over": 1, "route": 0, "time": 1.0, "progress": 0.1,
    "expert": CRUISE,
}  # fmt: skip


def test_tally_and_view() -> None:
    tally = Tally()
    assert line_of(tally) == "starting"
    tally.hear({"event": "waiting", "driver": "/driving_node"})
    assert "loading the model" in line_of(tally)
    tally.hear(ANSWER)
    tally.hear(
        {**ANSWER, "reason": "LOW_CONFIDENCE", "detail": "confidence 0.10 is below", "camera_to_action_ms": 999.0}
    )
    tally.hear({**ANSWER, "reason": "NO_EGO", "confidence": None})
    assert (tally.answered, tally.withheld, tally.passed_over) == (2, 2, 1)
    assert tally.camera_to_action_ms == [60.0], "latency is that of actions"
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(image_of(tally, "title"))
    assert "withheld: NO_EGO" in console.export_text()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--turns"]], ids=["mini", "mini-turns"])
def test_the_bundled_model_drives(more: list[str], tmp_path: Path) -> None:
    """Proof of life with torch, the model's own directory and the whole chain."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "owled_ros",
        "demo",
        "--fast",
        "--seconds",
        "1",
        "--routes",
        "1",
        "--out",
        str(out),
    ]
    command += ["--domain", str(DOMAIN), "--headless", "--threads", "1", "--set", "deadline_s:=60.0", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["answered"] > 0
    assert report["reasons"]["VALID"] > 0
    assert (out / "overlay.png").exists()
