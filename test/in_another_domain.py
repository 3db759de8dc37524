"""source_node in the ROS domain that is the first word: for tests of nodes that cannot find each other."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.environ["ROS_DOMAIN_ID"] = sys.argv.pop(1)
    from owled_ros.nodes.process import run

    run("owled_ros.nodes.source_node")
