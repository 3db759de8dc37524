"""Where the route wants to go next, as a short command. Needs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class CommandKind(IntEnum):
    """What the route asks for. Values equal NavigationCommand.msg."""

    UNKNOWN = 0
    FOLLOW_LANE = 1
    STRAIGHT = 2  # at the next junction
    LEFT = 3
    RIGHT = 4
    LANE_CHANGE_LEFT = 5
    LANE_CHANGE_RIGHT = 6
    U_TURN = 7
    STOP = 8  # the goal is reached


@dataclass(frozen=True)
class NavigationCommand:
    """One command of the route."""

    kind: CommandKind
    distance: float | None = None  # [m] along the route to where it applies; None: unknown
    text: str = ""  # the same in words, where the navigation gives some
    stamp: int = 0  # [ns], when it was given
