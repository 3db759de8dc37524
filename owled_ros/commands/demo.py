"""`owled demo`: watch a model drive through real ROS 2 nodes. Needs typer; the rest when it runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import typer

from owled_ros.commands import Device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    routes: int = typer.Option(3, min=1, help="Routes of the driving world, one after the other."),
    turns: bool = typer.Option(
        False, "--turns", help="World: turn left and right at junctions, told by navigation commands."
    ),
    seconds: float = typer.Option(
        0.0, min=0.0, help="End after this many seconds of driving; 0: at the end of the routes, bag or clip."
    ),
    seed: int = typer.Option(1, min=0, help="Seed of the first route; the following count up."),
    model: str = typer.Option(
        "",
        help="Model directory, artifact or llm-driver (bundled, reads objects and route); empty: the bundled VLM, with --turns mini-turns.",
    ),
    rate: float = typer.Option(10.0, min=0.1, max=60.0, help="Images per second of the world."),
    width: int = typer.Option(1280, min=64, help="Width of the world's images."),
    height: int = typer.Option(720, min=64, help="Height of the world's images."),
    noise_m: float = typer.Option(
        0.0, min=0.0, max=10.0, help="World, for a model that reads vectors: noise of objects' places [m]."
    ),
    dropped: float = typer.Option(
        0.0, min=0.0, max=1.0, help="World, for a model that reads vectors: share of objects missed."
    ),
    record: Path | None = typer.Option(
        None, help="Record camera, odometry, actions and truth into this new rosbag2 directory (mcap)."
    ),
    bag: Path | None = typer.Option(None, help="Take camera and ego motion from this bag instead of the world."),
    image_topic: str = typer.Option(
        "", help="Camera of the bag, where it has several; for several NAME=TOPIC,NAME=TOPIC, by the profile's names."
    ),
    ego_topic: str = typer.Option("", help="Ego motion of the bag, where it has several."),
    ego_from: str = typer.Option("", help="twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type."),
    as_recorded: bool = typer.Option(
        False, "--as-recorded", help="Play the bag's messages as they were recorded, instead of decoded images."
    ),
    video: Path | None = typer.Option(None, help="Take the camera from this clip instead of the world."),
    fast: bool = typer.Option(False, "--fast", help="Lockstep: the next image follows the answer, in simulated time."),
    out: Path | None = typer.Option(
        None, help="Directory for report, film, image and logs; default: demo_output/<time>."
    ),
    headless: bool = typer.Option(False, "--headless", help="Plain lines instead of the live view."),
    film: bool = typer.Option(True, help="Write the overlay film and image."),
    device: Device = "auto",
    threads: int = typer.Option(1, min=1, help="CPU threads of the model."),
    domain: int | None = typer.Option(None, min=0, max=232, help="ROS domain; default: ROS_DOMAIN_ID, or 0."),
    load_timeout: float = typer.Option(600.0, min=1.0, help="Give up when the model is not loaded by then [s]."),
    set_parameter: list[str] = typer.Option(
        [], "--set", help="Further driving_node parameter, as name:=value; may be repeated."
    ),
    go_on: bool = typer.Option(
        False, "--go-on", help="Go on although none of the model's first 16 answers is in its form."
    ),
) -> None:
    """Watch a driving model read a camera and act, in closed loop, through real ROS 2 nodes.

    A rendered world (or a bag, or a clip) publishes camera and odometry; driving_node, in its own process, answers over DDS, and its
    actions move the ego. At the end a report, a film and an image lie in the output directory. The exit code is 1 when it
    could not start, broke off, or gave no action at all.

    Examples:  owled demo   |   owled demo --routes 5 --record drive_bag   |   owled demo --bag drive_bag --fast   |   owled demo --video clip.mp4
    """  # fmt: skip
    from rich.console import Console

    from owled_ros.demo.run import DemoOptions, run_demo
    from owled_ros.errors import OwledError
    from owled_ros.models.driving_model import TURNING

    if bag is None and (image_topic or ego_topic or ego_from or as_recorded):
        raise OwledError("--image-topic, --ego-topic, --ego-from and --as-recorded belong to --bag; name one")
    if bag is not None and video is not None:
        raise OwledError("--bag and --video exclude each other; choose one source")
    if turns and (bag is not None or video is not None):
        raise OwledError("--turns is about the routes of the driving world; leave it out with --bag and --video")
    source, path = ("bag", str(bag)) if bag else ("video", str(video)) if video else ("world", "")
    model = model or (TURNING if turns else "")
    directory = out or Path("demo_output") / datetime.now().strftime("%Y%m%d-%H%M%S")
    options = DemoOptions(
        out=directory, source=source, path=path, image_topic=image_topic, ego_topic=ego_topic, ego_from=ego_from, recorded=as_recorded, model=model, routes=routes, turns=turns, seconds=seconds, seed=seed, rate_hz=rate,
        width=width, height=height, noise_m=noise_m, dropped=dropped, lockstep=fast, record=record, film=film, device=device, threads=threads, domain=domain,
        load_timeout_s=load_timeout, parameters=tuple(set_parameter), go_on=go_on,
    )  # fmt: skip
    run_demo(options, Console(force_terminal=False if headless else None))
