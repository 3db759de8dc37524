"""Write requirements/lock.txt: every package that ./owled installs, pinned. Needs pip and the network; run by maintainers.

    ./owled python bootstrap/lock.py

The pins come from pip's own resolution, not from `pip freeze`: the ROS 2 wheels bring second metadata directories with
names such as sensor_msgs, and those names belong to other projects on PyPI.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LISTS = ("run.txt", "dev.txt", "colcon.txt", "ros_wheels.txt")
HEADER = """\
# Every Python package of a set-up without ROS 2, pinned. Written by bootstrap/lock.py from the lists beside it.
# Made for CPython 3.11 to 3.13 on Linux x86_64. A CPU build of torch (2.13.0+cpu) is taken where pip finds one.
"""


def main() -> None:
    """Resolve the lists and write the lock."""
    folder = Path(__file__).resolve().parent.parent / "requirements"
    lists = [word for name in LISTS for word in ("-r", str(folder / name))]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
            *lists,
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        installed = json.loads(report.read_text())["install"]
    (folder / "lock.txt").write_text(HEADER + "".join(f"{pin}\n" for pin in pins(installed)))


def pins(installed: list[dict]) -> list[str]:  # type: ignore[type-arg]
    """Turn the `install` part of a pip report into sorted pins; local versions such as +cpu are left open."""
    facts = [item["metadata"] for item in installed]
    return sorted((f"{fact['name']}=={fact['version'].partition('+')[0]}" for fact in facts), key=str.lower)


if __name__ == "__main__":
    main()
