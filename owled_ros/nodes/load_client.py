"""Ask a running driving node from a plain process to load another model. Needs rclpy."""

from __future__ import annotations

from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from owled_ros.errors import OwledError
from owled_ros.srv import LoadModel

DISCOVERY_S = 5.0
LOAD_S = 120.0


def ask_to_load(driving_node: str, directory: Path | None) -> None:
    """Make the driving node load a directory beside the running model; raises OwledError when it is not there or refuses."""
    service = f"{driving_node.rstrip('/')}/load_model"
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("owled_load_client", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(LoadModel, service)
        if not client.wait_for_service(timeout_sec=DISCOVERY_S):
            raise OwledError(f"no node offers {service}; start the driving node, or check its name and ROS_DOMAIN_ID")
        future = client.call_async(LoadModel.Request(path=str(directory or "")))
        executor.spin_until_future_complete(future, timeout_sec=LOAD_S)
        answer = future.result() if future.done() else None
        if answer is None:
            raise OwledError(f"{service} did not answer within {LOAD_S:g} s")
        if not answer.success:
            raise OwledError(f"the driving node refused {directory}: {answer.message}")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
