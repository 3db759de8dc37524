"""The parts of a driving profile: cameras, ego history, navigation words, what is around, calls. Needs pydantic.

Every part checks itself when it is read: types, ranges, finite numbers, no unknown keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from owled_ros.driving.answer import Light
from owled_ros.driving.navigation import CommandKind
from owled_ros.driving.surroundings import RoadUserClass
from owled_ros.driving.templates import MAX_TEMPLATE, FieldKind, fields_of, read_template
from owled_ros.errors import OwledError

MAX_SIDE = 8192  # [px]
MAX_PIXELS = 1 << 25
MIN_PIXELS = 64
MAX_TOKENS = 16_384
MAX_NUMBER = 1e6  # larger numbers saturate in every text
MIN_KEPT = 0.05  # share of the width and of the height that a crop leaves
LIGHT_WORDS = tuple(light.name.lower() for light in Light)
OBJECT_WORDS = tuple(kind.name.lower() for kind in RoadUserClass)
COMMAND_WORDS = tuple(kind.name.lower() for kind in CommandKind if kind)

NUMBER, COUNT, TEXT = FieldKind.NUMBER, FieldKind.COUNT, FieldKind.TEXT
MOTION_FIELDS = {  # of the vehicle at one moment, SI units; left positive
    "speed": NUMBER,
    "yaw_rate": NUMBER,
    "acceleration": NUMBER,
    "lateral_acceleration": NUMBER,
    "curvature": NUMBER,
    "steering_tire_angle": NUMBER,
}
PLACE_FIELDS = dict.fromkeys(  # in base_link of now
    ("x", "y", "heading", "velocity_x", "velocity_y", "acceleration_x", "acceleration_y"), NUMBER
)
ACCELERATION_FIELDS = frozenset(
    {"acceleration", "acceleration_x", "acceleration_y"}
)  # what two states or more must tell
HISTORY_FIELDS = {**MOTION_FIELDS, **PLACE_FIELDS, "time": NUMBER, "age": NUMBER, "step": COUNT}
IMAGE_FIELDS = {"age": NUMBER, "time": NUMBER, "step": COUNT, "number": COUNT}
COMMAND_FIELDS = {"word": TEXT, "text": TEXT, "distance": NUMBER}
OBJECT_FIELDS = {  # in base_link of now; velocities over ground
    "kind": TEXT,
    **dict.fromkeys(("x", "y", "distance", "heading", "speed", "velocity_x", "velocity_y", "length", "width"), NUMBER),
    "number": COUNT,
}
ROUNDED = (*MOTION_FIELDS, *PLACE_FIELDS, "distance", "length", "width")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_TEMPLATE)]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,31}$")]
Seconds = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]


class Part(BaseModel):
    """What all parts have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Crop(Part):
    """Shares of the image that are cut off at each side."""

    left: float = Field(default=0.0, ge=0, lt=1)
    top: float = Field(default=0.0, ge=0, lt=1)
    right: float = Field(default=0.0, ge=0, lt=1)
    bottom: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_something(self) -> Crop:
        if min(1 - self.left - self.right, 1 - self.top - self.bottom) < MIN_KEPT:
            raise ValueError(f"the crop leaves less than {MIN_KEPT:.0%} of the image")
        return self

    @property
    def kept(self) -> float:
        """Share of the pixels that is left."""
        return (1 - self.left - self.right) * (1 - self.top - self.bottom)


class Camera(Part):
    """One camera and how its images are prepared: cropped, then brought to a size or under a number of pixels."""

    name: Name = "front"
    crop: Crop = Crop()
    size: tuple[Annotated[int, Field(ge=2, le=MAX_SIDE)], Annotated[int, Field(ge=2, le=MAX_SIDE)]] | None = Field(
        default=None, description="(width, height) [px], whatever the image was; null: as it is"
    )
    max_pixels: int | None = Field(
        default=None, ge=MIN_PIXELS, le=MAX_PIXELS, description="larger images are shrunk evenly"
    )
    past_max_pixels: int | None = Field(
        default=None, ge=MIN_PIXELS, le=MAX_PIXELS, description="of past images; null: as max_pixels"
    )
    tag: Text = Field(default="", description="text before this camera's images")
    image_tag: Text = Field(default="", description="text before every image; fields: " + ", ".join(IMAGE_FIELDS))
    after: Text = Field(default="", description="text after this camera's images")

    @model_validator(mode="after")
    def _checked(self) -> Camera:
        if self.size is not None and (self.max_pixels, self.past_max_pixels) != (None, None):
            raise ValueError("give size, or max_pixels and past_max_pixels, not both")
        check_template(self.image_tag, IMAGE_FIELDS)
        return self


class Images(Part):
    """Which moments are shown of every camera, and in which order."""

    count: int = Field(default=1, ge=1, le=64, description="images per camera, the newest is now")
    interval_s: Seconds = Field(default=0.5, description="between two of them")
    order: Literal["by_camera", "by_time"] = Field(
        default="by_camera",
        description="by_camera: all of the first camera, oldest first, then the next; by_time: all of one moment",
    )

    @property
    def offsets_s(self) -> tuple[float, ...]:
        """Ages of the images of a camera [s], oldest first, the last is 0."""
        return tuple(round(step * self.interval_s, 6) for step in reversed(range(self.count)))


class Number(Part):
    """How a number is written: multiplied, held within limits, rounded to a step; the template's format comes after."""

    scale: Finite = 1.0
    step: float | None = Field(default=None, gt=0, le=MAX_NUMBER)
    min: Finite = -MAX_NUMBER
    max: Finite = MAX_NUMBER

    @model_validator(mode="after")
    def _in_order(self) -> Number:
        if not -MAX_NUMBER <= self.min < self.max <= MAX_NUMBER:
            raise ValueError(f"min {self.min:g} and max {self.max:g} must rise and lie within {MAX_NUMBER:g}")
        return self

    def of(self, value: float) -> float:
        """Give the number that is written."""
        held = min(max(value * self.scale, self.min), self.max)
        return held if self.step is None else round(held / self.step) * self.step + 0.0


class History(Part):
    """Past ego states as text: one line per moment."""

    count: int = Field(ge=1, le=100, description="past moments")
    interval_s: Seconds = 0.5
    line: Text = Field(description="fields: " + ", ".join(HISTORY_FIELDS) + "; places in base_link of now")
    separator: Annotated[str, Field(max_length=100)] = "\n"
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    now: bool = Field(default=False, description="write the present moment as a line too")

    @model_validator(mode="after")
    def _checked(self) -> History:
        if len(self.line) > 1000:
            raise ValueError("a line of the history has more than 1000 characters")
        check_template(self.line, HISTORY_FIELDS)
        return self

    @property
    def needs_pose(self) -> bool:
        """Tell whether places are written."""
        return bool(set(fields_of(self.line)) & set(PLACE_FIELDS))


class Command(Part):
    """The navigation command in the words that the model was trained with."""

    words: dict[Literal[COMMAND_WORDS], Annotated[str, Field(max_length=1000)]] = Field(  # type: ignore[valid-type]
        min_length=1, description="word for every kind of command that the model knows"
    )
    template: Text = Field(default="{word}", description="fields: word, text (as the navigation gave it)")
    near_template: Text | None = Field(
        default=None, description="where the distance to it is known; fields: word, text, distance; null: as template"
    )
    required: bool = Field(default=True, description="without a command there is no answer")
    missing: Annotated[str, Field(max_length=1000)] = Field(
        default="", description="text where there is none and none is required"
    )

    @model_validator(mode="after")
    def _checked(self) -> Command:
        check_template(self.template, {"word": TEXT, "text": TEXT})
        if self.near_template is not None:
            check_template(self.near_template, COMMAND_FIELDS)
        return self


class Objects(Part):
    """Road users that another perception tells, as text: one line per object, nearest first."""

    max: int = Field(default=10, ge=1, le=50, description="the nearest ones")
    within_m: float = Field(default=50.0, gt=0, le=500, description="centres farther than this are left out [m]")
    line: Text = Field(description="fields: " + ", ".join(OBJECT_FIELDS) + "; in base_link of now")
    separator: Annotated[str, Field(max_length=100)] = "\n"
    words: dict[Literal[OBJECT_WORDS], Annotated[str, Field(max_length=100)]] = Field(  # type: ignore[valid-type]
        default={}, description="word for a class; one that is not named here has its plain name; empty: left out"
    )
    none: Annotated[str, Field(max_length=1000)] = Field(default="none", description="text where nothing is near")
    max_age_s: Seconds = Field(default=0.5, description="older objects are not used")
    required: bool = Field(default=True, description="without fresh objects there is no answer")
    missing: Annotated[str, Field(max_length=1000)] = Field(
        default="unknown", description="text where there are none and none are required"
    )

    @model_validator(mode="after")
    def _checked(self) -> Objects:
        if len(self.line) > 1000:
            raise ValueError("a line of the objects has more than 1000 characters")
        check_template(self.line, OBJECT_FIELDS)
        return self


class Lights(Part):
    """The state that all traffic lights agree on, in the words that the model was trained with."""

    words: dict[Literal[LIGHT_WORDS], Annotated[str, Field(max_length=1000)]] = Field(  # type: ignore[valid-type]
        min_length=1, description="none: there is no light; unknown: they differ, or are not known"
    )
    max_age_s: Seconds = Field(default=1.0, description="older lights are not used")
    required: bool = Field(default=True, description="without fresh lights there is no answer")
    missing: Annotated[str, Field(max_length=1000)] = Field(
        default="", description="text where there are none and none are required"
    )

    @model_validator(mode="after")
    def _checked(self) -> Lights:
        if "none" not in self.words:
            raise ValueError("lights.words has no word for 'none': most roads have no traffic light")
        return self


class Vectors(Part):
    """What is around in numbers, for a model with a vector encoder (LLM-Driver); it sees no images."""

    max_age_s: Seconds = Field(default=0.5, description="older objects are not used")
    lights_max_age_s: Seconds = Field(default=1.0, description="older traffic lights are not used")
    lights_required: bool = Field(default=True, description="without fresh traffic lights there is no answer")
    route_max_age_s: Seconds = Field(default=10.0, description="an older route is not used")
    route_required: bool = Field(
        default=True, description="without a route there is no answer; false: then the lane follows the command"
    )


class Call(Part):
    """One question to the model."""

    name: Name = "answer"
    user: Text = Field(description="what is said; see docs/profile.md for the fields")
    system: Text | None = Field(default=None, description="null: the profile's")
    answer_start: Text = Field(default="", description="text that the answer is made to begin with; plain, no fields")
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(), max_length=8, description="the answer is complete where one of these appears"
    )
    keep_special: bool = Field(default=False, description="keep special tokens in the answer's text")
    continues: bool = Field(
        default=False, description="continue the conversation of the call before, its answer included"
    )
    unfinished: Literal["refuse", "use"] = Field(
        default="refuse",
        description="what becomes of an answer that does not end within max_tokens; the last call's is refused always",
    )


def check_template(text: str, fields: Mapping[str, FieldKind]) -> None:
    """Check a template inside a validator.

    Raises:
        ValueError: as pydantic wants it.
    """
    try:
        read_template(text, fields)
    except OwledError as err:
        raise ValueError(str(err)) from err


def check_distinct(names: Iterable[str], what: str) -> None:
    """Raise ValueError where a name stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what} have the name {name!r}")
        seen.add(name)
