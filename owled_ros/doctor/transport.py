"""Do images get through: Fast DDS shared memory, malloc settings, segments left behind. Needs the standard library only.

The prices named here were measured with Python nodes on two cores; see docs/install.md.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from owled_ros.doctor.findings import Finding, Severity

SMALLEST_SEGMENT = 16 << 20  # [bytes], below it a few large images fill the shared memory
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX")
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SHARED_MEMORY = Path("/dev/shm")


def check_transport_profile() -> Finding:
    """Does Fast DDS have shared memory that holds images?"""
    advice = (
        "With the default of 512 KB, best-effort raw images of 640x480 and more lose 85-98 % at 30 Hz. Set "
        "FASTRTPS_DEFAULT_PROFILES_FILE to config/fastdds.xml on both sides; ./owled and the launch files do."
    )
    path = next((os.environ[name] for name in PROFILE_VARIABLES if os.environ.get(name)), None)
    if path is None:
        return Finding("transport profile", Severity.WARN, "no Fast DDS profile is set", advice)
    try:
        size = largest_segment(Path(path))
    except (OSError, ElementTree.ParseError) as error:
        return Finding(
            "transport profile",
            Severity.FAIL,
            f"{path}: {error}",
            "Fast DDS ignores a profile that it cannot read. Correct the path.",
        )
    if size < SMALLEST_SEGMENT:
        return Finding("transport profile", Severity.WARN, f"{path}: segment of {size >> 10} KB", advice)
    return Finding("transport profile", Severity.OK, f"{path}: segment of {size >> 20} MB")


def largest_segment(profile: Path) -> int:
    """Return the largest shared memory segment of a Fast DDS profile [bytes]; 0 where it sets none."""
    tags = ElementTree.parse(profile).iter()
    return max((int(tag.text or 0) for tag in tags if tag.tag.rsplit("}", 1)[-1] == "segment_size"), default=0)


def check_malloc() -> Finding:
    """Does malloc keep the memory of images?"""
    missing = missing_malloc(os.environ)
    if missing:
        advice = (
            "Without them a raw 1280x720 image takes 27 ms (p50) instead of 2.5 ms to a Python node. "
            "Use ./owled or the launch files, or: set -a; . config/transport.env; set +a"
        )
        return Finding("malloc", Severity.WARN, f"not set: {', '.join(missing)}", advice)
    return Finding("malloc", Severity.OK, "freed memory is kept")


def missing_malloc(environ: Mapping[str, str]) -> list[str]:
    """Name the malloc settings that are not set."""
    return [name for name in MALLOC_VARIABLES if name not in environ]


def check_shared_memory() -> Finding:
    """Segments in /dev/shm that killed processes left behind."""
    if not SHARED_MEMORY.is_dir():
        return Finding(
            "shared memory",
            Severity.WARN,
            "no /dev/shm",
            "Images then go through UDP, slower. In a container: --shm-size=512m",
        )
    segments = [path for path in SHARED_MEMORY.iterdir() if re.match(r"(fastrtps|fastdds)_", path.name)]
    orphans = orphaned(segments)
    if orphans:
        size = sum(path.stat().st_size for path in orphans if path.exists()) >> 20
        names = "fastrtps_* and sem.fastrtps_*"
        return Finding(
            "shared memory", Severity.WARN, f"{len(orphans)} segments ({size} MB) of processes that are gone",
            f"While no ROS 2 node runs, remove {names} in /dev/shm, or run: fastdds shm clean",
        )  # fmt: skip
    return Finding("shared memory", Severity.OK, f"{len(segments)} segments, all in use")


def orphaned(segments: list[Path]) -> list[Path]:
    """Return the segments that no process of this user has open or mapped."""
    in_use = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            in_use.update(re.findall(r"/dev/shm/(\S+)", (process / "maps").read_text()))
            in_use.update(link.readlink().name for link in (process / "fd").iterdir())
        except OSError:
            continue  # ended, or of another user
    return [path for path in segments if path.name not in in_use]
