"""Is an installed cv_bridge sound? Tried on known images in a child process. Needs the standard library only.

An unsound one is not only one that crashes: builds against another NumPy or OpenCV return wrong pixels without a word.
"""

from __future__ import annotations

import importlib.util

from owled_ros.python_child import run_child

# Two images whose pixels are known: 16-bit values above 255, and rows padded by three bytes.
PROBE = """
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import Image
deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
message = Image(height=3, width=4, encoding="16UC1", step=8, data=deep.tobytes())
assert np.array_equal(CvBridge().imgmsg_to_cv2(message), deep), "16UC1 comes out wrong"
colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
padded = np.pad(colour.reshape(3, 12), ((0, 0), (0, 3)))
message = Image(height=3, width=4, encoding="rgb8", step=15, data=padded.tobytes())
assert np.array_equal(CvBridge().imgmsg_to_cv2(message, "rgb8"), colour), "padded rows are sheared"
swapped = CvBridge().imgmsg_to_cv2(message, "bgr8")
assert np.array_equal(swapped, colour[..., ::-1]), "rgb8 to bgr8 comes out wrong"
"""


def has_cv_bridge() -> bool:
    """Tell whether a cv_bridge is installed, sound or not."""
    return importlib.util.find_spec("cv_bridge") is not None


def cv_bridge_problem() -> str:
    """Say what is wrong about the installed cv_bridge; empty: it is sound."""
    return run_child(PROBE)[1]
