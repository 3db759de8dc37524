"""Steps that a person can watch: a line that moves on a terminal, a line now and then in a log file.

Needs the standard library only. What the tools say goes to a log; its end is shown when one fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from problem import SetupProblem

TERMINAL_PERIOD_S = 0.2
LOG_PERIOD_S = 20.0
SHOWN_LINES = 15
Note = Callable[[str], str]  # turns a line of a tool's output into a few words, or "" to keep the last ones


def run_step(title: str, command: Sequence[str], log: Path, env: Mapping[str, str], note: Note, explain: Note) -> None:
    """Run a command, show its title, elapsed time and notes; raises SetupProblem with its last lines and an explanation."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    lines: list[str] = []
    words = [""]
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(f"\n$ {' '.join(command)}\n")
        process = _start(title, command, env)
        reader = threading.Thread(target=_read, args=(process, stream, lines, words, note), daemon=True)
        reader.start()
        try:
            _watch(title, process, words, start)
            reader.join()
        except BaseException:
            _stop(process)
            raise
    if process.returncode != 0:
        _finish(title, "failed", start)
        shown = "\n".join("    " + line for line in lines[-SHOWN_LINES:])
        hint = explain("\n".join(lines))
        raise SetupProblem(
            f"{title} failed (exit code {process.returncode}). Its last lines:\n{shown}\n{hint}\nFull log: {log}"
        )
    _finish(title, "done", start)


def say(text: str) -> None:
    """Write a line for the person who waits."""
    print(f"owled: {text}", file=sys.stderr, flush=True)


def _start(title: str, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            errors="replace", env=dict(env), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise SetupProblem(
            f"{title}: cannot start {command[0]} ({error.strerror}). Remove .venv and run again."
        ) from error


def _read(process: subprocess.Popen[str], stream, lines: list[str], words: list[str], note: Note) -> None:  # type: ignore[no-untyped-def]
    assert process.stdout is not None
    for line in process.stdout:
        stream.write(line)
        stream.flush()
        lines.append(line.rstrip())
        words[0] = note(line) or words[0]


def _watch(title: str, process: subprocess.Popen[str], words: list[str], start: float) -> None:
    terminal = sys.stderr.isatty()
    if not terminal:
        say(f"{title} ...")
    last = time.monotonic()
    while True:
        try:
            process.wait(TERMINAL_PERIOD_S)
            return
        except subprocess.TimeoutExpired:
            pass
        elapsed = time.monotonic() - start
        if terminal:
            width = max(20, _columns() - 1)
            print(
                "\r\033[K" + f"owled: {title} {_clock(elapsed)} {words[0]}"[:width], end="", file=sys.stderr, flush=True
            )
        elif time.monotonic() - last >= LOG_PERIOD_S:
            last = time.monotonic()
            say(f"{title} {_clock(elapsed)} {words[0]}")


def _finish(title: str, outcome: str, start: float) -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    say(f"{title}: {outcome} in {_clock(time.monotonic() - start)}")


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 80


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
