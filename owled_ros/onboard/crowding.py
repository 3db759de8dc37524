"""When there are more road users than a model that reads vectors is told of: said when it begins and when it ends. Needs no ROS."""

from __future__ import annotations

from owled_ros.driving.frame import Frame
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.vector_frame import left_out


class Crowding:
    """Looks at one frame after the other."""

    def __init__(self) -> None:
        self.words = ""  # what is left out now; empty: nothing is

    def look(self, frame: Frame | None, needs: InputNeeds) -> str:
        """Take a frame; returns what is to be said: once when something begins to be left out, once when that ends."""
        if frame is None:  # nobody knows
            return ""
        before, self.words = self.words, left_out(frame.around) if needs.route is not None else ""
        if bool(before) == bool(self.words):
            return ""
        return self.words or "the model is told of every road user again"
