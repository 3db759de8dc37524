"""Ego states out of the messages that a bag has for them. Needs bags.conversions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rosbags.interfaces import Connection

from owled_ros.bags.conversions import ACCELERATION_CONVERTERS, EGO_CONVERTERS
from owled_ros.bags.topics import TopicChoice
from owled_ros.driving.frame import NANOSECONDS, EgoState

ACCELERATION_TOLERANCE = NANOSECONDS // 10  # [ns] between a state and the acceleration that belongs to it


class EgoSource:
    """Takes the messages in the order of the recording; gives a state for each that completes one."""

    def __init__(self, topics: TopicChoice) -> None:
        self._topics = topics
        self._acceleration: tuple[int, float] | None = None

    def is_part(self, connection: Connection) -> bool:
        """Tell whether the ego motion is made of this topic."""
        return connection.topic in (self._topics.ego, self._topics.acceleration)

    def add(self, connection: Connection, message: Any, stamp: int) -> EgoState | None:
        """Take one message with its stamp [ns]."""
        if connection.topic == self._topics.ego:
            return self._with_acceleration(EGO_CONVERTERS[self._topics.ego_type](message, stamp))
        self._acceleration = (stamp, ACCELERATION_CONVERTERS[connection.msgtype](message))
        return None

    def clear(self) -> None:
        """Forget everything: the clock ran backwards."""
        self._acceleration = None

    def _with_acceleration(self, state: EgoState) -> EgoState:
        measured = self._acceleration
        if measured is None or abs(measured[0] - state.stamp) > ACCELERATION_TOLERANCE:
            return state
        return replace(state, acceleration=measured[1])
