"""`owled merge-adapter`: a LoRA adapter into its base model, as a plain directory that every command takes. Needs peft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge-adapter")(merge_adapter)


def merge_adapter(
    base: Annotated[Path, typer.Argument(help="Hugging Face directory of the model that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(help="Directory with adapter_config.json and adapter_model.safetensors.")],
    output: Annotated[Path, typer.Argument(help="New directory.")],
) -> None:
    """Merge a LoRA adapter into its base model; the result is loaded back and compared before it takes its name."""
    from rich.console import Console

    from owled_ros.errors import OwledError
    from owled_ros.models.adapters import merge_adapter as merge
    from owled_ros.models.load import load_model, source_of
    from owled_ros.models.write import write_plain

    if output.exists():
        raise OwledError(f"{output} exists already: choose another directory")
    source = source_of(base)
    dtype = "float64" if source.dtype == "float64" else "float32"  # summed exactly, stored as the base is
    write_plain(merge(load_model(base, dtype=dtype), adapter), source, output)
    Console().print(f"merged {adapter} into {base}: {output}")
