"""The real recalibration node with the stub child instead of torch; started by the tests as a process of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from owled_ros.nodes.process import run, watch_signals

if __name__ == "__main__":
    watch_signals()
    from stub_child import command

    from owled_ros.nodes import recalibration_node
    from owled_ros.recalibration.job import JobResult, run_job

    program = command(Path(tempfile.mkdtemp()))

    def run_stub(request: Any, store: Any, **options: Any) -> JobResult:
        return run_job(request, store, python=program, **options)

    recalibration_node.run_job = run_stub
    run("owled_ros.nodes.recalibration_node")
