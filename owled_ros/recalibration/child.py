"""The child process of a recalibration: reads a request on its standard input, writes events as JSON lines. Needs work.

Run by `job.run_job` as `python -m owled_ros.recalibration.child`. A crash in here takes nothing else along.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from typing import Any

from owled_ros.recalibration.courtesy import Courtesy, die_with_parent, give_way

EXIT_FAILED = 1


def main() -> int:
    """Work; the result or the error is the last event."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no event
    start: dict[str, Any] = json.loads(sys.stdin.readline())
    die_with_parent(int(start["parent"]))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    courtesy = Courtesy(**{**start["courtesy"], "cores": tuple(start["courtesy"]["cores"])})
    for missing in give_way(courtesy):
        _send(events, {"event": "warning", "message": f"cannot give way by {missing}"})

    def tell(stage: str, done: int, total: int, detail: str) -> None:
        _send(events, {"event": "progress", "stage": stage, "done": done, "total": total, "detail": detail})

    from owled_ros.errors import OwledError

    try:
        from owled_ros.devices import resolve_device
        from owled_ros.giving_way import giving_way
        from owled_ros.recalibration.request import read_request
        from owled_ros.recalibration.work import recalibrate

        request = read_request(start["request"])
        device = resolve_device(request.parameters.device)
        with giving_way(device, courtesy.gpu_pauses, courtesy.gpu_bounded) as missing:
            if missing:
                _send(events, {"event": "warning", "message": f"cannot give way by {missing}"})
            candidate, verdict = recalibrate(request, tell)
        _send(events, {"event": "result", "candidate": str(candidate), "verdict": verdict})
    except (OwledError, MemoryError, OSError) as error:
        _send(events, {"event": "error", "message": str(error) or type(error).__name__})
        return EXIT_FAILED
    except Exception as error:  # the parent is told of a bug too, with its place
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        _send(events, {"event": "error", "message": f"{type(error).__name__}: {error} ({where})"})
        return EXIT_FAILED
    return 0


def _send(events: Any, event: dict[str, Any]) -> None:
    events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())  # nothing to tidy up: the parent owns every file
