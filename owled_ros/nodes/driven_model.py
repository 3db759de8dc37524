"""What drives now, said on a latched topic: the only truth about it. Needs rclpy."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node

from owled_ros.driving.engine import Engine
from owled_ros.models.driving_model import bundled_model
from owled_ros.msg import DrivingModel
from owled_ros.nodes import topics
from owled_ros.nodes.quality import LATCHED
from owled_ros.onboard.choice import DrivingChoice, Source
from owled_ros.shipped import shipped

REMIND_S = 10.0


class DrivenModel:
    """Publishes DrivingModel as long as the node lives, and reminds the operator of the bundled model."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DrivingModel, topics.MODEL.name, LATCHED)
        self._reminded = -REMIND_S
        self.said = DrivingModel()
        self.nothing("the node is not configured")

    def nothing(self, why: str) -> None:
        """Say that nothing drives."""
        self._publish(DrivingModel(loaded=False, why=why))

    def drives(self, engine: Engine, path: str, source: Source, why: str, choice: DrivingChoice) -> None:
        """Say what drives since now, and why."""
        self._publish(
            DrivingModel(
                loaded=True,
                model_id=engine.identity.model_id,
                artifact_id=engine.identity.artifact_id,
                artifact_path=path,
                profile_id=str(engine.facts.get("profile_id", "")),
                deployment="" if choice.deployment is None else str(choice.deployment.root),
                source=int(source),
                why=why,
            )
        )
        self._reminded = -REMIND_S

    def remind(self) -> None:
        """Warn every REMIND_S while the bundled model drives without having been asked for by its name or path."""
        if self._drives_unasked() and time.monotonic() - self._reminded >= REMIND_S:
            self._reminded = time.monotonic()
            self._node.get_logger().warning(
                "the BUNDLED demonstration model drives; it knows rendered roads only. Give model_path or deployment "
                f"({self.said.why})"
            )

    def _drives_unasked(self) -> bool:
        """Tell whether the toy drives because nothing was given, or because a deployment has it for its base."""
        if not self.said.loaded:
            return False
        if self.said.source == Source.DEPLOYMENT:
            return Path(self.said.artifact_path).resolve() == bundled_model().resolve()
        return self.said.source == Source.BUNDLED and "by name" not in self.said.why

    def _publish(self, message: DrivingModel) -> None:
        message.header.stamp = self._node.get_clock().now().to_msg()
        self.said = message
        with contextlib.suppress(RuntimeError):  # the context ends
            self._publisher.publish(message)


def parameter_file_given(name: str, launched_with: str, arguments: Sequence[str] | None = None) -> bool:
    """Tell whether the operator gave a parameter file of his own; one equal to the shipped file is none.

    Args:
        name: Of the shipped file in config/.
        launched_with: What the launch file was given; its own argument, because launch hands copies to the node.
        arguments: Of the process.
    """
    arguments = sys.argv if arguments is None else arguments
    named = [value for option, value in itertools.pairwise(arguments) if option == "--params-file"]
    files = [Path(launched_with)] if launched_with else [Path(value) for value in named]
    ours = shipped(f"config/{name}")
    return any(not _equal(file, ours) for file in files)


def _equal(file: Path, ours: Path) -> bool:
    try:
        return file.read_bytes() == ours.read_bytes()
    except OSError:
        return False
