"""The images of a bag as arrays: what is chosen from without decoding one. Needs numpy.

An image that gives no frame (no ego state, view, past or command near it) has no speed here and is never chosen.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.bags.reading import ReadOptions
from owled_ros.driving.answer import Light
from owled_ros.driving.ego import SLOPE_S
from owled_ros.driving.frame import NANOSECONDS


@dataclass(frozen=True)
class FrameIndex:
    """One entry per image message of the first camera in the order of the stamps; N images."""

    stamps: np.ndarray  # (N,) int64 [ns]
    index: np.ndarray  # (N,) int64, Sample.index
    drive: np.ndarray  # (N,) int64, Sample.drive
    speed: np.ndarray  # (N,) [m/s], of the nearest ego state; NaN where there is no frame
    yaw_rate: np.ndarray  # (N,) [rad/s]
    light: np.ndarray  # (N,) int64, Light of the true scene; Light.UNKNOWN where the bag does not tell


@dataclass(frozen=True, order=True)
class IndexedImage:
    """One image message of the first camera."""

    section: int
    stamp: int  # [ns]
    index: int
    digest: str  # sha256 of the message where a drive begins, else empty


@dataclass
class Seen:
    """What was met in a bag beside ego motion: images of every camera, lights, commands."""

    images: list[IndexedImage] = field(default_factory=list)
    views: dict[tuple[str, int], array[int]] = field(default_factory=dict)  # (camera topic, section) -> stamps
    commands: dict[int, array[int]] = field(default_factory=dict)  # section -> stamps
    objects: dict[int, array[int]] = field(default_factory=dict)
    groups: dict[int, array[int]] = field(default_factory=dict)  # of traffic lights of another perception
    lights: dict[tuple[int, int], int] = field(default_factory=dict)  # (section, stamp) -> Light


def index_of(seen: Seen, cameras: tuple[str, ...], tracks: list[EgoTrack], options: ReadOptions) -> FrameIndex:
    """Put the images in order and look up what is around each; `seen.images` is sorted."""
    images = seen.images
    sections = np.array([item.section for item in images], dtype=np.int64)
    stamps = np.array([item.stamp for item in images], dtype=np.int64)
    breaks = (np.diff(sections) != 0) | (np.diff(stamps) > _nanoseconds(options.drive_gap_s))
    speed, yaw_rate = np.full(len(stamps), np.nan), np.full(len(stamps), np.nan)
    for section, track in enumerate(tracks):
        here = np.flatnonzero(sections == section)
        if not len(track.stamps) or not len(here):
            continue
        views = [stamps[here]] + [_sorted(seen.views.get((camera, section), ())) for camera in cameras[1:]]
        usable = _complete(stamps[here], track, views, options)
        for times, max_age_s in _with_ages(seen, section, options):
            usable &= _newest_within(_sorted(times), stamps[here], _nanoseconds(max_age_s))
        usable = here[usable]
        nearest = nearest_index(track.stamps, stamps[usable])
        speed[usable], yaw_rate[usable] = track.speed[nearest], track.yaw_rate[nearest]
    return FrameIndex(
        stamps=stamps,
        index=np.array([item.index for item in images], dtype=np.int64),
        drive=np.concatenate([[0], np.cumsum(breaks)]).astype(np.int64)[: len(stamps)],
        speed=speed,
        yaw_rate=yaw_rate,
        light=np.array(
            [seen.lights.get((item.section, item.stamp), int(Light.UNKNOWN)) for item in images], dtype=np.int64
        ),
    )


def _complete(stamps: np.ndarray, track: EgoTrack, views: list[np.ndarray], options: ReadOptions) -> np.ndarray:
    """Tell for which images the ego motion and the views are there that a frame has to hold; (N,) bool."""
    needs, gap = options.needs, _nanoseconds(options.max_ego_gap_s)
    tolerance = _nanoseconds(options.view_tolerance_s)
    complete = _near(track.stamps, stamps, gap)
    for offset in needs.ego_offsets_s:
        at = stamps - _nanoseconds(offset)
        complete &= _near(track.stamps, at, gap)
        if needs.needs_pose:
            complete &= np.isfinite(track.heading[nearest_index(track.stamps, at)])
    if needs.needs_acceleration:
        for offset in (0.0, *needs.ego_offsets_s):
            complete &= _tells_acceleration(track, stamps - _nanoseconds(offset), stamps)
    for times in views:
        for offset in needs.image_offsets_s:
            complete &= _near(times, stamps - _nanoseconds(offset), tolerance)
    return complete


def _tells_acceleration(track: EgoTrack, wanted: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Tell where an acceleration is measured, or two states near by for a slope are known; (N,) bool.

    Known are the states up to the one after `now` [ns].
    """
    half = _nanoseconds(SLOPE_S)
    first = np.searchsorted(track.stamps, wanted - 2 * half)
    last = np.searchsorted(track.stamps, wanted + half, side="right")
    known = np.minimum(np.searchsorted(track.stamps, now) + 1, last) - first
    return (known >= 2) | np.isfinite(track.acceleration[nearest_index(track.stamps, wanted)])


def _with_ages(seen: Seen, section: int, options: ReadOptions) -> list[tuple[Iterable[int], float]]:
    """List what has to have come before an image, with how old it may be [s]."""
    needs = options.needs
    found: list[tuple[Iterable[int], float]] = []
    if needs.needs_command:
        found.append((seen.commands.get(section, ()), options.max_command_age_s))
    for need, times in ((needs.objects, seen.objects), (needs.lights, seen.groups)):
        if need is not None and need.required:
            found.append((times.get(section, ()), need.max_age_s))
    return found


def _newest_within(times: np.ndarray, stamps: np.ndarray, max_age: int) -> np.ndarray:
    """Tell where the newest of `times` that is not of the future is young enough [ns]; (N,) bool."""
    newest = np.searchsorted(times, stamps, side="right") - 1
    given = np.append(times, 0)[newest]  # -1 takes the 0 at the end
    return (newest >= 0) & (stamps - given <= max_age)


def nearest_index(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for every wanted time the place of the nearest one in `times` (sorted, not empty)."""
    after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)


def _near(times: np.ndarray, wanted: np.ndarray, tolerance: int) -> np.ndarray:
    if not len(times):
        return np.zeros(len(wanted), dtype=bool)
    return np.abs(times[nearest_index(times, wanted)] - wanted) <= tolerance


def _sorted(stamps: Iterable[int]) -> np.ndarray:
    return np.sort(np.array(stamps, dtype=np.int64))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
