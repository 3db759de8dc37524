"""Add the packed weights of the sparse runtime to an artifact. Needs owled_ros.sparse."""

from __future__ import annotations

from pathlib import Path

from owled_ros.errors import OwledError
from owled_ros.models.manifest import Manifest, add_section, file_entry, verify


def pack_artifact(
    artifact: Path,
    precision: str | None = None,
    vision: bool | None = None,
    group: int | None = None,
    device: str = "cpu",
) -> Manifest:
    """Pack a verified artifact beside its weights and list the file in the manifest; see models.packing.pack_directory.

    An artifact whose weights were rounded when it was pruned is packed without loss unless another precision or group is given.

    Raises:
        OwledError: when the architecture cannot be packed; the artifact then stays as it was.
    """
    from owled_ros.models.packing import pack_directory
    from owled_ros.sparse.pack import PACKED_NAME

    verify(artifact)
    packed = artifact / PACKED_NAME
    try:
        facts = pack_directory(artifact, packed, precision, vision, group=group, device=device)
    except OwledError:
        packed.unlink(missing_ok=True)
        raise
    entry = file_entry(packed)
    section = {"file": PACKED_NAME, "sha256": entry.sha256, "bytes": entry.bytes, "precision": facts.precision}
    return add_section(artifact, "packed", {**section, "weights": facts.weights, "nonzeros": facts.nonzeros})
