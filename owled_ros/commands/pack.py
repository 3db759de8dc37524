"""`owled pack` and `owled bench`: write the sparse runtime's weights, and time them here. Needs owled_ros.sparse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.commands import Device

if TYPE_CHECKING:
    from owled_ros.sparse.pack import PackFacts
    from owled_ros.sparse.timing import Timing

Model = Annotated[Path, typer.Argument(help="Artifact or Hugging Face directory; for bench also a packed file.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads, the calling one included.")]
Kernel = Annotated[str, typer.Option(help="auto, avx512bf16, avx512, avx2, neon, scalar or torch.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(pack)
    app.command()(bench)


def pack(
    model: Model,
    precision: Annotated[
        str,
        typer.Option(
            help="int8, int4, int3, int2, ternary or bf16 (exact); default: what the weights were pruned to, else int8."
        ),
    ] = "",
    group: Annotated[
        int,
        typer.Option(help="Columns that share a scale: 32, 64 or 128; default: as pruned, else 128 (int4: 32)."),
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the file here instead of into the directory.")] = None,
    vision: Annotated[
        bool | None,
        typer.Option(help="Pack the vision tower too; default: where its images have 512 patches or more."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Write the weights of a pruned model the way the sparse runtime reads them: bit mask and kept values.

    The file goes beside the safetensors (packed.owled) and, in an artifact, into the manifest with its hash. The driving
    node and every command then decode with it on the CPU. Models that the runtime cannot decode are refused with the
    reason and keep running with torch. --device is where the model runs that the written file is compared with.
    """
    from rich.console import Console

    from owled_ros.models.manifest import is_artifact
    from owled_ros.models.packed_weights import vouch
    from owled_ros.models.packing import pack_directory
    from owled_ros.sparse.pack import PACKED_NAME

    console = Console()
    if out is None and is_artifact(model):
        from owled_ros.pruning.packing import pack_artifact

        packed: dict[str, Any] = pack_artifact(model, precision or None, vision, group or None, device).packed or {}
        console.print(
            f"packed {model / PACKED_NAME}: {packed.get('bytes', 0) / 1e6:.1f} MB, in the manifest with its hash"
        )
        return
    facts = pack_directory(
        model, out or model / PACKED_NAME, precision or None, vision, group=group or None, device=device
    )
    console.print(summary(facts))
    if out is None:
        vouch(model)


def summary(facts: PackFacts) -> str:
    """Say what was written."""
    zeros = 1 - facts.nonzeros / max(facts.weights, 1)
    formats = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in facts.formats.items())
    return (
        f"packed {facts.path}: {facts.file_bytes / 1e6:.1f} MB, {facts.file_bytes / facts.dense_bf16_bytes:.2f} of dense "
        f"bf16; {zeros:.1%} zeros, embeddings counted; {formats}"
    )


def bench(
    model: Model,
    threads: Threads = 1,
    kernel: Kernel = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 5,
    compare: Annotated[bool, typer.Option(help="Also time the other kernels that this CPU can run.")] = False,
) -> None:
    """Time decoding and prefill of a packed model on this machine, and how near it comes to the memory's speed."""
    from rich.console import Console

    from owled_ros.errors import OwledError
    from owled_ros.sparse import SparseDecoder, library
    from owled_ros.sparse.pack import PACKED_NAME
    from owled_ros.sparse.timing import read_bandwidth, time_decoder

    packed = model / PACKED_NAME if model.is_dir() else model
    if not packed.is_file():
        raise OwledError(f"{packed}: no packed weights there; write them with `owled pack {model}`")
    names = [kernel]
    if compare:
        names = [*(library.kernels() if library.available() else []), "torch"]
    timings = []
    for name in names:
        decoder = SparseDecoder.open(packed, threads=threads, kernel=name)
        timings.append(time_decoder(decoder, rounds=rounds))
        decoder.close()
    Console().print(table(timings, read_bandwidth(threads)))


def table(timings: list[Timing], stream: float) -> Any:
    """Lay the timings out."""
    from rich.table import Table

    lengths = sorted({length for timing in timings for length in timing.prefill_ms})
    limit = f"memory reads {stream / 1e9:.1f} GB/s" if stream else "memory speed not measured"
    view = Table(title=f"medians, {timings[0].threads} threads; {limit}")
    for column in ("kernel", "ms/token", "tokens/s", "weights GB/s", *(f"prefill {length} ms" for length in lengths)):
        view.add_column(column, justify="right")
    for timing in timings:
        prefill = (f"{timing.prefill_ms[length]:.1f}" if length in timing.prefill_ms else "" for length in lengths)
        speed = (f"{timing.step_ms:.3f}", f"{1e3 / timing.step_ms:.0f}", f"{timing.bandwidth / 1e9:.1f}")
        view.add_row(timing.kernel, *speed, *prefill)
    return view
