"""Run the demonstration: two processes over DDS, watched from here. Needs the nodes' environment (ROS 2), but no rclpy itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from owled_ros.demo.processes import Child, node_environment, reaped
from owled_ros.demo.report import compare_routes, print_report, write_report
from owled_ros.demo.tally import Tally
from owled_ros.demo.view import LiveView
from owled_ros.errors import OwledError

POLL_S = 0.1
DRIVER_LOG, SOURCE_LOG = "driving_node.log", "source_node.log"
SOURCE = ("-m", "owled_ros.nodes", "source_node")
REMAPS = ("~/input/image:=/camera/image", "~/input/odometry:=/ego/odometry")


@dataclass(frozen=True)
class DemoOptions:
    """What the demonstration drives, and where it writes."""

    out: Path
    source: str = "world"  # world, bag or video
    path: str = ""
    model: str = ""
    routes: int = 3
    seconds: float = 0.0  # [s], 0: no limit
    seed: int = 1
    rate_hz: float = 10.0
    width: int = 1280
    height: int = 720
    lockstep: bool = False
    record: Path | None = None
    film: bool = True
    device: str = "cpu"
    threads: int = 1
    domain: int | None = None
    parameters: tuple[str, ...] = ()  # further "name:=value" for driving_node
    driver: tuple[str, ...] = ("-m", "owled_ros.nodes", "driving_node")  # what Python runs


def run_demo(options: DemoOptions, console: Console) -> Tally:
    """Drive, show, report; raises OwledError when nothing was answered."""
    _check(options)
    options.out.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    title = _title(options)
    interrupted = False
    with _terminable():
        environment = node_environment(options.domain)
        driver = Child(options.driver, _driver_arguments(options), environment, options.out / DRIVER_LOG)
        with contextlib.ExitStack() as stack:
            stack.enter_context(reaped(driver))
            source = Child(SOURCE, _source_arguments(options), environment, options.out / SOURCE_LOG)
            stack.enter_context(reaped(source))
            with LiveView(console, tally, title) as view:
                try:
                    _watch(driver, source, tally, view)
                except KeyboardInterrupt:
                    interrupted = True
                    console.print("interrupted; finishing the report")
                    _drain(source, tally)
    _judge(driver, source, tally)
    routes = [] if interrupted or options.source != "world" else compare_routes(tally, 1.0 / options.rate_hz)
    write_report(options.out, tally, routes, title)
    print_report(console, tally, routes, title)
    console.print(f"report, film, image and logs: {options.out}", highlight=False, soft_wrap=True)
    if options.record is not None:
        console.print(
            f"recording: {options.record}  (ros2 bag play {options.record} --clock)", highlight=False, soft_wrap=True
        )
    return tally


def _check(options: DemoOptions) -> None:
    for module in ("rclpy", "owled_ros.msg"):
        if importlib.util.find_spec(module) is None:
            raise OwledError(
                f"{module} is not there: the demonstration needs ROS 2 and the built messages; run ./owled demo, which sets both up, "
                "or source your ROS 2 and the workspace"
            )
    if options.record is not None and options.record.exists():
        raise OwledError(f"{options.record} exists already; name a new directory for the recording")
    if options.path and not Path(options.path).exists():
        raise OwledError(f"{options.path} does not exist; name a bag or a video clip")


def _driver_arguments(options: DemoOptions) -> list[str]:
    simulated = options.source != "world" or options.lockstep
    values = {
        "model_path": options.model,
        "device": options.device,
        "threads": options.threads,
        "use_sim_time": str(simulated).lower(),
        "exit_on_failure": "true",
    }
    arguments = [part for remap in REMAPS for part in ("-r", remap)]
    for name, value in values.items():
        arguments += ["-p", f"{name}:={value}"] if value != "" else []
    return arguments + [part for value in options.parameters for part in ("-p", value)]


def _source_arguments(options: DemoOptions) -> list[str]:
    values: dict[str, Any] = {
        "source": options.source,
        "path": options.path,
        "pace": "lockstep" if options.lockstep else "realtime",
        "seed": options.seed,
        "routes": options.routes,
        "seconds": float(options.seconds),
        "rate_hz": float(options.rate_hz),
        "width_px": options.width,
        "height_px": options.height,
        "record": options.record or "",
        "film": options.out if options.film else "",
    }
    return [part for name, value in values.items() if value != "" for part in ("-p", f"{name}:={value}")]


def _title(options: DemoOptions) -> str:
    what = {"world": f"closed loop, seed {options.seed}", "bag": options.path, "video": options.path}[options.source]
    return f"owled demo: {options.model or 'bundled model'}, {what}"


def _watch(driver: Child, source: Child, tally: Tally, view: LiveView) -> None:
    """Read the source's events until it ends or the driver fails."""
    for event in _events(source):
        if event is not None:
            tally.hear(event)
        view.update()
        if driver.code is not None:
            return


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


def _judge(driver: Child, source: Child, tally: Tally) -> None:
    if tally.answered:
        return
    if driver.code:
        raise OwledError(
            f"driving_node ended with code {driver.code} before it answered; the end of {driver.log}:\n{driver.tail()}"
        )
    if tally.error or source.code:
        raise OwledError(f"source_node failed: {tally.error or source.code}; the end of {source.log}:\n{source.tail()}")
    why = f"{tally.answer['reason']}: {tally.answer['detail']}" if tally.answer else "no word came from driving_node"
    raise OwledError(f"no image was answered ({why}); see {driver.log}")


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
