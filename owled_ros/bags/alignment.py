"""Puts the messages of a bag together to frames: images of every camera, ego motion, command, and what was true. Needs rosbags.

Images of the first camera are held back until everything around their stamp has come; what a frame may still show of the past
is kept, shrunk once it was decoded. Held is at most HELD_BYTES; nothing here grows with the bag.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from typing import Any

from owled_ros.bags.cameras import CameraImages, HeldImage
from owled_ros.bags.conversions import message_to_action, message_to_command, message_to_scene
from owled_ros.bags.ego_source import EgoSource, contradiction_note, ego_gap_s
from owled_ros.bags.ego_track import is_possible
from owled_ros.bags.message_types import ODOMETRY
from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.perception import PerceivedScenes
from owled_ros.bags.reading import ReadOptions, ReadStatistics, Sample
from owled_ros.bags.stamps import Stamped, stamped_messages
from owled_ros.bags.storage import Bag
from owled_ros.bags.topics import TopicChoice
from owled_ros.driving.answer import Action, Scene
from owled_ros.driving.around import Around, Localised, SurroundingsError
from owled_ros.driving.frame import NANOSECONDS, EgoHistory, EgoState, Frame, View
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.surroundings import Surroundings
from owled_ros.driving.vector_frame import left_out, vectors_of
from owled_ros.errors import OwledError

HELD_BYTES = 512 << 20  # [bytes] of images that wait, or that the next frames show as their past
EGO_CAPACITY = 4096  # states in the history
CROWDED = "at times there are more road users than the model is told of; the nearest are in"
TRUTH_TOLERANCE = NANOSECONDS // 20  # [ns] between an image and the truth that belongs to it


class Aligner:
    """Makes the frames of one bag."""

    def __init__(
        self,
        bag: Bag,
        topics: TopicChoice,
        options: ReadOptions,
        statistics: ReadStatistics,
        only: Container[int] | None,
    ) -> None:
        self._bag, self._topics, self._options, self._statistics = bag, topics, options, statistics
        self._only = only
        self._decode = MessageDecoder()
        needs = options.needs
        self._keeps_past = len(needs.image_offsets_s) > 1
        self._cameras = {
            topic: CameraImages(need, self._decode, self._keeps_past)
            for topic, need in zip(topics.cameras, needs.cameras, strict=True)
        }
        self._first = self._cameras[topics.image]
        self._counts = dict.fromkeys(topics.cameras, 0)
        self._held_bytes = 0
        self._source = EgoSource(topics)
        self._ego_gap = _nanoseconds(ego_gap_s(topics, options))
        self._states: list[tuple[int, int, EgoState]] = []
        self._ego_count = 0
        self._newest_ego: int | None = None  # [ns]
        self._history = EgoHistory(EGO_CAPACITY)
        self._commands: list[NavigationCommand] = []
        self._experts: list[tuple[int, Action]] = []
        self._scenes: list[tuple[int, Scene]] = []
        self._perceived = PerceivedScenes()
        self._around = Around()
        self._pose_frame = ""
        self._section = 0
        self._reached: int | None = None  # [ns], stamp of the newest image of the first camera that left
        self._last: int | None = None  # [ns], the same, of this drive
        self._drive = 0

    def samples(self) -> Iterator[Sample]:
        """Yield the frames in order of their stamps."""
        lookahead, gap = _nanoseconds(self._options.lookahead_s), _nanoseconds(self._options.drive_gap_s)
        patience = lookahead + self._ego_gap + 2 * _nanoseconds(self._source.delay_s)
        for message in stamped_messages(self._bag, self._topics, gap):
            if message.section != self._section:
                yield from self._flush()
                self._restart(message.section)
            self._statistics.repaired_stamps += message.repaired
            self._store(message)
            waits_since = self._source.waits_since
            if waits_since is not None and message.newest - waits_since > patience:  # a gap, or nothing more comes
                self._store_ego(self._source.hurry())
            yield from self._release(message.newest - lookahead)
        yield from self._flush()
        self._statistics.contradicted_ego = self._source.contradicted
        self._statistics.unreadable = next(filter(None, (camera.unreadable for camera in self._cameras.values())), "")
        if self._source.contradiction:
            self._bag.note(contradiction_note(self._source, self._topics))

    def _store(self, message: Stamped) -> None:
        topic = message.connection.topic
        if topic in self._cameras:
            self._store_image(topic, message)
            return
        try:
            self._store_content(topic, self._decode(message.connection, message.data), message)
        except (OwledError, ValueError) as error:
            self._bag.note(str(error))

    def _store_image(self, topic: str, message: Stamped) -> None:
        camera, stamp, index = self._cameras[topic], message.stamp, self._counts[topic]
        self._counts[topic] += 1
        self._statistics.images = self._counts[self._topics.image]
        if camera.has(stamp) or (camera is self._first and self._reached is not None and stamp <= self._reached):
            self._statistics.disordered += camera is self._first
            return
        held = HeldImage(stamp, index, message.received, message.connection, message.data)
        camera.add(held)
        self._held_bytes += held.size

    def _store_content(self, topic: str, content: Any, message: Stamped) -> None:
        stamp, topics = message.stamp, self._topics
        if topic in topics.perception:
            self._perceived.add(message.connection.msgtype, content, stamp)
        if topic == topics.objects:
            self._around.hear_objects(stamp, content)
        elif topic == topics.lights:
            self._around.hear_lights(stamp, content)
        elif topic == topics.path:
            self._around.hear_route(stamp, content)
        elif topic == topics.stop_lines:
            self._around.hear_stop_lines(stamp, content)
        elif topic == topics.ego and topics.ego_type == ODOMETRY:
            self._pose_frame = str(content.header.frame_id)
        if self._source.is_part(message.connection):
            self._store_ego(self._source.add(message.connection, content, stamp))
        elif topic == topics.steering:
            self._source.hear_steering(stamp, float(content.steering_tire_angle))
        elif topic == topics.command:
            self._commands.append(message_to_command(content, stamp))
        elif topic == topics.expert and (action := message_to_action(content)):
            self._experts.append((stamp, action))
        elif topic == topics.scene and (scene := message_to_scene(content)):
            self._scenes.append((stamp, scene))

    def _store_ego(self, states: list[EgoState]) -> None:
        for state in states:
            if is_possible(state):
                self._ego_count += 1
                self._newest_ego = max(state.stamp, self._newest_ego or state.stamp)
                heapq.heappush(self._states, (state.stamp, self._ego_count, state))
            else:
                self._statistics.bad_ego += 1

    def _flush(self) -> Iterator[Sample]:
        """Yield the frames that are left: nothing more of this section comes."""
        self._store_ego(self._source.finish())
        for camera in self._cameras.values():
            camera.finish()
        yield from self._release(None)

    def _release(self, until: int | None) -> Iterator[Sample]:
        """Yield the frames before `until` [ns], all that are left without it."""
        while (held := self._first.after(self._reached)) is not None:
            if until is not None and (held.stamp >= until or not self._knows_ego(held.stamp)):
                if self._held_bytes <= HELD_BYTES:
                    return
                self._store_ego(self._source.hurry())
            self._reached = held.stamp
            sample = self._sample(held)
            self._forget(held.stamp)
            if sample is not None:
                self._statistics.frames += 1
                yield sample

    def _knows_ego(self, stamp: int) -> bool:
        """Tell whether every ego state has come from which the one at `stamp` [ns] is taken."""
        waits_since = self._source.waits_since
        if waits_since is None or waits_since > stamp + self._ego_gap:
            return True
        return waits_since > stamp and self._newest_ego is not None and self._newest_ego >= stamp

    def _forget(self, stamp: int) -> None:
        """Drop what the frames behind `stamp` [ns] cannot show."""
        tolerance = _nanoseconds(self._options.view_tolerance_s)
        oldest = stamp - _nanoseconds(self._options.needs.image_offsets_s[0]) - tolerance
        for camera in self._cameras.values():
            alone = camera is self._first and not self._keeps_past
            camera.forget_before(stamp + 1 if alone else oldest)
            if self._keeps_past:
                camera.settle(stamp + 1 if camera is self._first else stamp - tolerance)
        self._held_bytes = sum(camera.size for camera in self._cameras.values())
        while self._held_bytes > HELD_BYTES and (held := self._oldest(stamp)) is not None:
            self._bag.note(
                f"images fill more than {HELD_BYTES >> 20} MB within the past that is asked for; they are cut short"
            )
            held.forget_oldest()
            self._held_bytes = sum(camera.size for camera in self._cameras.values())

    def _oldest(self, stamp: int) -> CameraImages | None:
        """Return the camera with the oldest image up to `stamp` [ns]."""
        found = [(held.stamp, place) for place, camera in enumerate(self._cameras.values())
                 if (held := camera.after(None)) is not None and held.stamp <= stamp]  # fmt: skip
        return list(self._cameras.values())[min(found)[1]] if found else None

    def _restart(self, section: int) -> None:
        for part in (self._states, self._history, self._commands, self._experts, self._scenes, self._perceived):
            part.clear()
        self._around.clear()
        for camera in self._cameras.values():
            camera.clear()
        self._held_bytes = 0
        self._section = section
        self._reached = self._last = self._newest_ego = None
        self._drive += 1

    def _sample(self, held: HeldImage) -> Sample | None:
        if self._last is not None and held.stamp - self._last > _nanoseconds(self._options.drive_gap_s):
            self._drive += 1
        self._last = held.stamp
        frame = self._frame(held)
        if frame is None:
            return None
        self._statistics.sizes.add((frame.image.shape[1], frame.image.shape[0]))
        expert, scene = _nearest(self._experts, held.stamp), _nearest(self._scenes, held.stamp)
        scene = scene or self._perceived_at(held.stamp)
        return Sample(frame, self._drive, self._section, held.index, expert, scene, held.received)

    def _frame(self, held: HeldImage) -> Frame | None:
        """Put one frame together; None, and a count, when something of it is missing."""
        statistics, needs, stamp = self._statistics, self._options.needs, held.stamp
        ego = self._ego_at(stamp)
        if ego is None:
            statistics.without_ego += 1
            return None
        if self._only is not None and held.index not in self._only:
            statistics.left_out += 1
            return None
        command = self._command_at(stamp)
        past = self._past(stamp)
        shown = self._shown(held) if past is not None else None
        if past is None or shown is None:
            return None
        if needs.needs_acceleration and any(state.acceleration is None for state in (ego, *past)):
            statistics.without_history += 1
            return None
        if command is None and needs.needs_command:
            statistics.without_command += 1
            return None
        try:
            around = self._around_at(stamp)
        except SurroundingsError as error:
            self._without_surroundings(error)
            return None
        try:
            views = tuple(
                View(camera.need.name, camera.image(item, is_past), item.stamp, item.frame_id)
                for camera, item, is_past in shown
            )
            image = self._first.image(held, past=False)
        except OwledError as error:
            statistics.undecodable += 1
            statistics.first_fault = statistics.first_fault or str(error)
            return None
        frame = Frame(image, stamp, ego, held.frame_id, views if len(views) > 1 else (), past, command, around)
        return frame if needs.route is None else self._checked_vectors(frame)

    def _checked_vectors(self, frame: Frame) -> Frame | None:
        """Return a frame that can be told in vectors; None, and a count, for numbers that no scene has."""
        try:
            vectors_of(frame)
        except OwledError as error:
            self._without_surroundings(error)
            return None
        if left_out(frame.around) and CROWDED not in self._bag.notes:
            self._bag.note(CROWDED)
        return frame

    def _without_surroundings(self, error: OwledError) -> None:
        self._statistics.without_surroundings += 1
        self._statistics.first_lack = self._statistics.first_lack or str(error)

    def _around_at(self, stamp: int) -> Surroundings | None:
        """Return what another perception saw; raises SurroundingsError where the model needs it and it is not there."""
        return self._around.at(
            stamp, self._options.needs, Localised(self._pose_frame, lambda at: self._history.at(at, self._ego_gap))
        )

    def _shown(self, held: HeldImage) -> list[tuple[CameraImages, HeldImage, bool]] | None:
        """Find the image of every camera and age, in the order of the prompt."""
        tolerance = _nanoseconds(self._options.view_tolerance_s)
        found: list[tuple[CameraImages, HeldImage, bool]] = []
        for camera in self._cameras.values():
            for offset in self._options.needs.image_offsets_s:
                now = offset <= 0.0
                item = held if now and camera is self._first else None
                item = item or camera.nearest(held.stamp - _nanoseconds(offset), tolerance)
                if item is None and now:
                    self._statistics.without_view += 1
                elif item is None:
                    self._statistics.without_history += 1
                if item is None:
                    return None
                found.append((camera, item, not now))
        return found

    def _past(self, stamp: int) -> tuple[EgoState, ...] | None:
        """Return the ego states of the past that is asked for; None, and a count, where it is not there."""
        needs, gap = self._options.needs, self._ego_gap
        past = self._history.past(stamp, needs.ego_offsets_s, gap)
        if past is None or (needs.needs_pose and any(state.pose is None for state in past)):
            self._statistics.without_history += 1
            return None
        if needs.needs_pose and past and self._history.pose_jump(stamp, needs.ego_offsets_s[0]) > 0.0:
            self._statistics.pose_jumps += 1
            return None
        return past

    def _command_at(self, stamp: int) -> NavigationCommand | None:
        given = [command for command in self._commands if command.stamp <= stamp]
        if not given:
            return None
        newest = max(given, key=lambda command: command.stamp)
        self._commands = [command for command in self._commands if command.stamp >= newest.stamp]
        return newest if stamp - newest.stamp <= _nanoseconds(self._options.max_command_age_s) else None

    def _perceived_at(self, stamp: int) -> Scene | None:
        scene = self._perceived.scene_at(stamp) if self._topics.perception else None
        if self._perceived.fault and self._perceived.fault not in self._bag.notes:
            self._bag.note(self._perceived.fault)
        return scene

    def _ego_at(self, stamp: int) -> EgoState | None:
        """Return the state at a stamp [ns]; the future behind the next state is not looked at, as no vehicle could."""
        while self._states and ((newest := self._history.newest) is None or newest.stamp < stamp):
            state = heapq.heappop(self._states)[2]
            if newest is None or state.stamp > newest.stamp:
                self._history.add(state)
        state_now = self._history.at(stamp, self._ego_gap)
        return None if state_now is None else self._history.with_acceleration(state_now)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def _nearest(values: list[tuple[int, Any]], stamp: int) -> Any:
    """Return the value that belongs to `stamp` and forget those that are over."""
    while values and values[0][0] < stamp - TRUTH_TOLERANCE:
        values.pop(0)
    near = [item for item in values if abs(item[0] - stamp) <= TRUTH_TOLERANCE]
    return min(near, key=lambda item: abs(item[0] - stamp))[1] if near else None
