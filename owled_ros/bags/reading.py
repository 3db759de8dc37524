"""What is asked of a bag, what comes out, and what was met on the way. Needs driving."""

from __future__ import annotations

from dataclasses import dataclass, field

from owled_ros.driving.answer import Action, Scene
from owled_ros.driving.frame import Frame
from owled_ros.driving.needs import InputNeeds


@dataclass(frozen=True)
class ReadOptions:
    """What is read from a bag, and how patiently."""

    image_topic: str = ""  # empty: the only camera, or those named as the profile does; "front=/a,left=/b" for several
    ego_topic: str = ""  # empty: odometry, else a velocity report, else a twist
    ego_from: str = ""  # twist, pose, gnss or can[:FIELD[:UNIT]]; empty: by the type of the topic (bags.ego_topics)
    max_ego_gap_s: float = 0.5  # an image further from the nearest ego state is skipped
    lookahead_s: float = 0.5  # within it stamps may be out of order
    drive_gap_s: float = 5.0  # a larger gap between two images, or stamps that run backwards, begin a new drive
    view_tolerance_s: float = 0.1  # between an image of another camera, or of the past, and the moment it is to show
    max_command_age_s: float = 10.0  # an older navigation command has expired
    needs: InputNeeds = field(default_factory=InputNeeds)  # of the model's profile


@dataclass
class ReadStatistics:
    """What was met while reading; complete when the iterator is exhausted."""

    images: int = 0  # image messages seen, of the first camera
    frames: int = 0  # frames given
    without_ego: int = 0  # no ego state near the image's stamp
    without_view: int = 0  # another camera has no image near the stamp
    without_history: int = 0  # a past image or ego state that the model asks for is not there
    without_command: int = 0  # no navigation command, or an expired one
    without_surroundings: int = 0  # no objects or traffic lights of another perception, or too old ones
    pose_jumps: int = 0  # the localisation jumped within the history that the model asks for
    undecodable: int = 0  # damaged images, or of an unknown encoding
    disordered: int = 0  # behind the look-ahead, or a stamp twice
    left_out: int = 0  # not asked for (`only`)
    repaired_stamps: int = 0
    bad_ego: int = 0  # NaN, infinite or impossible motion
    contradicted_ego: int = 0  # states whose twist the pose contradicts
    sizes: set[tuple[int, int]] = field(default_factory=set)  # (width, height) [px]
    first_fault: str = ""  # of the undecodable images
    first_lack: str = ""  # why the first ones have no surroundings
    unreadable: str = ""  # why no image of this kind can be decoded here at all
    notes: list[str] = field(default_factory=list)  # faults of the bag itself, and why frames are missing


@dataclass(frozen=True)
class Sample:
    """A frame with where it comes from and what the bag knows about it."""

    frame: Frame
    drive: int  # counted from 0
    section: int  # which of the ego tracks belongs to it (bags.ego_track)
    index: int  # of the image message in the bag, counted from 0: stays the same whatever is skipped
    expert: Action | None = None
    scene: Scene | None = None
    received: int = 0  # [ns], when its image was recorded, by the recorder's clock
