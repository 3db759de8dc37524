"""Stands in for the recalibration's child process: the same protocol, files and deaths, without torch. Started by the tests.

`control.json` in the model's directory says what happens: {"at": stage, "how": "hang" | "error" | "crash" | "kill" | "silent"}
and "passed". It leaves half a candidate behind, as a killed pruning does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from stored_artifacts import make_artifact

from owled_ros.recalibration.courtesy import die_with_parent
from owled_ros.recalibration.request import read_request

STAGES = ("reading", "calibrating", "pruning", "writing", "gating")


def send(**event: object) -> None:
    print(json.dumps(event), flush=True)


def misbehave(how: str) -> None:
    if how == "hang":
        time.sleep(3600)
    if how == "error":
        send(event="error", message="bag drive1 gives no frame: 0 images on /camera/image")
        sys.exit(1)
    if how == "crash":
        print("Segmentation fault in layer 3", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(0)  # silent: no result


def main() -> None:
    start = json.loads(sys.stdin.readline())
    die_with_parent(int(start["parent"]))
    request = read_request(start["request"])
    control = json.loads((request.model / "control.json").read_text())
    (request.work / ".candidate.aside-1-2").mkdir()
    (request.work / ".candidate.aside-1-2" / "model.safetensors").write_bytes(b"half")
    for stage in STAGES:
        for done in (1, 2):
            send(event="progress", stage=stage, done=done, total=2, detail="steps")
            time.sleep(control.get("step_s", 0.0))
        if control.get("at") == stage:
            misbehave(control["how"])
    passed = control.get("passed", True)
    candidate = make_artifact(
        request.work / "candidate", f"{control.get('name', 'seed')}{request.parameters.seed}", passed
    )
    models = {
        "running": {"model": {"artifact_id": request.running.name if request.running else "", "model_id": "dense@0"}}
    }
    verdict = {"passed": passed, "reasons": [] if passed else ["worse"], "failed_rules": [] if passed else ["worse"], "frames": 3,
               "rules": [], "models": models}  # fmt: skip
    send(event="result", candidate=str(candidate), verdict=verdict)


def command(directory: Path) -> str:
    """Write a program that runs this file whatever its arguments; returns its path."""
    path = directory / "child"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{Path(__file__).parent}:$PYTHONPATH" exec {sys.executable} {__file__}\n')
    path.chmod(0o755)
    return str(path)


if __name__ == "__main__":
    main()
