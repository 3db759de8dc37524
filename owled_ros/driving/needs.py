"""What a model's profile asks of whoever makes its frames, the node as well as the reader of bags. Needs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CameraNeed:
    """One camera, and how large its images have to be."""

    name: str
    max_pixels: int | None = None  # larger images are shrunk, once, when they are decoded; None: as they are
    past_max_pixels: int | None = None  # of past images, on top of that; None: no more than that


@dataclass(frozen=True)
class SurroundingsNeed:
    """Objects or traffic lights of another perception, or a route."""

    max_age_s: float  # older than this before the frame's stamp they are not used [s]
    required: bool = True  # without them there is no answer


@dataclass(frozen=True)
class InputNeeds:
    """What a frame has to hold."""

    cameras: tuple[CameraNeed, ...] = (CameraNeed("front"),)  # the first one's stamp is the frame's
    image_offsets_s: tuple[float, ...] = (0.0,)  # ages [s] of the images of every camera, oldest first, the last is 0
    ego_offsets_s: tuple[float, ...] = ()  # ages [s] of past ego states, oldest first, without now
    needs_pose: bool = False
    needs_acceleration: bool = False  # of now, and of the past states
    needs_command: bool = False
    objects: SurroundingsNeed | None = None  # None: not asked for
    lights: SurroundingsNeed | None = None
    route: SurroundingsNeed | None = None  # as points; asked for by models that read vectors

    @property
    def single(self) -> bool:
        """True where the newest image of one camera is all that is looked at."""
        return len(self.cameras) == 1 and self.image_offsets_s == (0.0,)

    @property
    def image_past_s(self) -> float:
        """How far back images are wanted [s]."""
        return max(self.image_offsets_s, default=0.0)

    @property
    def ego_past_s(self) -> float:
        """How far back ego states are wanted [s]."""
        return max(self.ego_offsets_s, default=0.0)
