"""The profile that somebody names: a preset, a driving.json, or a model that has one. Needs driving.profile."""

from __future__ import annotations

from pathlib import Path

from owled_ros.driving.presets import PRESETS, preset
from owled_ros.driving.profile import MAX_BYTES, PROFILE_NAME, DrivingProfile, parse_profile, read_profile
from owled_ros.errors import OwledError
from owled_ros.files import read_small_file


def choose_profile(named: str, directory: Path) -> DrivingProfile:
    """Find a profile by what it is called; empty is the one of the model in `directory`.

    Raises:
        OwledError: nothing of that name, or a model without a file, which must be told how it answers.
    """
    if not named:
        if not (directory / PROFILE_NAME).is_file():
            raise OwledError(
                f"{directory} has no {PROFILE_NAME}: say how it shall be asked and answer with --profile, one of "
                f"{', '.join(PRESETS)}, or a file that you write (`owled profile new`, docs/your_model.md)"
            )
        return read_profile(directory)
    place = Path(named).expanduser()
    if place.is_dir() and (place / PROFILE_NAME).is_file():
        return read_profile(place)
    if place.is_file():
        return parse_profile(read_small_file(place, MAX_BYTES) or b"", str(place))
    if named in PRESETS:
        return preset(named)
    raise OwledError(
        f"there is no profile {named!r}: expected a driving.json, a model that has one, or one of {', '.join(PRESETS)}"
    )
