"""The newest navigation command, until it expires. Needs nothing."""

from __future__ import annotations

from owled_ros.driving.ego import NANOSECONDS
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.onboard.withheld import WithheldError, long_time


class Route:
    """Heard in one thread, asked in another: what they share is one reference."""

    def __init__(self) -> None:
        self._heard: tuple[NavigationCommand | None, str] = (None, "")

    def clear(self) -> None:
        """Forget the command."""
        self._heard = (None, "")

    def hear(self, command: NavigationCommand | None, problem: str = "") -> None:
        """Take a command; one of kind UNKNOWN takes the last one back. None: it cannot be used, for this reason."""
        taken_back = command is not None and command.kind is CommandKind.UNKNOWN
        self._heard = (None if taken_back else command, problem)

    def at(self, stamp: int, needs: InputNeeds, timeout_s: float) -> NavigationCommand | None:
        """Return the command that holds at `stamp` [ns]; raises WithheldError where one is needed and none holds."""
        command, problem = self._heard
        age_s = 0.0 if command is None else (stamp - command.stamp) / NANOSECONDS
        if command is not None and abs(age_s) <= timeout_s:  # one of far ahead is of another clock
            return command
        if not needs.needs_command:
            return None
        if command is None:
            raise WithheldError(
                Reason.NO_COMMAND, problem or "the model asks for a navigation command and none has come"
            )
        side = "old" if age_s > 0 else "ahead of the image"
        words = f"the navigation command {command.kind.name} is {long_time(abs(age_s))} {side}"
        raise WithheldError(Reason.EXPIRED_COMMAND, f"{words}; the limit is {timeout_s:g} s")
