"""The Python packages that owled_ros stands on, each tried in a child process. Needs the standard library only."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from owled_ros.doctor.findings import Finding, Severity
from owled_ros.images.bridge_check import cv_bridge_problem, has_cv_bridge
from owled_ros.python_child import run_child

PYTHON_RANGE = ((3, 11), (3, 13))  # as setup.py and pyproject.toml say
TRANSFORMERS_MAJOR = 5


def check_python() -> Finding:
    """The interpreter that runs this."""
    version = sys.version_info[:2]
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if not PYTHON_RANGE[0] <= version <= PYTHON_RANGE[1]:
        return Finding(
            "python",
            Severity.WARN,
            found,
            f"Tested with Python {_dotted(PYTHON_RANGE[0])} to {_dotted(PYTHON_RANGE[1])}.",
        )
    return Finding("python", Severity.OK, found)


def check_numpy() -> Finding:
    """The arrays under everything."""
    return _library("numpy", "import numpy; numpy.ones(2) @ numpy.ones(2)")


def check_cv_bridge() -> Finding:
    """The ROS image converter, and its pact with the installed NumPy."""
    if not has_cv_bridge():
        return Finding("cv_bridge", Severity.OK, "not installed; the package decodes the images itself")
    problem = cv_bridge_problem()
    if problem:
        advice = "The node decodes the images itself instead. A cv_bridge must be built against the installed NumPy."
        return Finding("cv_bridge", Severity.WARN, f"unsound: {problem}", advice)
    return Finding("cv_bridge", Severity.OK, "sound")


def check_opencv() -> Finding:
    """What draws overlays and decodes compressed images."""
    return _library("cv2", "import cv2, numpy; cv2.imencode('.jpg', numpy.zeros((8, 8, 3), numpy.uint8))")


def check_torch() -> Finding:
    """The library that runs the model."""
    return _library("torch", "import torch; print(torch.ones(2).sum().item())")


def check_transformers() -> Finding:
    """The library that knows the model's architecture."""
    finding = _library("transformers", "from transformers import AutoConfig")
    if finding.severity is Severity.OK and int(finding.found.split(".")[0]) != TRANSFORMERS_MAJOR:
        return Finding("transformers", Severity.WARN, finding.found, f"Tested with transformers {TRANSFORMERS_MAJOR}.")
    return finding


def _library(module: str, code: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(module, Severity.FAIL, "not installed", f"Start with ./owled, or: pip install {module}")
    problem = run_child(code)[1]
    if problem:
        return Finding(module, Severity.FAIL, problem, f"{module} is installed but does not work; reinstall it.")
    return Finding(module, Severity.OK, _version(module))


def _version(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(names[0]) if names else "version unknown"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
