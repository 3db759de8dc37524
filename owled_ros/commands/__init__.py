"""The commands of `owled`, a module each with `register(app)`, and the option that they share. Needs typer."""

from __future__ import annotations

from typing import Annotated

import typer

from owled_ros.devices import resolve_device

Device = Annotated[  # checked before anything loads; a command gets the name of a device that is here
    str,
    typer.Option("--device", help="auto (CUDA where there is one), cpu, cuda or cuda:N.", callback=resolve_device),
]
