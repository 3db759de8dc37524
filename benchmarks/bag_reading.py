"""Reading frames from a bag against the plain rosbags reader with image decoding, interleaved in one process.

    ./owled python benchmarks/bag_reading.py [BAG] [--frames 200] [--width 1280] [--height 720] [--rounds 7]

Without BAG, bags of random images (raw mcap, JPEG mcap, raw sqlite3) are written to a temporary directory. The plain side
reads only the camera topic and decodes; ours also aligns ego states and truth. Printed: medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.image import message_to_cvimage

from owled_ros.bags.conversions import IMAGE_TYPES
from owled_ros.bags.frames import read_frames
from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import EgoState

PERIOD = 100_000_000  # [ns]
KINDS = {"raw mcap": ("mcap", "", "rgb8"), "jpeg mcap": ("mcap", "", "jpeg"), "raw mcap zstd": ("mcap", "chunk", "rgb8"),
         "raw sqlite3": ("sqlite3", "", "rgb8")}  # fmt: skip


def write_bag(path: Path, kind: str, frames: int, width: int, height: int) -> Path:
    """Write smooth images with some noise, and odometry at 50 Hz."""
    storage, compression, encoding = KINDS[kind]
    noise = np.random.default_rng(0).integers(0, 24, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, width).astype(np.uint8)[None, :, None] + noise
    with BagWriter(path, storage, compression) as bag:
        for number in range(frames):
            stamp = 10**18 + number * PERIOD
            for step in range(5):
                bag.odometry(stamp + step * PERIOD // 5, EgoState(stamp, 5.0))
            bag.image(stamp, np.roll(ramp, number, axis=1), encoding=encoding)
    return path


def read_ours(path: Path) -> int:
    """Read everything as aligned frames."""
    return sum(frame.image.nbytes > 0 for frame in read_frames(path))


def read_plainly(path: Path) -> int:
    """Read and decode the camera with rosbags alone."""
    count = 0
    with AnyReader([path]) as reader:
        cameras = [connection for connection in reader.connections if connection.msgtype in IMAGE_TYPES]
        for connection, _, data in reader.messages(cameras):
            message_to_cvimage(reader.deserialize(data, connection.msgtype), "rgb8")
            count += 1
    return count


def compare(name: str, path: Path, rounds: int) -> None:
    """Print frames/s of both sides and the ratio of the medians."""
    sides = {"ours": read_ours, "plain": read_plainly}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    frames = 0
    for number in range(rounds + 1):
        for side, read in sides.items():
            started = time.perf_counter()
            frames = read(path)
            if number:  # the first round warms the page cache
                seconds[side].append(time.perf_counter() - started)
    ours, plain = (statistics.median(seconds[side]) for side in sides)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    print(f"{name:14s} {frames} frames: ours {frames / ours:7.0f}/s ({size / ours / 1e6:6.0f} MB/s), "
          f"plain {frames / plain:7.0f}/s, ours/plain {plain / ours:.2f}")  # fmt: skip


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.bag:
        compare(options.bag.name, options.bag, options.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            path = write_bag(Path(folder) / f"bag{number}", kind, options.frames, options.width, options.height)
            compare(kind, path, options.rounds)


if __name__ == "__main__":
    main()
