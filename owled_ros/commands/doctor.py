"""The command `owled doctor`: what is found, missing or mismatched on this machine. Needs rich."""

from __future__ import annotations

import typer

EXIT_SICK = 1
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(json: bool = typer.Option(False, "--json", help="Print the findings as JSON, for a bug report.")) -> None:
    """Check Python, ROS 2, its transport, cv_bridge, torch, CPU, GPU and the bundled model; say what to do about each.

    Exit code 1 when something that owled_ros needs does not work; warnings alone are 0.
    """
    from owled_ros.doctor import CHECKS, Severity, as_json, examine

    findings = examine(CHECKS)
    if json:
        typer.echo(as_json(findings))
    else:
        _show(findings)
    if any(finding.severity is Severity.FAIL for finding in findings):
        raise typer.Exit(EXIT_SICK)


def _show(findings: list) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES[finding.severity.value]
        table.add_row(f"[{style}]{finding.severity.value}[/]", finding.name, finding.found)
        if finding.advice:
            table.add_row("", "", f"[dim]{finding.advice}[/]")
    Console(highlight=False).print(table)
