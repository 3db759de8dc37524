"""A deployment: one directory that says what drives. Everybody who drives, prunes or judges takes this one path.

    <root>/deployment.json   {"format_version": 1, "base": "<directory of the dense model>"}
    <root>/artifacts, current, history.json, work     see deployment.store

Where nothing was promoted the base model drives. A directory without deployment.json is a store of an older release: its
base model has to be given beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from owled_ros.deployment.store import Driver, Store
from owled_ros.errors import OwledError
from owled_ros.files import write_json
from owled_ros.models.load import source_of
from owled_ros.models.manifest import read_manifest

FILE_NAME = "deployment.json"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 1 << 16


@dataclass(frozen=True)
class Deployment:
    """What drives, and what it was made from."""

    root: Path
    base: Path  # directory of the dense model

    @property
    def store(self) -> Store:
        """The versions."""
        return Store(self.root)

    def driving(self) -> Path:
        """Return the directory that is to drive; raises OwledError when the store is damaged, and never guesses."""
        return self.store.current() or self.base

    def promote(self, identifier: str, force: bool = False, driver: Driver | None = None) -> str:
        """Make a version current (Store.promote); raises OwledError also for one that was pruned from another model."""
        version = self.store.find(identifier)
        made_from = read_manifest(version.path).base
        if self._base_hash() not in ("", made_from.sha256):
            raise OwledError(
                f"version {version.artifact_id} was pruned from {made_from.name} with other weights than the base {self.base} of "
                f"{self.root}; recalibrate from that base, or make a deployment of the other one"
            )
        return self.store.promote(identifier, force, driver)

    def _base_hash(self) -> str:
        """Hash the base's weights; empty where nobody named a base, or none can be read: whoever loads it says so."""
        if self.base == Path():
            return ""
        try:
            return source_of(self.base).sha256
        except OwledError:
            return ""


def holds_deployment(root: Path | str) -> bool:
    """Tell whether a directory holds a deployment, whole or damaged: then none is made there."""
    return (Path(root).expanduser() / FILE_NAME).exists()


def create_deployment(root: Path, base: Path) -> Deployment:
    """Make a deployment, or give an older store its base model; raises OwledError when another base is written there."""
    root, base = root.expanduser().absolute(), base.expanduser().resolve()
    if not (base / "config.json").is_file():
        raise OwledError(f"{base} holds no config.json; give the directory of a Hugging Face model as base of {root}")
    if holds_deployment(root):
        known = open_deployment(root)
        if known.base.resolve() != base:
            raise OwledError(
                f"{root} is a deployment of {known.base}; its versions were pruned from that model. Choose another directory"
            )
        return known
    deployment = Deployment(root, base)
    deployment.store.prepare()
    try:
        write_json(root / FILE_NAME, {"format_version": FORMAT_VERSION, "base": str(base)})
    except OSError as error:
        raise OwledError(f"cannot write {root / FILE_NAME} ({error}); choose a writable directory") from error
    return deployment


def open_deployment(root: Path | str, base: Path | str | None = None) -> Deployment:
    """Open a deployment.

    Args:
        root: Its directory.
        base: Base model of a directory without deployment.json; ignored where the file names one.

    Raises:
        OwledError: No such directory, a damaged file, no base model.
    """
    place = Path(root).expanduser().absolute()
    if not place.is_dir():
        raise OwledError(f"there is no deployment at {place}; make one with `owled deploy {place} --model BASE`")
    path = place / FILE_NAME
    if not path.exists():
        if base in (None, ""):
            raise OwledError(
                f"{place} has no {FILE_NAME} and so names no base model; make it one with `owled deploy {place} --model BASE`"
            )
        return Deployment(place, Path(str(base)).expanduser().absolute())
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("not a small regular file")
        content = json.loads(path.read_text())
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format_version']}, expected {FORMAT_VERSION}")
        named = Path(str(content["base"])).expanduser()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise OwledError(
            f"{path} is not a deployment ({error}); restore the file or make the deployment again"
        ) from error
    found = named if named.is_absolute() else place / named
    if not (found / "config.json").is_file():
        raise OwledError(f"{path} names the base model {found}, which is not there; restore it or correct the file")
    return Deployment(place, found)
