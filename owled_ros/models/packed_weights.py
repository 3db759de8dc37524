"""Which packed weights belong to a model directory, and who says so. Needs nothing but the hashes.

Packed weights are driven with only where something vouches for them: the manifest of an artifact, or `packed.json` beside a plain
model, which names the hash of the file and of the weights that it was packed from. What nobody vouches for is never opened.
"""

from __future__ import annotations

import json
from pathlib import Path

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file, sha256_file, write_json
from owled_ros.models.manifest import is_artifact, read_manifest
from owled_ros.models.weights import hash_of_weights, weight_files
from owled_ros.sparse.pack import PACKED_NAME

VOUCHER = "packed.json"
FORMAT_VERSION = 2  # 1 hashed the weights in a way of its own
MAX_BYTES = 1 << 16


def packed_weights(directory: Path) -> Path | None:
    """Return the packed file that belongs to a model directory; None where there is none.

    Raises:
        OwledError: packed weights of a plain model that nothing vouches for, that were changed, or of other weights.
    """
    path = directory / PACKED_NAME
    if is_artifact(directory):  # loading has checked every listed file against its hash
        section = read_manifest(directory).packed
        return directory / str(section["file"]) if section else None
    if not path.is_file():
        return None
    again = f"pack it again with `owled pack {directory}`"
    data = read_small_file(directory / VOUCHER, MAX_BYTES)
    if data is None:
        raise OwledError(
            f"{path} holds packed weights that nothing vouches for: neither owled.json nor {VOUCHER} is there. Restore the "
            f"manifest where this was an artifact; else remove the file or {again}"
        )
    try:
        content = json.loads(data)
        version, file, weights = content["format_version"], str(content["sha256"]), str(content["weights_sha256"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise OwledError(f"{directory / VOUCHER} cannot be read ({error}); {again}") from error
    if version != FORMAT_VERSION:
        raise OwledError(f"{directory / VOUCHER} has format {version!r}, expected {FORMAT_VERSION}; {again}")
    if sha256_file(path) != file:
        raise OwledError(f"{path} was changed after it was packed: its hash does not fit; {again}")
    if hash_of_weights(weight_files(directory)) != weights:
        raise OwledError(f"{path} was packed from other weights than those beside it; {again}")
    return path


def vouch(directory: Path) -> None:
    """Write down that the packed file of a plain model belongs to the weights beside it."""
    content = {
        "format_version": FORMAT_VERSION,
        "sha256": sha256_file(directory / PACKED_NAME),
        "weights_sha256": hash_of_weights(weight_files(directory)),
    }
    write_json(directory / VOUCHER, content)
