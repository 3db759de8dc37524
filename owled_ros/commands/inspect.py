"""`owled inspect`, `owled export` and `owled verify`: look into an artifact, check it, give it back as a plain model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.errors import OwledError

if TYPE_CHECKING:
    from owled_ros.evaluation.running_cost import CostTable
    from owled_ros.models.manifest import Manifest

BAR_WIDTH = 30  # characters
Artifact = Annotated[Path, typer.Argument(help="Directory with an owled.json.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(inspect)
    app.command()(export)
    app.command()(verify)


def inspect(
    artifact: Artifact,
    plot: Annotated[Path | None, typer.Option(help="Also draw the blocks' LOD and sparsity to this PNG.")] = None,
) -> None:
    """Print what an artifact is: method, calibration, quality, sizes, and LOD and sparsity of every block."""
    from rich.console import Console

    from owled_ros.models.manifest import read_manifest

    manifest = read_manifest(artifact)
    console = Console()
    for part in shown(manifest, artifact):
        console.print(part)
    console.print(block_table(manifest))
    if plot is not None:
        draw(manifest, plot)
        console.print(f"drawn to {plot}")


def export(artifact: Artifact, target: Annotated[Path, typer.Argument(help="New directory.")]) -> None:
    """Write an artifact's model as a plain Hugging Face directory: dense with zeros, bit by bit the same weights."""
    from rich.console import Console

    from owled_ros.pruning.artifact import export as run

    run(artifact, target)
    Console().print(f"exported to {target}")


def verify(artifact: Artifact) -> None:
    """Check every file of an artifact against its hashes; exits with 1 when anything does not fit."""
    from rich.console import Console

    from owled_ros.models.manifest import artifact_id
    from owled_ros.models.manifest import verify as run

    manifest = run(artifact)
    Console().print(f"{artifact} is whole: {len(manifest.files)} files, artifact {artifact_id(manifest)}")


def shown(manifest: Manifest, artifact: Path, problem: str = "") -> Iterator[Any]:
    """Yield what there is to print of an artifact: its facts, what it costs, what is still to do; `problem`: why it is not packed."""
    from rich.text import Text

    from owled_ros.evaluation.running_cost import table_of

    yield summary(manifest)
    if manifest.cost is not None:
        yield from cost_table(table_of(manifest.cost))
    elif problem:
        yield Text(f"not packed: {problem}")
    yield from (Text(words) for words in still_to_do(artifact))


def still_to_do(artifact: Path) -> Iterator[str]:
    """Yield a sentence where the confidence of an artifact means nothing yet; a profile that cannot be read is the driver's to tell."""
    from owled_ros.driving.profile import PROFILE_NAME, read_profile

    with contextlib.suppress(OwledError):
        if (artifact / PROFILE_NAME).is_file() and not read_profile(artifact).confidence.calibrated:
            yield f"its confidence is not calibrated any more; fit it again: owled calibrate {artifact} DRIVE DRIVE …"


def cost_table(costs: CostTable) -> Iterator[Any]:
    """Yield dense, pruned and packed side by side, and under it what the numbers are."""
    from rich.table import Table
    from rich.text import Text

    threads = f"{costs.threads} thread" + ("" if costs.threads == 1 else "s")
    turns = f"medians of {costs.rounds} round{'' if costs.rounds == 1 else 's'}"
    table = Table(
        title=f"what it costs on this CPU, {threads}, {turns}{' that take turns' if costs.interleaved else ''}"
    )
    table.add_column("")
    for heading in ("MB on disk", "MB resident", "ms per token", "ms camera to action"):
        table.add_column(heading, justify="right")
    for row in costs.rows:
        sizes = ("–" if value is None else f"{value / 1e6:.1f}" for value in (row.disk_bytes, row.resident_bytes))
        times = (
            "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
            for value in (row.token_ms, row.action_ms)
        )
        table.add_row(row.name, *sizes, *times)
    yield table
    libraries = [row.library_bytes for row in costs.rows if row.library_bytes]
    if libraries:
        yield Text(
            f"resident: of the whole process, {max(libraries) / 1e6:.0f} MB of it Python and libraries; on disk: the weights that "
            "are run, zeros included where they are stored"
        )
    yield from (Text(f"{row.name}: {row.note}") for row in costs.rows if row.note)


def summary(manifest: Manifest) -> Any:
    """Lay out the facts of a manifest as a table of two columns."""
    from rich.table import Table

    from owled_ros.models.manifest import artifact_id

    zeros = sum(block.zeros for block in manifest.blocks)
    prunable = sum(block.parameters for block in manifest.blocks)
    method = manifest.method
    table = Table(show_header=False, title=f"artifact {artifact_id(manifest)}")
    table.add_row(
        "base model", f"{manifest.base.name} ({manifest.base.architecture}, {manifest.base.parameters:,} weights)"
    )
    scored = method.settings.get("metric") or method.score
    rows = ", zeros by row" if method.settings.get("rows") == "trim" else ""
    table.add_row(
        "method", f"{scored}, {method.allocation} allocation{rows}, {method.statistics} statistics, {method.pattern}"
    )
    table.add_row(
        "sparsity",
        f"{manifest.sparsity:.4%} of {prunable:,} prunable, {zeros / manifest.base.parameters:.2%} of all weights",
    )
    for component in dict.fromkeys(block.component for block in manifest.blocks):
        part = [block for block in manifest.blocks if block.component == component]
        share = sum(block.zeros for block in part) / sum(block.parameters for block in part)
        table.add_row(f"  {component}", f"{share:.2%} in {len(part)} blocks")
    if manifest.fallbacks:
        name, reason = next(iter(manifest.fallbacks.items()))
        table.add_row("fallbacks", f"{len(manifest.fallbacks)} matrices not by the score: {name} {reason}")
    dense = [name for name, reason in manifest.skipped.items() if "never runs" in reason]
    if dense:
        table.add_row("left dense", f"{len(dense)} blocks that the calibration never ran: {dense[0]} …")
    for entry in manifest.calibration:
        table.add_row(
            "calibration",
            f"{entry.get('kind')} {entry.get('name')}: {entry.get('samples')} samples, {entry.get('tokens')} tokens",
        )
    for name, found in manifest.quality.items():
        table.add_row(f"quality {name}", f"perplexity {found['perplexity']:.3f} on {found['tokens']} held-out tokens")
    if manifest.cost is None:  # the table of costs tells it better
        written = sum(entry.bytes for entry in manifest.files.values())
        table.add_row("size on disk", f"{written / 1e6:.1f} MB (zeros take room here)")
    if manifest.packed and manifest.cost is None:
        table.add_row("packed", f"{manifest.packed['bytes'] / 1e6:.1f} MB, {manifest.packed.get('precision', '')}")
    table.add_row(
        "time", ", ".join(f"{name} {value:.1f}" for name, value in manifest.timings.items() if name.endswith("_s"))
    )
    return table


def block_table(manifest: Manifest) -> Any:
    """Show sparsity (and LOD where measured) of every block as bars."""
    from rich.table import Table

    table = Table("block", "sparsity", "", "LOD [%]", "")
    highest = max((block.lod_percent or 0.0 for block in manifest.blocks), default=0.0) or 1.0
    for block in manifest.blocks:
        lod = block.lod_percent
        bars = "█" * round(block.sparsity * BAR_WIDTH), "" if lod is None else "█" * round(lod / highest * BAR_WIDTH)
        table.add_row(block.name, f"{block.sparsity:.3f}", bars[0], "" if lod is None else f"{lod:.3f}", bars[1])
    return table


def draw(manifest: Manifest, file: Path) -> None:
    """Draw bars of sparsity and, where measured, LOD per block."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blocks = manifest.blocks
    with_lod = any(block.lod_percent is not None for block in blocks)
    figure, axes = pyplot.subplots(1 + with_lod, 1, figsize=(8, 3 + 2 * with_lod), layout="constrained", squeeze=False)
    colours = {"vision": "tab:blue", "projector": "tab:orange", "language": "tab:green"}
    paint = [colours[block.component] for block in blocks]
    axes[0, 0].bar(range(len(blocks)), [block.sparsity for block in blocks], color=paint)
    axes[0, 0].axhline(manifest.sparsity, color="black", linewidth=1)
    axes[0, 0].set(
        ylabel="sparsity", title=f"{manifest.base.name}: {manifest.method.score}, {manifest.method.allocation}"
    )
    if with_lod:
        axes[1, 0].bar(range(len(blocks)), [block.lod_percent or 0.0 for block in blocks], color=paint)
        axes[1, 0].set(ylabel="LOD [%]")
    axes[-1, 0].set(
        xlabel="block ("
        + ", ".join(f"{colours[name][4:]}: {name}" for name in dict.fromkeys(b.component for b in blocks))
        + ")"
    )
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
