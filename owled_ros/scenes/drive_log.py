"""Routes that were driven, in a file that is whole after every one: a killed run has what it had, and resumes. Needs nothing.

The file is JSON: settings, whether all is done, and per driver its standing and its routes. A file of other settings (another
model, other worlds) is started over.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.files import write_json
from owled_ros.scenes.closed_loop import Route, Standing, standing_of
from owled_ros.scenes.world import DriveEnd

FORMAT_VERSION = 1


class DriveLog:
    """What was driven so far; without a path it is only held."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = {"format_version": FORMAT_VERSION, **settings}
        self.routes: dict[str, dict[int, Route]] = {} if path is None else _read(path, self._settings)

    @property
    def count(self) -> int:
        """How many routes were driven, by all drivers."""
        return sum(map(len, self.routes.values()))

    def known(self, driver: str, seed: int) -> Route | None:
        """Return a route that was driven before."""
        return self.routes.get(driver, {}).get(seed)

    def add(self, driver: str, route: Route) -> None:
        """Keep a route, on the disk too."""
        self.routes.setdefault(driver, {})[route.seed] = route
        self._write(complete=False)

    def finish(self) -> None:
        """Mark the file as complete."""
        self._write(complete=True)

    def table(self) -> dict[str, tuple[Standing, list[Route]]]:
        """Return the standing of every driver that has driven, and its routes in order."""
        driven = {name: [found[seed] for seed in sorted(found)] for name, found in self.routes.items() if found}
        return {name: (standing_of(routes), routes) for name, routes in driven.items()}

    def _write(self, complete: bool) -> None:
        if self._path is None:
            return
        drivers = {
            name: {"standing": asdict(standing), "routes": [_to_json(route) for route in routes]}
            for name, (standing, routes) in self.table().items()
        }
        try:
            write_json(self._path, {"settings": self._settings, "complete": complete, "drivers": drivers})
        except OSError as error:
            raise OwledError(
                f"cannot write {self._path} ({error}); free some disk space or choose another file"
            ) from error


def _read(path: Path, settings: dict[str, Any]) -> dict[str, dict[int, Route]]:
    """Read the routes of an earlier run with the same settings; none from anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["settings"] != settings:
            return {}
        return {
            str(name): {route.seed: route for route in map(_from_json, entry["routes"])}
            for name, entry in content["drivers"].items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OwledError(f"cannot read {path} ({error}); give a file that can be written") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # not ours, or of another release: it is rewritten


def _to_json(route: Route) -> dict[str, Any]:
    values = {**asdict(route), "outcome": route.outcome.value}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _from_json(values: dict[str, Any]) -> Route:
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    known["outcome"] = DriveEnd(known["outcome"])
    return Route(**known)
