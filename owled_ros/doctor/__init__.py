"""What `owled doctor` looks at, in the order of the table. Needs the standard library only."""

from owled_ros.doctor.autoware import check_autoware
from owled_ros.doctor.discovery import check_discovery
from owled_ros.doctor.findings import Check, Finding, Severity, as_json, examine
from owled_ros.doctor.libraries import (
    check_cv_bridge,
    check_numpy,
    check_opencv,
    check_python,
    check_torch,
    check_transformers,
)
from owled_ros.doctor.machine import check_compiler, check_cpu, check_disk, check_gpu, check_kernel, check_memory
from owled_ros.doctor.model import check_bundled_model
from owled_ros.doctor.ros import check_messages, check_rmw, check_ros
from owled_ros.doctor.transport import check_malloc, check_shared_memory, check_transport_profile

CHECKS: tuple[Check, ...] = (
    check_python,
    check_ros,
    check_discovery,
    check_rmw,
    check_messages,
    check_autoware,
    check_transport_profile,
    check_malloc,
    check_shared_memory,
    check_cv_bridge,
    check_numpy,
    check_opencv,
    check_torch,
    check_transformers,
    check_bundled_model,
    check_cpu,
    check_kernel,
    check_gpu,
    check_memory,
    check_disk,
    check_compiler,
)

__all__ = ["CHECKS", "Check", "Finding", "Severity", "as_json", "examine"]
