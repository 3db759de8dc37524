"""Run the demonstration: two processes over DDS, watched from here. Needs the nodes' environment (ROS 2), but no rclpy itself."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from owled_ros.demo.processes import Child, node_environment, reaped
from owled_ros.demo.report import compare_routes, print_report, write_report
from owled_ros.demo.tally import LOADING, VALID, Tally
from owled_ros.demo.view import LiveView
from owled_ros.doctor.discovery import discovery_problem, missing_ros, settings_in_force
from owled_ros.driving.form_watch import hopeless
from owled_ros.errors import OwledError

POLL_S = 0.1
DRIVER_LOG, SOURCE_LOG = "driving_node.log", "source_node.log"
SOURCE = ("-m", "owled_ros.nodes", "source_node")
READY_WORDS = "image <- "  # in the driver's log when the model is loaded and the camera is listened to
DISCOVERY_S = 30.0  # after which two nodes that start on this machine should have found each other
REMAPS = (
    "~/input/image:=/camera/image",
    "~/input/image/compressed:=/camera/image/compressed",
    "~/input/odometry:=/ego/odometry",
)


@dataclass(frozen=True)
class DemoOptions:
    """What the demonstration drives, and where it writes."""

    out: Path
    source: str = "world"  # world, bag or video
    path: str = ""
    image_topic: str = ""  # of the bag; ReadOptions
    ego_topic: str = ""
    ego_from: str = ""
    recorded: bool = False  # the bag's messages as they were recorded
    transport: str = "raw"  # of the images that are played
    model: str = ""
    routes: int = 3
    turns: bool = False  # at junctions, told by navigation commands
    seconds: float = 0.0  # [s], 0: no limit
    seed: int = 1
    rate_hz: float = 10.0
    width: int = 1280
    height: int = 720
    lockstep: bool = False
    noise_m: float = 0.0  # of the places of objects that a model which reads vectors is told
    dropped: float = 0.0  # share of them that it is not told
    record: Path | None = None
    film: bool = True
    device: str = "cpu"
    threads: int = 1
    domain: int | None = None
    load_timeout_s: float = 600.0  # [s] until the model must be loaded
    parameters: tuple[str, ...] = ()  # further "name:=value" for driving_node
    go_on: bool = False  # though none of the model's first answers is in its form
    driver: tuple[str, ...] = ("-m", "owled_ros.nodes", "driving_node")  # what Python runs


def run_demo(options: DemoOptions, console: Console) -> Tally:
    """Drive, show, report; raises OwledError when it could not start, broke off, or gave no action at all."""
    environment = node_environment(options.domain)
    _check(options, environment)
    options = _with_bag(options)
    options.out.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    title = _title(options)
    interrupted, died = False, None
    with _terminable():
        driver = Child(options.driver, _driver_arguments(options), environment, options.out / DRIVER_LOG)
        with contextlib.ExitStack() as stack:
            stack.enter_context(reaped(driver))
            source = Child(SOURCE, _source_arguments(options), environment, options.out / SOURCE_LOG)
            stack.enter_context(reaped(source))
            with LiveView(console, tally, title) as view:
                try:
                    _watch(driver, source, tally, view, options, environment)
                except KeyboardInterrupt:
                    if not tally.reasons:
                        raise
                    interrupted = True
                    console.print("interrupted; finishing the report")
                    _drain(source, tally)
                died = driver.code  # None: it runs still, as it should
    _judge_start(driver, source, tally, died)
    routes = (
        [] if interrupted or options.source != "world" else compare_routes(tally, 1.0 / options.rate_hz, options.turns)
    )
    write_report(options.out, tally, routes, title)
    print_report(console, tally, routes, title)
    console.print(f"report, film, image and logs: {options.out}", highlight=False, soft_wrap=True)
    if options.record is not None:
        console.print(
            f"recording: {options.record}  (ros2 bag play {options.record} --clock)", highlight=False, soft_wrap=True
        )
    _judge_end(driver, source, tally, died)
    return tally


def _check(options: DemoOptions, environment: dict[str, str]) -> None:
    problem = missing_ros("owled demo") or discovery_problem(environment)
    if problem:
        raise OwledError(problem)
    if options.record is not None and options.record.exists():
        raise OwledError(f"{options.record} exists already; name a new directory for the recording")
    if options.path and not Path(options.path).exists():
        raise OwledError(f"{options.path} does not exist; name a bag or a video clip")


def _with_bag(options: DemoOptions) -> DemoOptions:
    """Decide what is played of a bag: what source_node would refuse is refused before everything has started."""
    if options.source != "bag":
        return options
    from owled_ros.demo.bag_choice import choose_from_bag

    choice = choose_from_bag(
        Path(options.path), options.model, options.image_topic, options.ego_topic, options.ego_from, options.recorded
    )
    return replace(options, image_topic=choice.image_topic, transport=choice.transport)


def _driver_arguments(options: DemoOptions) -> list[str]:
    simulated = options.source != "world" or options.lockstep
    values = {
        "model_path": options.model,
        "device": options.device,
        "threads": options.threads,
        "use_sim_time": str(simulated).lower(),
        "exit_on_failure": "true",
        "image_transport": options.transport if options.recorded else "",
    }
    arguments = [part for remap in REMAPS for part in ("-r", remap)]
    for name, value in values.items():
        arguments += ["-p", f"{name}:={value}"] if value != "" else []
    return arguments + [part for value in options.parameters for part in ("-p", value)]


def _source_arguments(options: DemoOptions) -> list[str]:
    values: dict[str, Any] = {
        "source": options.source,
        "path": options.path,
        "messages": "recorded" if options.recorded else "",
        "image_topic": options.image_topic,
        "ego_topic": options.ego_topic,
        "ego_from": options.ego_from,
        "pace": "lockstep" if options.lockstep else "realtime",
        "seed": options.seed,
        "routes": options.routes,
        "turns": str(options.turns).lower(),
        "seconds": float(options.seconds),
        "rate_hz": float(options.rate_hz),
        "width_px": options.width,
        "height_px": options.height,
        "perception.noise_m": float(options.noise_m),
        "perception.dropped": float(options.dropped),
        "record": options.record or "",
        "film": options.out if options.film else "",
    }
    return [part for name, value in values.items() if value != "" for part in ("-p", f"{name}:={value}")]


def _title(options: DemoOptions) -> str:
    what = {"world": f"closed loop, seed {options.seed}", "bag": options.path, "video": options.path}[options.source]
    return f"owled demo: {options.model or 'bundled model'}, {what}"


def _watch(
    driver: Child, source: Child, tally: Tally, view: LiveView, options: DemoOptions, environment: dict[str, str]
) -> None:
    """Read the source's events until it ends or the driver fails; raises OwledError when the drive does not begin in time."""
    began = time.monotonic()
    ready: float | None = None  # when both nodes were there and the driver listened
    for event in _events(source):
        if event is not None:
            tally.hear(event)
            if event["event"] == "answer" and tally.is_hopeless and not options.go_on:
                said = (tally.answer["reason"], tally.answer.get("text", ""))
                raise OwledError(hopeless(options.model or "the model", *said, "--go-on"))
        view.update()
        if driver.code is not None:
            return
        if not tally.waiting:
            continue
        now = time.monotonic()
        if ready is None and tally.stage == LOADING and READY_WORDS in driver.text():
            ready = now
        if ready is not None and now - ready > DISCOVERY_S:
            raise OwledError(
                f"driving_node is ready, but source_node has not found it within {DISCOVERY_S:.0f} s: something keeps the nodes of this "
                f"machine from discovering each other ({settings_in_force(environment)}); unset what you do not need, see owled doctor"
            )
        if ready is None and now - began > options.load_timeout_s:
            what = "the model is not loaded" if tally.stage == LOADING else "source_node has not started"
            log = driver.log if tally.stage == LOADING else source.log
            raise OwledError(
                f"{what} after {options.load_timeout_s:g} s; give it longer with --load-timeout, or see {log}"
            )


def _events(source: Child) -> Iterator[dict[str, Any] | None]:
    """Yield the events of the source as they come, and None now and then; ends with the source."""
    assert source.process.stdout is not None
    handle, rest = source.process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([handle], [], [], POLL_S)
        if not ready:
            yield None
            continue
        data = os.read(handle, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


def _drain(source: Child, tally: Tally) -> None:
    """After an interrupt: let the source finish its film, and hear its last events."""
    source.process.send_signal(signal.SIGINT)
    end = time.monotonic() + 10.0
    for event in _events(source):
        if event is not None:
            tally.hear(event)
        if time.monotonic() > end:
            return


def _judge_start(driver: Child, source: Child, tally: Tally, died: int | None) -> None:
    """Raise where nothing was answered: there is nothing to report."""
    if tally.answered:
        return
    if died is not None:
        raise OwledError(
            f"driving_node ended with code {died} before it answered; the end of {driver.log}:\n{driver.tail()}"
        )
    if tally.error or source.code:
        raise OwledError(f"source_node failed: {tally.error or source.code}; the end of {source.log}:\n{source.tail()}")
    why = f"{tally.answer['reason']}: {tally.answer['detail']}" if tally.answer else "driving_node never answered"
    raise OwledError(f"no image was answered ({why}); see {driver.log}")


def _judge_end(driver: Child, source: Child, tally: Tally, died: int | None) -> None:
    """Raise where the drive broke off, lost what it should keep, or gave no action; the report has been written by then."""
    if died is not None:
        raise OwledError(
            f"driving_node ended with code {died} during the drive, the report covers what came before; the end of "
            f"{driver.log}:\n{driver.tail()}"
        )
    if tally.error or source.code:
        raise OwledError(
            f"source_node failed during the drive, the report covers what came before: {tally.error or source.code}; the end of "
            f"{source.log}:\n{source.tail()}"
        )
    if tally.end.get("problem"):
        raise OwledError(f"film or recording is incomplete: {tally.end['problem']}")
    if not tally.reasons[VALID]:
        raise OwledError(
            f"the model gave no action in {tally.answered} answered images; the last was withheld for {tally.answer['reason']}: "
            f"{tally.answer['detail']}"
        )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, so that the children are reaped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
