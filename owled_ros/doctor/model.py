"""Is the bundled model there and whole? Needs the standard library only."""

from __future__ import annotations

from owled_ros.doctor.findings import Finding, Severity
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file
from owled_ros.models.weights import find_weights

SHORT_HASH = 12  # hex digits


def check_bundled_model() -> Finding:
    """The small model that comes with the package."""
    from owled_ros.models.driving_model import bundled_model

    directory = bundled_model()
    try:
        weights = list(find_weights(directory).files)
    except (OwledError, OSError) as err:
        return Finding("bundled model", Severity.FAIL, str(err), "Clone again, or train one: owled train-mini")
    size = sum(path.stat().st_size for path in weights)
    hashes = ", ".join(sha256_file(path)[:SHORT_HASH] for path in weights)
    return Finding("bundled model", Severity.OK, f"{directory.name}, {size / 1e6:.1f} MB, sha256 {hashes}")
