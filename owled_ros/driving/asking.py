"""What a model is asked about a frame: a profile and a frame become conversations and the images that they show.

Needs driving.profile. The node, the bags, pruning, evaluation and calibration all ask through this file, so that what is
pruned, judged and driven is asked the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from owled_ros.driving.around import made_up_surroundings
from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.ego_words import history_text, motion_values, written
from owled_ros.driving.frame import Frame, View
from owled_ros.driving.image_budget import prepared
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.profile import IMAGES_OF, DrivingProfile
from owled_ros.driving.profile_parts import Call, Camera, Command, Number
from owled_ros.driving.surroundings_words import light_text, objects_text
from owled_ros.driving.templates import Part, Value, fill, fill_parts
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.errors import OwledError

MADE_UP_SHAPE, MADE_UP_GREY = (192, 256, 3), 127
MAX_FOREIGN = 2000  # characters of a command's own text
Clean = Callable[[str], str]  # makes special tokens harmless in a text that is not the profile's own


def conversation(
    profile: DrivingProfile, call: Call, frame: Frame, answers: Mapping[str, str] | None = None, clean: Clean = str
) -> Conversation:
    """Make the conversation of one of `profile.calls`; `answers` has those of earlier calls by name.

    Raises:
        OwledError: the frame lacks what the profile asks for, or the command has no word.
    """
    said = dict(answers or {})
    values = {**_values(profile, frame, clean), **{name: clean(text) for name, text in said.items()}}
    return Conversation(_turns(profile, call, values, said), profile.template_options, call.answer_start)


def scene_conversation(profile: DrivingProfile, frame: Frame, clean: Clean = str) -> Conversation | None:
    """Make the one that asks what can be seen; None for a model that is not asked."""
    return None if profile.scene is None else conversation(profile, profile.scene, frame, clean=clean)


def free_conversation(profile: DrivingProfile, frame: Frame, question: str, clean: Clean = str) -> Conversation:
    """Make the one of a question that someone typed."""
    values = {**_values(profile, frame, clean), "question": clean(question)}
    turns = _turns(profile, profile.question, values, {})
    return Conversation(turns, profile.template_options, profile.question.answer_start)


def limits(call: Call) -> AnswerLimits:
    """Say where the answer to a call ends."""
    return AnswerLimits(call.max_tokens, call.stop, call.keep_special)


def images(profile: DrivingProfile, frame: Frame) -> tuple[np.ndarray, ...]:
    """Prepare all images of a frame, in the order of the prompt; of a model that reads vectors, the packed scene instead."""
    if profile.vectors is not None:
        return (vectors_of(frame).packed(),)
    count = profile.images.count
    shown = [prepared_views(profile, camera, frame) for camera in profile.cameras]
    if profile.images.order == "by_time":
        return tuple(views[step] for step in range(count) for views in shown)
    return tuple(image for views in shown for image in views)


def main_image(profile: DrivingProfile, frame: Frame) -> np.ndarray:
    """Prepare the newest image of the main camera: what familiarity looks at."""
    return prepared(frame.image, profile.main)


def made_up_frame(
    profile: DrivingProfile,
    shown: Sequence[np.ndarray] = (),
    ego: EgoState | None = None,
    command: NavigationCommand | None = None,
) -> Frame:
    """Make a frame that has all that a profile asks for: straight on until now; for warm-ups and for trying a profile.

    Args:
        shown: one image for everything, or one per image of the prompt, in its order; none: grey.
    """
    count, needs = profile.images.count, profile.needs
    total = len(profile.cameras) * count
    given = list(shown) or [np.full(MADE_UP_SHAPE, MADE_UP_GREY, np.uint8)]
    if len(given) not in (1, total):
        raise OwledError(f"{len(given)} images for a profile that shows {total}; give one, or {total} in prompt order")
    given = given * total if len(given) == 1 else given
    ego = ego or EgoState(0, 5.0, 0.0, 0.0, steering_tire_angle=0.0)
    views = []
    for place, camera in enumerate(profile.cameras):
        for step, age in enumerate(needs.image_offsets_s):
            by_time = profile.images.order == "by_time"
            number = step * len(profile.cameras) + place if by_time else place * count + step
            views.append(View(camera.name, given[number], ego.stamp - round(age * NANOSECONDS)))
    main = next(view.image for view in reversed(views) if view.camera == profile.main.name)
    past = tuple(
        EgoState(ego.stamp - round(age * NANOSECONDS), ego.speed, 0.0, 0.0, Pose(-ego.speed * age, 0.0, 0.0), 0.0)
        for age in needs.ego_offsets_s
    )
    if command is None and profile.command is not None:
        command = NavigationCommand(CommandKind[next(iter(profile.command.words)).upper()])
    around = made_up_surroundings(needs)
    return Frame(main, ego.stamp, ego, views=tuple(views), past=past, command=command, around=around)


def prepared_views(profile: DrivingProfile, camera: Camera, frame: Frame) -> tuple[np.ndarray, ...]:
    """Prepare the images of one camera, oldest first."""
    count = profile.images.count
    views = sorted((view for view in frame.views if view.camera == camera.name), key=lambda view: view.stamp)
    if not frame.views and len(profile.cameras) * count == 1:
        return (prepared(frame.image, camera),)
    if len(views) > count:
        views = [_nearest(views, frame.stamp, offset) for offset in profile.images.offsets_s]
    if len(views) < count:
        raise OwledError(
            f"the frame holds {len(views)} images of camera {camera.name!r}, the profile asks for {count}; give the node a "
            "topic for it, or correct the profile"
        )
    return tuple(prepared(view.image, camera, step < count - 1) for step, view in enumerate(views))


def command_text(command: Command, given: NavigationCommand | None, numbers: Mapping[str, Number], clean: Clean) -> str:
    """Say a navigation command in the profile's words.

    Raises:
        OwledError: there is none and the model needs one, or the model has no word for it.
    """
    if given is None or given.kind is CommandKind.UNKNOWN:
        if command.required:
            raise OwledError("the model asks for a navigation command and the frame has none")
        return command.missing
    name = given.kind.name.lower()
    if name not in command.words:
        known = ", ".join(command.words)
        raise OwledError(
            f"the profile has no word for the command {name!r}; it knows {known}. Add one under command.words"
        )
    values: dict[str, Value] = {"word": command.words[name], "text": clean(given.text[:MAX_FOREIGN])}
    if command.near_template is not None and given.distance is not None:
        return fill(command.near_template, {**values, "distance": written("distance", given.distance, numbers)})
    return fill(command.template, values)


def _turns(
    profile: DrivingProfile, call: Call, values: Mapping[str, Value], said: Mapping[str, str]
) -> tuple[Turn, ...]:
    user = Turn("user", fill_parts(call.user, values))
    if call.continues:
        before = profile.calls[profile.calls.index(call) - 1]
        if before.name not in said:
            raise OwledError(f"call {call.name} continues {before.name}, whose answer is not there")
        answered = Turn("assistant", (before.answer_start + said[before.name],))
        return (*_turns(profile, before, values, said), answered, user)
    system = profile.system if call.system is None else call.system
    return (Turn("system", (system,)), user) if system else (user,)


def _values(profile: DrivingProfile, frame: Frame, clean: Clean) -> dict[str, Value]:
    values = motion_values(frame.ego, profile.numbers)
    values["ego"] = fill(profile.ego, values)
    if profile.history is not None:
        values["history"] = history_text(profile.history, frame.past, frame.ego, profile.numbers, frame.stamp)
    if profile.command is not None:
        values["command"] = command_text(profile.command, frame.command, profile.numbers, clean)
    if profile.objects is not None:
        values["objects"] = objects_text(profile.objects, frame.around, profile.numbers)
    if profile.lights is not None:
        values["lights"] = light_text(profile.lights, frame.around)
    return values | _image_values(profile)


def _image_values(profile: DrivingProfile) -> dict[str, Value]:
    """Give the fields {images} and {images_NAME}: images with the texts around them."""
    if profile.vectors is not None:
        return {"vectors": (IMAGE,)}
    count, cameras = profile.images.count, profile.cameras
    if profile.images.order == "by_time":
        steps = [(step, place) for step in range(count) for place in range(len(cameras))]
        shown = [part for number, (step, place) in enumerate(steps, 1) for part in _run(profile, place, [step], number)]
        return {"images": tuple(shown)}
    runs = {
        IMAGES_OF + camera.name: _run(profile, place, range(count), place * count + 1)
        for place, camera in enumerate(cameras)
    }
    return {"images": tuple(part for run in runs.values() for part in run), **runs}


def _run(profile: DrivingProfile, place: int, steps: Sequence[int], number: int) -> tuple[Part, ...]:
    """Show images of one camera, the first one being number `number` of the prompt."""
    camera, ages = profile.cameras[place], profile.images.offsets_s
    parts: list[Part] = [camera.tag]
    for index, step in enumerate(steps):
        values: dict[str, Value] = {
            "age": ages[step], "time": 0.0 - ages[step], "step": step + 1, "number": number + index
        }  # fmt: skip
        parts += [fill(camera.image_tag, values), IMAGE]
    return (*parts, camera.after)


def _nearest(views: Sequence[View], stamp: int, offset_s: float) -> View:
    wanted = stamp - round(offset_s * NANOSECONDS)
    return min(views, key=lambda view: abs(view.stamp - wanted))
