"""`owled profile new`, `owled profile check` and `owled try`: begin a driving.json, and see what a model makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.errors import OwledError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from owled_ros.driving.frame import Frame
    from owled_ros.driving.profile import DrivingProfile
    from owled_ros.evaluation.profile_check import ProfileReport

PROMPT_SHOWN, OTHER_SHOWN = 6000, 120  # characters


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="How a model is asked and read: driving.json.", no_args_is_help=True)
    group.command()(new)
    group.command()(check)
    app.add_typer(group, name="profile")
    app.command("try")(try_model)


def new(
    kind: Annotated[str, typer.Argument(help="Kind of answer or shape of model; leave out to list them.")] = "",
    out: Annotated[Path, typer.Option(help="The file, or the model directory that it is written into.")] = Path(
        "driving.json"
    ),
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a profile to begin with; without KIND list what there is. What every key means: docs/profile.md.

    Example:  owled profile new points_history --out my-model/
    """
    from rich.console import Console
    from rich.table import Table

    from owled_ros.driving.presets import PRESETS, preset
    from owled_ros.driving.profile import PROFILE_NAME, profile_text
    from owled_ros.files import write_atomic

    console = Console(highlight=False)
    if not kind:
        table = Table(box=None, show_header=False)
        for name, make in PRESETS.items():
            table.add_row(f"[bold]{name}[/]", (make.__doc__ or "").strip())
        console.print(table)
        return
    text = profile_text(preset(kind))
    target = out / PROFILE_NAME if out.is_dir() else out
    if target.exists() and not force:
        raise OwledError(f"{target} is there already; give another --out, or --force to replace it")
    if (target.parent / "owled.json").is_file():
        raise OwledError(
            f"{target.parent} is an artifact, whose files are hashed; change the profile of its base model"
        )
    try:
        write_atomic(target, text)
    except OSError as error:
        raise OwledError(f"{target} cannot be written ({error}); give another --out") from error
    console.print(f"written: {target}; put your checkpoint's own words in, then: owled profile check {target.parent}")


def check(
    model: Annotated[str, typer.Argument(help="Model directory, artifact, 'mini', or a driving.json alone.")],
    bag: Annotated[Path | None, typer.Option(help="Ask about a frame of this bag.")] = None,
    image: Annotated[list[Path], typer.Option(help="Ask about images: one for all, or all in prompt order.")] = [],  # noqa: B006
    frame: Annotated[
        int, typer.Option(min=0, help="Which frame of the bag, counted among those that can be used.")
    ] = 0,
    image_topic: Annotated[str, typer.Option(help="Camera topic, or front=/a,left=/b for several.")] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where the bag has several.")] = "",
    ego_from: Annotated[str, typer.Option(help="What tells the ego motion (docs/bags.md).")] = "",
    speed: Annotated[float, typer.Option(min=0.0, max=60.0, help="With --image: the speed [m/s].")] = 5.0,
    command: Annotated[str, typer.Option(help="With --image: the navigation command, such as left.")] = "",
    out: Annotated[Path, typer.Option(help="The image with the trajectory drawn on it.")] = Path("profile_check.png"),
    device: Device = "auto",
    fov_deg: Annotated[float, typer.Option(min=10.0, max=170.0, help="Horizontal field of view, for drawing.")] = 70.0,
) -> None:
    """Show the rendered prompt, image tokens, the raw answer and the trajectory; exits with 1 when the model cannot drive.

    Example:  owled profile check my-model/ --bag drive1/
    """
    from rich.console import Console

    from owled_ros.models.driving_model import resolve_model

    console = Console(highlight=False, soft_wrap=True)
    path = Path(model).expanduser()
    if path.is_file():
        _show_file(path, console)
        return
    frame_of = _frame_maker(bag, image, frame, (image_topic, ego_topic, ego_from), speed, command)
    if _report(resolve_model(model), frame_of, device, None, out, fov_deg, console):
        raise typer.Exit(1)
    console.print("[green]the profile is sound and the model answers in its form[/]")


def try_model(
    model: Annotated[str, typer.Argument(help="Any Hugging Face VLM directory, an artifact, or 'mini'.")],
    bag: Annotated[Path | None, typer.Argument(help="Ask about a frame of this bag.")] = None,
    image: Annotated[list[Path], typer.Option(help="Ask about images: one for all, or all in prompt order.")] = [],  # noqa: B006
    profile: Annotated[
        str, typer.Option(help="Ask as this preset, driving.json or model does; empty: as its own file says.")
    ] = "",
    frame: Annotated[int, typer.Option(min=0, help="Which usable frame of the bag.")] = 0,
    image_topic: Annotated[str, typer.Option(help="Camera topic, or front=/a,left=/b for several.")] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where the bag has several.")] = "",
    ego_from: Annotated[str, typer.Option(help="What tells the ego motion (docs/bags.md).")] = "",
    speed: Annotated[float, typer.Option(min=0.0, max=60.0, help="Without a bag: the speed [m/s].")] = 5.0,
    command: Annotated[str, typer.Option(help="Without a bag: the navigation command, such as left.")] = "",
    out: Annotated[Path, typer.Option(help="The image with the trajectory drawn on it.")] = Path("try.png"),
    device: Device = "auto",
) -> None:
    """Ask a model: the prompt, its raw answer, the expected form, and what to change so that it drives, the likeliest first.

    Where its answer can be driven it is asked about other frames of the bag too: one that says the same to all does not look.
    `owled profile check` tells the same of a profile that is being written; here the model stands first, and any profile can be
    tried on it. Exits with 1 when nothing can be driven.

    Example:  owled try my-vlm/ drive1/ --profile points
    """
    from rich.console import Console

    from owled_ros.driving.profile import PROFILE_NAME
    from owled_ros.driving.profile_choice import choose_profile
    from owled_ros.models.driving_model import resolve_model

    console = Console(highlight=False, soft_wrap=True)
    directory = resolve_model(model)
    chosen = choose_profile(profile, directory) if profile else None
    topics = (image_topic, ego_topic, ego_from)
    frame_of = _frame_maker(bag, image, frame, topics, speed, command)
    others_of = None if bag is None else _others_maker(bag, topics)
    named = f" --profile {profile}" if profile else "" if (directory / PROFILE_NAME).is_file() else " --profile PROFILE"
    tune = f"owled tune {model} {bag or 'BAG'}…{named} --out DIR"
    if _report(directory, frame_of, device, chosen, out, 70.0, console, others_of, tune):
        raise typer.Exit(1)
    console.print("[green]it drives: the answer is in its form and gives a trajectory[/]")


def _report(
    directory: Path, frame_of: Any, device: str, profile: DrivingProfile | None, out: Path, fov_deg: float, console: Any,
    others_of: Any = None, tune: str = "",
) -> bool:  # fmt: skip
    """Ask, show everything, and tell whether there are problems."""
    from rich.markup import escape

    from owled_ros.evaluation.advice import TUNE
    from owled_ros.evaluation.profile_check import check_profile

    report = check_profile(directory, frame_of, device, profile=profile, others_of=others_of, tune=tune or TUNE)
    _show(report, console)
    if report.frame is not None and report.answer is not None:
        _draw(report, out, fov_deg)
        console.print(f"drawn to {escape(str(out))}")
    for problem in report.problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}")
    for number, advice in enumerate(report.advice, 1):
        console.print(f"[cyan]what to change, {number}:[/] {escape(advice)}")
    for note in report.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    return bool(report.problems)


def _frame_maker(
    bag: Path | None, images: list[Path], number: int, topics: tuple[str, str, str], speed: float, command: str
) -> Any:
    from owled_ros.driving.asking import made_up_frame
    from owled_ros.driving.ego import EgoState
    from owled_ros.driving.navigation import CommandKind, NavigationCommand

    if bag is not None and images:
        raise OwledError("give --bag or --image, not both")
    if command and command.upper() not in CommandKind.__members__:
        known = ", ".join(kind.name.lower() for kind in CommandKind if kind)
        raise OwledError(f"command {command!r} is not known; expected one of {known}")

    def from_images(profile: DrivingProfile) -> Frame:
        said = NavigationCommand(CommandKind[command.upper()]) if command else None
        return made_up_frame(
            profile, [_read_image(path) for path in images], EgoState(0, speed, 0.0, 0.0, steering_tire_angle=0.0), said
        )

    def from_bag(profile: DrivingProfile) -> Frame:
        from itertools import islice

        from owled_ros.bags.frames import ReadOptions, read_frames

        assert bag is not None
        options = ReadOptions(*topics, needs=profile.needs)
        found = next(islice(read_frames(bag, options), number, None), None)
        if found is None:
            raise OwledError(f"bag {bag} has no frame {number} that can be used; give a smaller --frame")
        return found

    return from_images if bag is None else from_bag


def _others_maker(bag: Path, topics: tuple[str, str, str]) -> Any:
    """Return what yields frames of a bag that differ most in speed and turning."""

    def others_of(profile: DrivingProfile) -> Iterator[Frame]:
        from owled_ros.bags.frames import ReadOptions
        from owled_ros.bags.selection import contrasting, read_selected
        from owled_ros.bags.summary import summarise_bag

        options = ReadOptions(*topics, needs=profile.needs)
        chosen = contrasting(summarise_bag(bag, options).frames)
        return (sample.frame for sample in read_selected(bag, chosen, options))

    return others_of


def _read_image(path: Path) -> Any:
    import cv2

    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise OwledError(f"{path} cannot be read as an image; expected a png or jpeg")
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def _show_file(path: Path, console: Any) -> None:
    from rich.markup import escape

    from owled_ros.driving.asking import conversation, made_up_frame
    from owled_ros.driving.profile import MAX_BYTES, parse_profile
    from owled_ros.evaluation.profile_check import prompt_text
    from owled_ros.files import read_small_file

    profile = parse_profile(read_small_file(path, MAX_BYTES) or b"", str(path))
    said = {call.name: f"(answer to {call.name})" for call in profile.calls}
    for call in profile.calls:
        console.rule(f"call {call.name}, at most {call.max_tokens} tokens")
        console.print(escape(prompt_text(conversation(profile, call, made_up_frame(profile), said))))
    console.print("[green]the file is sound[/]; with a model directory the model is asked too")


def _show(report: ProfileReport, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    if report.cameras:
        table = Table("camera", "images", "size now (px)", "image tokens", box=None)
        for camera in report.cameras:
            table.add_row(camera.name, str(camera.images), "x".join(map(str, camera.size)), str(camera.tokens))
        console.print(table)
    for call in report.calls:
        console.rule(f"call {call.name}: {call.prompt_tokens} tokens")
        console.print(escape(call.prompt[:PROMPT_SHOWN]))
        ended = "" if call.complete else ", cut off"
        console.rule(
            f"answer: {call.answer_tokens} of {call.max_tokens} tokens{ended}, {call.seconds:.2f} s", style="dim"
        )
        console.print(escape(call.answer))
    if report.form:
        console.print(f"[dim]expected:[/] {escape(report.form)}")
    if report.answer is not None and report.answer.trajectory is not None:
        console.print(_trajectory_table(report.answer.trajectory))
    elif report.answer is not None:
        console.print(f"no trajectory: {report.answer.reason.name} {escape(report.answer.detail)}")
    for other in report.others:
        said = " ".join(other.text.split())[:OTHER_SHOWN]
        console.print(f"[dim]at {other.speed:.1f} m/s, {other.yaw_rate:+.2f} rad/s it says:[/] {escape(said)}")


def _trajectory_table(trajectory: Any) -> Any:
    from rich.table import Table

    table = Table(
        "t [s]", "x [m]", "y [m]", "heading [rad]", "speed [m/s]", "accel. [m/s2]", "curvature [1/m]", box=None
    )
    stride = max(len(trajectory) // 12, 1)
    for row in trajectory.values[::stride].tolist():
        table.add_row(*(f"{value:.{digits}f}" for value, digits in zip(row, (1, 2, 2, 3, 2, 2, 4), strict=True)))
    return table


def _draw(report: ProfileReport, out: Path, fov_deg: float) -> None:
    import math

    import cv2

    from owled_ros.driving.overlay import Overlay, PinholeView, draw_overlay
    from owled_ros.files import write_atomic

    assert report.frame is not None
    view = PinholeView(horizontal_fov=math.radians(fov_deg))
    overlay = Overlay(answer=report.answer, ego=report.frame.ego, title="owled profile check")
    drawn = draw_overlay(report.frame.image, overlay, view)
    encoded = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1]
    try:
        write_atomic(out, encoded.tobytes())
    except OSError as error:
        raise OwledError(f"{out} cannot be written ({error}); give another --out") from error
