"""Small whole artifacts and a car for tests of the store and of the job: real manifests and hashes, weights of a few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.models.manifest import Manifest, file_entry, write_manifest


def make_artifact(
    path: Path,
    name: str = "a",
    passed: bool | None = True,
    weight_bytes: int = 64,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write an artifact whose hash depends on `name`; `passed` is the gate's verdict, None: not judged; `more` are further files."""
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(name.encode().ljust(weight_bytes, b"."))
    for file_name, text in {"config.json": "{}", **(more or {})}.items():
        (path / file_name).write_text(text)
    files = {file.name: file_entry(file) for file in sorted(path.iterdir())}
    values: dict[str, Any] = {
        "format": "owled", "format_version": 1, "created": "2026-01-02T03:04:05+00:00",
        "base": {"name": name, "sha256": "0" * 64, "architecture": "None", "parameters": 1},
        "method": {"score": "wanda", "allocation": "owl", "statistics": "fused", "pattern": "unstructured", "lod_threshold": 5.0,
                   "owl_lambda": 0.08, "seed": 0, "settings": {}},
        "sparsity": 0.5, "blocks": [], "skipped": {}, "calibration": [], "calibration_sha256": name, "quality": {}, "timings": {},
        "versions": {}, "files": files,
    }  # fmt: skip
    if passed is not None:
        values["gate"] = {
            "passed": passed,
            "reasons": [] if passed else ["worse"],
            "failed_rules": [],
            "frames": 3,
            "rules": [],
        }
    write_manifest(path, Manifest(**values))
    return path


class FakeCar:
    """A driver (deployment.store.Driver) that writes down what it is asked."""

    def __init__(self, refuses: str = "", unreachable: str = "") -> None:
        self.heard: list[tuple[str, str]] = []
        self._refuses, self._unreachable = refuses, unreachable

    def prepare(self, directory: Path | None) -> None:
        self.heard.append(("prepare", "base" if directory is None else directory.name.partition("-")[2]))
        if self._refuses:
            raise OwledError(self._refuses)

    def commit(self) -> None:
        self.heard.append(("commit", ""))
        if self._unreachable:
            raise OwledError(self._unreachable)

    def abort(self) -> None:
        self.heard.append(("abort", ""))
