"""The live view: a panel on a terminal, a line per second in a pipe. Needs rich."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from owled_ros.demo.tally import VALID, Tally, percentiles

LINE_PERIOD_S = 1.0
REFRESH_HZ = 8
GRADES = ((0.75, "green"), (0.4, "yellow"), (0.0, "red"))


class LiveView:
    """Shows a tally while it grows; a context manager."""

    def __init__(self, console: Console, tally: Tally, title: str) -> None:
        self._console, self._tally, self._title = console, tally, title
        self._live = (
            Live(console=console, refresh_per_second=REFRESH_HZ, transient=True) if console.is_terminal else None
        )
        self._shown = 0.0

    def __enter__(self) -> LiveView:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Show the newest state, not more often than it can be read."""
        now = time.monotonic()
        if self._live is not None and now - self._shown > 1.0 / REFRESH_HZ:
            self._live.update(image_of(self._tally, self._title))
            self._shown = now
        elif self._live is None and now - self._shown > LINE_PERIOD_S:
            self._console.print(line_of(self._tally), markup=False, highlight=False, soft_wrap=True)
            self._shown = now


def line_of(tally: Tally) -> str:
    """Say the state in one line."""
    answer = tally.answer
    if not answer:
        return tally.stage
    said = answer["text"] if answer["reason"] == VALID else f"no action ({answer['reason']}: {answer['detail']})"
    scene = f" | {tally.scene['text']}" if tally.scene else ""
    return (
        f"{answer.get('time', 0.0):6.1f} s  {answer['speed']:4.1f} m/s  {said}  {answer['latency_ms']:.0f} ms  "
        f"passed over {tally.passed_over}{scene}"
    )


def image_of(tally: Tally, title: str) -> RenderableType:
    """Lay the state out as a panel."""
    answer, table = tally.answer, Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    if not answer:
        return Panel(Text(f"{tally.stage} ...", style="cyan"), title=title)
    table.add_row("action", _action(tally))
    if answer.get("expert"):
        table.add_row("expert", Text(answer["expert"], style="dim"))
    table.add_row("scene", Text(tally.scene.get("text", "no description yet")))
    if tally.scene.get("truth"):
        table.add_row("truth", Text(tally.scene["truth"], style="dim"))
    table.add_row("confidence", _bar(answer["confidence"] or 0.0))
    spread = percentiles(tally.camera_to_action_ms)
    latency = f"{answer['latency_ms']:.0f} ms now"
    if spread:
        latency += f"; camera to action p50 {spread['p50']:.0f} ms, p99 {spread['p99']:.0f} ms"
    table.add_row("latency", latency)
    frames = f"{tally.sent} sent, {tally.answered} answered, {tally.passed_over} passed over, {tally.withheld} without action"
    table.add_row("images", frames)
    place = f"{answer['speed']:.1f} m/s"
    if "progress" in answer:
        place += f"   route {answer['route'] + 1}, {answer['progress']:.0%} done, {answer['time']:.0f} s"
    table.add_row("drive", place)
    ended = [f"route {route['route'] + 1} (seed {route['seed']}): {route['outcome']}" for route in tally.routes]
    return Panel(Group(table, *[Text(line, style="bold") for line in ended[-4:]]), title=title)


def _action(tally: Tally) -> Text:
    answer = tally.answer
    if answer["reason"] == VALID:
        return Text(answer["text"], style="bold green")
    return Text(f"withheld: {answer['reason']}: {answer['detail']}", style="bold red")


def _bar(share: float, width: int = 24) -> Text:
    style = next(style for floor, style in GRADES if share >= floor)
    full = round(min(max(share, 0.0), 1.0) * width)
    return (
        Text("█" * full, style=style).append("░" * (width - full), style="dim").append(f" {share:.2f}", style="default")
    )
