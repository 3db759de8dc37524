"""How one model is asked and how its answer is read: `driving.json`, format 2. Needs pydantic.

A model directory may carry the file; every other Hugging Face model gets the default profile, which says the form of the
answer in words. Files of format 1 are read too (driving.profile_format1). Everything is checked when it is read. What becomes
of a profile and a frame is driving.asking.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from owled_ros.driving.answers.cutting import Cutting
from owled_ros.driving.answers.kind import AnswerKind
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.make import AnswerSpec, make_kind
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.ego import EgoState
from owled_ros.driving.ego_words import motion_values
from owled_ros.driving.needs import CameraNeed, InputNeeds, SurroundingsNeed
from owled_ros.driving.profile_format1 import read_format1
from owled_ros.driving.profile_parts import (
    ACCELERATION_FIELDS,
    MOTION_FIELDS,
    ROUNDED,
    Call,
    Camera,
    Command,
    History,
    Images,
    Lights,
    Name,
    Number,
    Objects,
    Part,
    Seconds,
    Text,
    Vectors,
    check_distinct,
    check_template,
)
from owled_ros.driving.single_camera import LINE_QUESTION, single_camera
from owled_ros.driving.templates import FieldKind, fields_of, fill
from owled_ros.errors import OwledError
from owled_ros.files import read_small_file

PROFILE_NAME = "driving.json"
FORMAT_VERSION = 2
MAX_BYTES = 1 << 20
MAX_IMAGES = 128
RESERVED_OPTIONS = {  # of apply_chat_template: not the template's, or said by the engine
    *("messages", "conversation", "conversations", "chat_template", "tokenize", "add_generation_prompt", "tools"),
    *(
        "continue_final_message",
        "documents",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "padding",
    ),
    *("truncation", "max_length", "tokenizer_kwargs", "processor_kwargs", "images", "videos", "audio", "text"),
    "load_audio_from_video",
}
DESCRIBED = ("history", "command", "objects", "lights")  # fields that are there where the profile describes them
IMAGES_OF = "images_"  # + name of a camera: the field for its images alone


class DrivingProfile(Part):
    """The whole file."""

    model_config = ConfigDict(json_schema_extra={"required": ["format_version", "calls", "answer"]})

    format_version: Literal[2] = 2
    about: Text = Field(default="", description="for the reader")
    cameras: tuple[Camera, ...] = Field(
        default=(Camera(),), min_length=1, max_length=16, description="in the order of the prompt"
    )
    main_camera: Name | None = Field(default=None, description="the one whose stamp a frame has; null: the first")
    images: Images = Images()
    numbers: dict[Literal[ROUNDED], Number] = Field(default={}, description="how numbers are written")  # type: ignore[valid-type]
    ego: Text = Field(default="", description="the field {ego}; fields: " + ", ".join(MOTION_FIELDS))
    history: History | None = Field(default=None, description="the field {history}")
    command: Command | None = Field(default=None, description="the field {command}")
    objects: Objects | None = Field(default=None, description="the field {objects}: what another perception sees")
    lights: Lights | None = Field(default=None, description="the field {lights}: traffic lights of another perception")
    vectors: Vectors | None = Field(
        default=None, description="the field {vectors}: objects, lights and route in numbers"
    )
    system: Text = Field(default="", description="the system turn, plain, no fields; empty: none")
    template_options: dict[
        Annotated[str, Field(pattern="^[a-z_][a-z0-9_]{0,63}$")],
        bool | int | float | Annotated[str, Field(max_length=1000)],
    ] = Field(default={}, max_length=16, description="of the model's chat template, such as enable_thinking")
    calls: tuple[Call, ...] = Field(min_length=1, max_length=8, description="asked in order; the last one answers")
    answer: AnswerSpec = Field(description="what the last call answers")
    cutting: Cutting = Field(default=Cutting(), description="how the answer is cut out of the text around it")
    scene: Call | None = Field(default=None, description="what can be seen; null: not asked")
    question: Call = Field(
        default=Call(name="question", user="{images}{question}", max_tokens=128), description="a free question"
    )
    max_seconds: Seconds | None = Field(default=None, description="for all calls together; later is no answer")
    confidence: Calibration = Calibration()

    @model_validator(mode="after")
    def _fits_together(self) -> DrivingProfile:
        check_distinct((camera.name for camera in self.cameras), "cameras")
        check_distinct((call.name for call in self.calls), "calls")
        if self.main_camera not in (None, *(camera.name for camera in self.cameras)):
            raise ValueError(f"main_camera {self.main_camera!r} is none of the cameras")
        if len(self.cameras) * self.images.count > MAX_IMAGES:
            raise ValueError(f"{len(self.cameras)} cameras of {self.images.count} images; at most {MAX_IMAGES} images")
        reserved = sorted(RESERVED_OPTIONS & set(self.template_options))
        if reserved:
            raise ValueError(f"template_options {', '.join(reserved)} are not the template's; leave them out")
        check_template(self.ego, MOTION_FIELDS)
        self._check_calls()
        said = {name for call in (*self.calls, self.scene, self.question) if call for name in fields_of(call.user)}
        for name in DESCRIBED:
            if getattr(self, name) is not None and name not in said:
                raise ValueError(f"{name} is described, but no call says {{{name}}}")
        return self

    def _check_calls(self) -> None:
        fields = self._fields()
        taken = sorted({call.name for call in self.calls} & set(fields))
        if taken:
            raise ValueError(f"a call has the name of a field: {', '.join(taken)}")
        for number, call in enumerate(self.calls):
            self._check_call(call, fields, number)
            fields[call.name] = FieldKind.TEXT
        if self.calls[-1].unfinished == "use":
            raise ValueError(f"call {self.calls[-1].name} answers: an unfinished answer of it cannot be used")
        if self.scene is not None:
            self._check_call(self.scene, self._fields(), 0)
        self._check_call(self.question, {**self._fields(), "question": FieldKind.TEXT}, 0)
        if "question" not in fields_of(self.question.user):
            raise ValueError("call question does not say {question}")

    def _check_call(self, call: Call, fields: Mapping[str, FieldKind], number: int) -> None:
        try:
            check_template(call.user, fields)
        except ValueError as err:
            raise ValueError(f"call {call.name}: {err}") from err
        shown = [name for name in fields_of(call.user) if fields[name] is FieldKind.IMAGES]
        if self.vectors is not None:
            if shown != ["vectors"] and (shown or not number):
                raise ValueError(
                    f"call {call.name} shows {', '.join(shown) or 'no vectors'}; expected {{vectors}} once"
                )
            return
        one_by_one = [IMAGES_OF + camera.name for camera in self.cameras if self.images.order == "by_camera"]
        if shown not in (["images"], one_by_one) and (shown or not number):
            raise ValueError(
                f"call {call.name} shows {', '.join(shown) or 'no images'}; expected {{images}} once"
                + (f", or each of {', '.join(one_by_one)} once in the order of the cameras" if one_by_one else "")
            )
        if call.continues and (shown or not number):
            raise ValueError(
                f"call {call.name} continues a conversation: it must not be the first and must not show images again"
            )

    def _fields(self) -> dict[str, FieldKind]:
        single = self.images.order == "by_camera"
        if self.vectors is not None:
            texts = {"ego", *(name for name in DESCRIBED if getattr(self, name) is not None)}
            return {**MOTION_FIELDS, "vectors": FieldKind.IMAGES, **dict.fromkeys(texts, FieldKind.TEXT)}
        images = {"images", *(IMAGES_OF + camera.name for camera in self.cameras if single)}
        texts = {"ego", *(name for name in DESCRIBED if getattr(self, name) is not None)}
        return {
            **MOTION_FIELDS, **dict.fromkeys(images, FieldKind.IMAGES), **dict.fromkeys(texts, FieldKind.TEXT)
        }  # fmt: skip

    @property
    def needs(self) -> InputNeeds:
        """Say what a frame must hold."""
        vectors = self.vectors
        return InputNeeds(
            cameras=tuple(_need(camera) for camera in sorted(self.cameras, key=lambda camera: camera is not self.main)),
            image_offsets_s=self.images.offsets_s,
            ego_offsets_s=()
            if self.history is None
            else tuple(round(step * self.history.interval_s, 6) for step in range(self.history.count, 0, -1)),
            needs_pose=self.history is not None and self.history.needs_pose,
            needs_acceleration=self._says(ACCELERATION_FIELDS),
            needs_command=self.command is not None and self.command.required,
            objects=_need_around(self.objects) or (SurroundingsNeed(vectors.max_age_s) if vectors else None),
            lights=_need_around(self.lights)
            or (SurroundingsNeed(vectors.lights_max_age_s, vectors.lights_required) if vectors else None),
            route=SurroundingsNeed(vectors.route_max_age_s, vectors.route_required) if vectors else None,
        )

    def _says(self, fields: frozenset[str]) -> bool:
        """Tell whether any template says one of these fields."""
        templates = [self.ego, *(call.user for call in (*self.calls, self.scene, self.question) if call)]
        templates += [self.history.line] if self.history else []
        return any(fields & set(fields_of(template)) for template in templates)

    @property
    def main(self) -> Camera:
        """The camera whose stamp a frame has."""
        return next((camera for camera in self.cameras if camera.name == self.main_camera), self.cameras[0])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Fixed (width, height) [px] of the main camera's images; None: as they come."""
        return self.main.size

    def ego_sentence(self, ego: EgoState) -> str:
        """Say the ego state in words (LLM-Driver, arXiv 2310.01957, structured language)."""
        return fill(self.ego, motion_values(ego, self.numbers))

    def kind(self, directory: Path) -> AnswerKind:
        """Make the kind of answer; raises OwledError where a file of the model or an installed head is missing."""
        return make_kind(self.answer, directory)


def default_profile() -> DrivingProfile:
    """One front camera; an action in one line; what a model without a file is asked."""
    return DrivingProfile(**single_camera(LineSpec(), LINE_QUESTION, 32))


def read_profile(model_directory: Path) -> DrivingProfile:
    """Read `driving.json` of a model directory; the default profile when there is none.

    Raises:
        OwledError: not a regular small file, not JSON, or anything in it that is not as it should be.
    """
    path = model_directory / PROFILE_NAME
    data = read_small_file(path, MAX_BYTES)
    if data is None:
        return default_profile()
    return parse_profile(data, str(path))


def parse_profile(data: bytes | str, name: str) -> DrivingProfile:
    """Read the content of a profile of format 1 or 2; `name` is for the messages."""
    try:
        version = _Version.model_validate_json(data).format_version
        if version == 1:
            return DrivingProfile(**read_format1(data))
        if version != FORMAT_VERSION:
            raise OwledError(f"{name} has format {version}; expected {FORMAT_VERSION} (or 1): use a matching release")
        return DrivingProfile.model_validate_json(data)
    except ValidationError as err:
        raise OwledError(f"{name} is not a driving profile: {_faults(err)}; see docs/profile.md") from err


def profile_as_json(profile: DrivingProfile) -> dict[str, Any]:
    """Return what `driving.json` holds; what is as it would be anyway is left out."""
    values = profile.model_dump(mode="json", exclude_defaults=True)
    values["answer"] = {"kind": profile.answer.kind, **values["answer"]}
    return {"format_version": FORMAT_VERSION, **values}


def profile_text(profile: DrivingProfile) -> str:
    """Write `driving.json`."""
    return json.dumps(profile_as_json(profile), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class _Version(BaseModel):
    model_config = ConfigDict(strict=True)

    format_version: int


def _need(camera: Camera) -> CameraNeed:
    if camera.size is not None:
        return CameraNeed(camera.name, None, None)
    limits = [limit for limit in (camera.max_pixels, camera.past_max_pixels) if limit is not None]
    past = min(limits, default=None)
    return CameraNeed(camera.name, _before_crop(camera.max_pixels, camera), _before_crop(past, camera))


def _need_around(part: Objects | Lights | None) -> SurroundingsNeed | None:
    return None if part is None else SurroundingsNeed(part.max_age_s, part.required)


def _before_crop(pixels: int | None, camera: Camera) -> int | None:
    return None if pixels is None else int(pixels / camera.crop.kept)


def _faults(error: ValidationError, shown: int = 4) -> str:
    faults = [_fault(detail) for detail in error.errors(include_url=False, include_context=False)]
    more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
    return "; ".join(faults[:shown]) + more


def _fault(detail: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in detail["loc"])
    said = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"].removeprefix("Value error, ")
    return f"{place}: {said}"[:300] if place else said[:600]
