"""Kills real recalibrations at random moments, parent, child or both, and looks at what is left.

Every turn starts `owled recalibrate` on a bag that is made first, with a small random model (or `--model`), and kills it with
SIGKILL at a random moment of a random stage, so that a busy machine does not crowd the kills at the start. After every kill: no process of the job lives, and the
store's current version is whole. With `--driving-node` the model is the bundled one, a real driving node answers images of
the world all the time and loads what is promoted; images that it did not answer are counted. Turns that were not hit in time count as finished jobs. With
`--counts FILE` a run that was interrupted resumes where it stopped.

    python benchmarks/recalibration_kills.py --kills 200 --driving-node
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from owled_ros.bags.write import BagWriter
from owled_ros.deployment.deployment import create_deployment
from owled_ros.deployment.store import Store
from owled_ros.driving.frame import EgoState
from owled_ros.errors import OwledError
from owled_ros.files import write_json
from owled_ros.models.driving_model import resolve_model
from owled_ros.models.manifest import verify
from owled_ros.scenes import camera as scene_camera
from owled_ros.scenes import mini_model
from owled_ros.scenes.out_of_distribution import out_of_distribution_image
from owled_ros.scenes.sample import sample_snapshot

START = 1_700_000_000_000_000_000
TINY = {
    "IMAGE_SIDE": 32,
    "GRID": 2,
    "IMAGE_TOKENS": 4,
    "WIDTH": 32,
    "HEADS": 2,
    "MLP": 64,
    "VISION_LAYERS": 1,
    "TEXT_LAYERS": 1,
}
RATE_HZ = 5.0  # of the images that the driving node gets
ALWAYS = "format_version: 1\nrules: [{name: frames, metric: frames, unit: frames, min: 2}]\n"
GONE_S = 20.0
LOADING_S = 900.0  # of a candidate, on a machine that is as busy as this one
STARTING_S = 300.0  # for the driving node to answer its first image
STAGES = ("starting", "reading", "calibrating", "pruning", "writing", "gating", "promoting")


def make_model(directory: Path) -> Path:
    """Write a LLaVA of a few thousand random weights."""
    for name, value in TINY.items():
        setattr(mini_model, name, value)
    mini_model.save_model(
        mini_model.build_model(0), directory, mini_model.build_profile(max_action_tokens=3, max_scene_tokens=3), "tiny"
    )
    return directory


def make_bag(path: Path) -> Path:
    """Record two short drives."""
    with BagWriter(path) as bag:
        for number in range(24):
            stamp = START + number * 10**8 + (number // 12) * 10**11
            bag.odometry(stamp, EgoState(stamp, 5.0))
            bag.image(stamp, out_of_distribution_image(number, (64, 36)), encoding="jpeg")
    return path


def start_job(root: Path, model: Path, turn: int, driving_node: str) -> subprocess.Popen[bytes]:
    """Start a job whose artifact differs from every other turn's."""
    arguments = [
        sys.executable, "-m", "owled_ros", "recalibrate", str(root / "bag"), "--store", str(root / "store"), "--model", str(model),
        "--gate", str(root / "gate.yaml"), "--score", "magnitude", "--allocation", "uniform", "--calibration-frames", "3",
        "--gate-frames", "3", "--seed", str(turn), "--keep", "3", "--sparsity", "0.1", "--no-idle",
    ]  # fmt: skip
    if driving_node:
        arguments += ["--driving-node", driving_node, "--load-timeout-s", str(LOADING_S)]
    log = open(root / "job.log", "wb")  # noqa: SIM115 (the job owns it)
    return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)


def descendants(process: int) -> list[int]:
    """Return the children of a process, and theirs."""
    try:
        direct = [
            int(text)
            for task in Path(f"/proc/{process}/task").iterdir()
            for text in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return direct + [deeper for child in direct for deeper in descendants(child)]


def alive(process: int) -> bool:
    """Tell whether a process still runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(job: subprocess.Popen[bytes], victim: str) -> list[int]:
    """Send SIGKILL; returns everything that has to be gone soon."""
    children = descendants(job.pid)
    targets = {"parent": [job.pid], "child": children, "both": [*children, job.pid]}[victim]
    for target in targets:
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return children


def check(root: Path, gone: list[int]) -> str:
    """Look at processes and store; returns what is wrong, or nothing."""
    end = time.monotonic() + GONE_S
    while any(map(alive, gone)) and time.monotonic() < end:
        time.sleep(0.05)
    if any(map(alive, gone)):
        return f"processes {[process for process in gone if alive(process)]} outlived their job"
    try:
        store = Store(root / "store")
        current = store.current()
        if current is not None:
            verify(current)
        for version in store.versions():
            if version.fault:
                return version.fault
            verify(version.path)
    except OwledError as error:
        return str(error)
    return ""


def main() -> None:
    """Kill, look, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after this long; 0: when all kills are done")
    parser.add_argument("--model", default="", help="directory; empty: the bundled or a random one")
    parser.add_argument("--counts", default="", help="JSON file of the counts so far, read at the start")
    parser.add_argument(
        "--driving-node", action="store_true", help="a real driving node runs all the time (needs ROS 2)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        small = not arguments.model and not arguments.driving_node
        model = make_model(root / "model") if small else resolve_model(arguments.model)
        make_bag(root / "bag")
        (root / "gate.yaml").write_text(ALWAYS)
        driver = start_driver(root, model) if arguments.driving_node else None
        camera = Camera() if arguments.driving_node else None
        try:
            if driver is not None and camera is not None:
                await_driver(root, driver, camera)
            wrong = run(arguments, root, model, driver, camera)
        finally:
            if driver is not None:
                driver.kill()
                driver.wait()
    if wrong:
        print(wrong, file=sys.stderr)
    sys.stdout.flush()
    os._exit(1 if wrong else 0)  # the camera's thread may be inside ROS


class Camera:
    """Sends the driving node small images and odometry, and counts its answers, in a thread of its own."""

    def __init__(self) -> None:
        import rclpy
        from nav_msgs.msg import Odometry
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from owled_ros.msg import PredictedAction
        from owled_ros.nodes.conversions import rgb_to_image

        rclpy.init()
        self.sent = self.answered = 0
        self.node = rclpy.create_node("camera")
        camera = self.node.create_publisher(Image, "/driving_node/input/image", 1)
        odometry = self.node.create_publisher(Odometry, "/driving_node/input/odometry", 1)
        for topic in ("action", "withheld_action"):
            self.node.create_subscription(PredictedAction, f"/driving_node/output/{topic}", self._on_answer, 50)
        image = sample_snapshot(0, scene_camera.Camera().resized(640, 360)).image

        def send() -> None:
            if camera.get_subscription_count() == 0:
                return
            stamp = self.node.get_clock().now()
            ego = Odometry()
            ego.header.stamp, ego.twist.twist.linear.x = stamp.to_msg(), 5.0
            odometry.publish(ego)
            camera.publish(rgb_to_image(image, stamp.nanoseconds, "camera"))
            self.sent += 1

        self.node.create_timer(1.0 / RATE_HZ, send)
        executor = SingleThreadedExecutor()
        executor.add_node(self.node)
        threading.Thread(target=executor.spin, daemon=True).start()

    def _on_answer(self, message: Any) -> None:
        self.answered += bool(message.text)  # valid or not, the model said something


def start_driver(root: Path, model: Path) -> subprocess.Popen[bytes]:
    """Make the store a deployment and start the driving node from it: a driver of anything else is never switched."""
    deployment = create_deployment(root / "store", model)
    log = open(root / "driver.log", "wb")  # noqa: SIM115 (the node owns it)
    arguments = [
        "--ros-args",
        "-p",
        f"deployment:={deployment.root}",
        "-p",
        "threads:=1",
        "-p",
        f"load_timeout_s:={LOADING_S}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "owled_ros.nodes", "driving_node", *arguments], stdout=log, stderr=log
    )


def await_driver(root: Path, driver: subprocess.Popen[bytes], camera: Camera) -> None:
    """Wait for the first answer, so that the jobs find a node that can switch."""
    end = time.monotonic() + STARTING_S
    while not camera.answered:
        if driver.poll() is not None or time.monotonic() > end:
            print((root / "driver.log").read_text(), file=sys.stderr)
            sys.stderr.flush()
            driver.kill()
            os._exit(1)
        time.sleep(0.1)


def run(
    arguments: argparse.Namespace,
    root: Path,
    model: Path,
    driver: subprocess.Popen[bytes] | None,
    camera: Camera | None,
) -> str:
    """Do the turns and print what came out; returns what is wrong, or nothing."""
    node = "/driving_node" if driver else ""
    begun = time.monotonic()
    first = start_job(root, model, 0, node)
    if first.wait() != 0:
        return f"a job that nobody kills does not work:\n{(root / 'job.log').read_text()}"
    usual_s = time.monotonic() - begun
    print(f"an undisturbed job takes {usual_s:.1f} s", flush=True)
    counts = read_counts(arguments.counts)
    random.seed(f"{arguments.seed} {counts['killed']}")
    while counts["killed"] < arguments.kills:
        if arguments.minutes and time.monotonic() - begun > 60 * arguments.minutes:
            break
        counts["turns"] += 1
        seen = (camera.sent, camera.answered) if camera is not None else (0, 0)
        started = time.monotonic()
        wrong = turn(root, model, counts, usual_s, node)
        counts["corrupted"] += bool(wrong)
        counts["driver lost"] += driver is not None and driver.poll() is not None
        if camera is not None:
            counts["images sent"] += camera.sent - seen[0]
            counts["images answered"] += camera.answered - seen[1]
        counts["milliseconds"] += round((time.monotonic() - started) * 1e3)
        write_counts(arguments.counts, counts)
        if wrong:
            print(f"turn {counts['turns']}: {wrong}", flush=True)
    last = start_job(root, model, counts["turns"] + 1, node)
    counts["next job works"] = int(last.wait() == 0)
    counts["driver lost"] += driver is not None and driver.poll() is not None
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    failed = counts["corrupted"] or counts["driver lost"] or not counts["next job works"]
    return "what was counted above is not as it should be" if failed else ""


def turn(root: Path, model: Path, counts: Counter[str], usual_s: float, node: str) -> str:
    """Start a job, kill it unless it ends before; returns what is wrong afterwards."""
    job = start_job(root, model, counts["turns"], node)
    victim = random.choice(("parent", "child", "both"))
    gone: list[int] = []
    goal = random.choice(STAGES)
    while job.poll() is None and STAGES.index(stage(root)) < STAGES.index(goal):
        time.sleep(0.01)
    try:
        job.wait(random.uniform(0.0, usual_s / len(STAGES)))
        counts["finished"] += 1
    except subprocess.TimeoutExpired:
        counts["killed"] += 1
        counts[f"killed {victim}"] += 1
        counts[f"killed while {stage(root)}"] += 1
        gone = kill(job, victim)
        job.wait()
    return check(root, gone)


def stage(root: Path) -> str:
    """Return what the job said last."""
    lines = [line.split() for line in (root / "job.log").read_text(errors="replace").splitlines() if "%" in line[:5]]
    said = lines[-1][1] if lines and len(lines[-1]) > 1 else STAGES[0]
    return said if said in STAGES else STAGES[0]


def read_counts(path: str) -> Counter[str]:
    """Read what an earlier run has counted."""
    return Counter(json.loads(Path(path).read_text())) if path and Path(path).exists() else Counter()


def write_counts(path: str, counts: Counter[str]) -> None:
    """Keep the counts so far."""
    if path:
        write_json(Path(path), dict(counts))


if __name__ == "__main__":
    main()
