"""How one model is asked: questions, ego sentence, token limits and confidence calibration. Needs driving.confidence.

A model directory may carry `driving.json` with these values (the bundled model does); every other Hugging Face model
is asked in full sentences that state the answer grammar.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from owled_ros.driving.confidence import Calibration
from owled_ros.driving.frame import EgoState
from owled_ros.errors import OwledError

PROFILE_NAME = "driving.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class DrivingProfile:
    """Prompts and limits; templates know {speed} [m/s] and {yaw_rate} [rad/s]."""

    ego_template: str = (
        "You drive a car. Your speed is {speed:.1f} m/s, your yaw rate is {yaw_rate:+.2f} rad/s (left positive)."
    )
    action_question: str = (
        "What should the car do now? Answer with one line, exactly in this form: "
        "'<cruise|follow|stop|yield>, acceleration <signed number> m/s2, steering <signed number> rad'. "
        "Acceleration lies between -6.0 and +2.0, steering (left positive) between -0.30 and +0.30. "
        "If you cannot tell, answer 'unknown'."
    )
    scene_question: str = (
        "What is to be seen? Answer with one line, exactly in this form: '<n> cars: <lead|oncoming|parked> <distance> m, ...; "
        "<n> pedestrians: <sidewalk|crossing> <distance> m, ...; traffic light <red|yellow|green> <distance> m' "
        "or 'no traffic light' at the end. Nearest first."
    )
    max_action_tokens: int = 32
    max_scene_tokens: int = 96
    max_answer_tokens: int = 128
    speed_step: float = 0.1  # [m/s]
    yaw_rate_step: float = 0.01  # [rad/s]
    max_speed: float = 60.0  # [m/s], larger speeds saturate in the sentence
    max_yaw_rate: float = 1.0  # [rad/s]
    image_size: tuple[int, int] | None = None  # (width, height) [px] to shrink to before the processor, None = as it is
    confidence: Calibration = field(default_factory=Calibration)

    def ego_sentence(self, ego: EgoState) -> str:
        """Say the ego state in words (LLM-Driver, arXiv 2310.01957, structured language)."""
        speed = _rounded(min(max(ego.speed, 0.0), self.max_speed), self.speed_step)
        yaw_rate = _rounded(min(max(ego.yaw_rate, -self.max_yaw_rate), self.max_yaw_rate), self.yaw_rate_step)
        return self.ego_template.format(speed=speed, yaw_rate=yaw_rate)


def read_profile(model_directory: Path) -> DrivingProfile:
    """Read `driving.json` of a model directory; the default profile when there is none."""
    path = model_directory / PROFILE_NAME
    if not path.exists():
        return DrivingProfile()
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        version = values.pop("format_version")
        calibration = Calibration(**values.pop("confidence", {}))
        unknown = set(values) - {entry.name for entry in fields(DrivingProfile)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OwledError(
            f"{path} is not a driving profile ({error}); restore the file or delete it to use the default"
        ) from error
    if version != FORMAT_VERSION or unknown:
        raise OwledError(
            f"{path} has format {version} and unknown keys {sorted(unknown)}; expected format {FORMAT_VERSION}"
        )
    if values.get("image_size") is not None:
        values["image_size"] = tuple(values["image_size"])
    return DrivingProfile(confidence=calibration, **values)


def profile_as_json(profile: DrivingProfile) -> dict[str, Any]:
    """Return what `driving.json` holds."""
    return {"format_version": FORMAT_VERSION, **asdict(profile)}


def _rounded(value: float, step: float) -> float:
    return round(value / step) * step + 0.0
