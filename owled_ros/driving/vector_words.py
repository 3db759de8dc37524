"""LLM-Driver's sentences about a vector scene: the structured description, questions with answers, the action.

Needs numpy. The wording is that of the released scenes (arXiv 2310.01957, section III), so that answers about them and about our
own world are scored by the same reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from owled_ros.driving.vector_facts import MPH, NEAR_JUNCTION, Facts, Seen

DESCRIBE = "Describe the scene."
DRIVE = "What do you see, and what do you do?"
ACT = "What do you do?"
FAR_JUNCTION = 100.0  # [m]
OFF_COURSE, TURNING, TURNING_ROUND = 10.0, 20.0, 150.0  # [deg]


@dataclass(frozen=True)
class Pedals:
    """An action as the sentences say it; shares."""

    accelerator: float  # [0, 1]
    brake: float  # [0, 1]
    steering: float  # [-1, 1], left positive


def description(facts: Facts) -> str:
    """Write everything that is to be seen, line by line."""
    lines = [counts(facts)]
    lines += [f"A moving car; {_placed(item)}" for item in facts.vehicles]
    lines += [f"A pedestrian; {_placed(item)} Crossing: {item.crossing};" for item in facts.pedestrians]
    lines += [*_junction(facts), light(facts)]
    if facts.junction >= NEAR_JUNCTION:
        lines.append(
            f"My car {_plain(facts.lane_offset)}m from the lane center and {abs(facts.lane_angle):.2f} degrees "
            f"{_side(-facts.lane_angle)} off center."
        )
    return "\n".join([*lines, f"My current speed is {speed(facts)} mph", _wheel(facts), _turn(facts)])


def counts(facts: Facts) -> str:
    """Say how many road users are to be seen."""
    return f"I'm observing {len(facts.vehicles)} cars and {len(facts.pedestrians)} pedestrians."


def light(facts: Facts) -> str:
    """Say the traffic light."""
    if facts.light_distance is None:
        return "There is no traffic lights."
    return f"There is a traffic light and it is {facts.light}. It is {facts.light_distance:.2f}m ahead."


def action(pedals: Pedals) -> str:
    """Say pedals and steering in whole percent, cut off and not rounded as in the released scenes."""
    side = "left" if pedals.steering > 0 else "right"
    return (
        f"Here are my actions:\n- Accelerator pedal {_percent(pedals.accelerator)}%\n- Brake pedal {_percent(pedals.brake)}%\n"
        f"- Going to steer {_percent(abs(pedals.steering))}% to the {side}."
    )


def drive_answer(facts: Facts, pedals: Pedals) -> str:
    """Answer DRIVE: counts, light and action, as the released answers are scored."""
    return f"{counts(facts)}\n{light(facts)}\n\n{action(pedals)}"


def speed(facts: Facts) -> str:
    """Write the speed in miles per hour."""
    return _plain(facts.speed * MPH)


QUESTIONS: dict[str, Callable[[Facts], str | None]] = {
    "How many cars and pedestrians are there?": lambda facts: counts(facts),
    "What is the color of the traffic light?": lambda facts: light(facts),
    "Where is the nearest car?": lambda facts: _nearest("car", facts.vehicles),
    "Where is the nearest pedestrian?": lambda facts: _nearest("pedestrian", facts.pedestrians),
    "How many pedestrians are crossing?": lambda facts: (
        f"{sum(item.crossing for item in facts.pedestrians)} pedestrians are crossing the road."
    ),
    "What is the distance to the closest intersection?": lambda facts: _junction(facts)[0],
    "What is the next turn?": lambda facts: _turn(facts),
    "What is your current speed and steering angle?": lambda facts: (
        f"My current speed is {speed(facts)} mph. {_wheel(facts)}"
    ),
}  # None: cannot be answered about this scene


def _placed(item: Seen) -> str:
    return (
        f"Angle in degrees: {_plain(item.angle)}; Distance: {item.distance:.2f}m; "
        f"Direction of travel: {direction(item.travelling)};"
    )


def direction(travelling: float) -> str:
    """Say which way an angle [deg], right positive, leads."""
    if abs(travelling) < 45:
        return "same direction as me"
    if abs(abs(travelling) - 180) < 45:
        return "opposite direction from me"
    return "from left to right" if travelling > 0 else "from right to left"


def _nearest(what: str, items: tuple[Seen, ...]) -> str:
    if not items:
        return f"There is no {what} to be seen."
    item = min(items, key=lambda one: one.distance)
    return f"The nearest {what} is {item.distance:.2f}m away, at an angle of {_plain(item.angle)} degrees."


def _junction(facts: Facts) -> list[str]:
    if facts.junction > FAR_JUNCTION:
        return ["There is no any junction ahead."]
    if facts.junction < NEAR_JUNCTION:
        return ["My car is passing an intersection."]
    near = [f"The distance to the closest intersection is {facts.junction:.2f}m"]
    return [*near, "It is a roundabout."] if facts.roundabout else near


def _wheel(facts: Facts) -> str:
    return f"Steering wheel is {abs(facts.wheel):.2f}% {_side(-facts.wheel)}."


def _turn(facts: Facts) -> str:
    if abs(facts.lane_angle) > OFF_COURSE:
        return f"The path is currently turning {int(facts.lane_angle)} degrees {_side(facts.lane_angle)}."
    if abs(facts.turn) > TURNING_ROUND:
        return f"The next I need to turn around in {facts.turn_distance:.2f}m."
    if abs(facts.turn) > TURNING:
        return f"The next turn is {int(facts.turn)} degrees {_side(facts.turn)} in {facts.turn_distance:.2f}m."
    return f"I need to go straight for at least {facts.turn_distance:.2f}m."


def _side(angle: float) -> str:
    return "left" if angle < 0 else "right"


def _percent(share: float) -> int:
    return int(min(max(share, 0.0), 1.0) * 100 + 1e-6)


def _plain(value: float) -> str:
    """Write two places, without a zero that has a sign."""
    return f"{round(value, 2) + 0.0:.2f}"
