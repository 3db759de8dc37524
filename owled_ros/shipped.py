"""Where the files lie that come with the package (config/, msg/): in the sources, or in the share folder of an installation.

Needs nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "owled_ros"
SOURCES = Path(__file__).resolve().parent.parent


def shipped(relative: str) -> Path:
    """Return a file or folder such as "config/gate.yaml"; where the sources would have it when it is nowhere."""
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    installed = [prefix / "share" / PACKAGE / relative for prefix in (*prefixes, *SOURCES.parents, Path(sys.prefix))]
    return next((path for path in (SOURCES / relative, *installed) if path.exists()), SOURCES / relative)
