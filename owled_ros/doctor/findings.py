"""One line of what `owled doctor` finds, and how checks are run. Needs the standard library only.

Every check is a function without arguments that returns a Finding; heavy imports happen in child processes, so that a
broken package shows up as a line of the table instead of ending it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

logger = logging.getLogger(__name__)


class Severity(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARN = "warn"  # works, but worse than it could
    FAIL = "fail"  # something that owled_ros needs does not work


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    name: str
    severity: Severity
    found: str
    advice: str = ""  # what to do, empty when nothing is to be done


Check = Callable[[], Finding]


def examine(checks: Iterable[Check]) -> list[Finding]:
    """Run the checks; one that raises becomes a failed line of its own."""
    findings = []
    for check in checks:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            findings.append(check())
        except Exception as error:  # a doctor that dies of the illness helps nobody
            logger.debug("check %s raised", name, exc_info=True)
            findings.append(
                Finding(name, Severity.FAIL, f"the check itself failed: {error}", "Please report this with --json.")
            )
    return findings


def as_json(findings: list[Finding]) -> str:
    """Write the findings for a machine or a bug report."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)
