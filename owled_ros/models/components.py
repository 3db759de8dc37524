"""The Transformer blocks and prunable matrices of a Hugging Face model, sorted into vision tower, projector, language model.

Needs torch and a loaded model. No list of architectures: blocks are the elements of the outermost ModuleLists that hold
linear layers; components follow the parts of the config and the words in a module's path. Letters: E experts, R outputs, K inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError

VISION_WORDS = {"vision", "visual", "image", "img", "vit", "clip", "siglip", "vector"}
PROJECTOR_WORDS = {
    "projector", "connector", "merger", "aligner", "projection", "qformer", "resampler", "perceiver", "abstractor",
    "adapter", "bridge",
}  # fmt: skip
LANGUAGE_WORDS = {"text", "llm", "language", "decoder"}
FOREIGN_WORDS = {"audio", "speech", "codec", "vqmodel", "vq", "generation"}  # not used by a driving model: left dense
ROUTER_NAMES = {"gate", "router", "shared_expert_gate"}  # small and decisive: left dense


@dataclass(frozen=True)
class Matrix:
    """One prunable weight seen as (R, K): a Linear, a Conv1D, or one expert's slice of a fused (E, ., .) parameter."""

    name: str  # unique: module path, for fused experts with the parameter and "[expert]"
    kind: str  # what it does in its block, e.g. "q_proj"; the same word in every block of a component
    module: nn.Module
    parameter: str  # the parameter's name inside `module`
    rows: int
    columns: int
    transposed: bool = False  # stored as (K, R): Conv1D and some fused experts
    expert: int | None = None
    read: bool = False  # its weight is multiplied without its module being called (see pruning.usage)

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def weight(self) -> torch.Tensor:
        """Return the live weight as a (R, K) view: writing into it changes the model."""
        return self.stored().t() if self.transposed else self.stored()

    def stored(self) -> torch.Tensor:
        """Return the live weight as it is stored."""
        parameter: torch.Tensor = getattr(self.module, self.parameter).data
        return parameter if self.expert is None else parameter[self.expert]

    def laid_out(self, transposed: bool) -> Matrix:
        """Return the same matrix read as (R, K) or (K, R)."""
        if transposed == self.transposed:
            return self
        return replace(self, transposed=transposed, rows=self.columns, columns=self.rows)


@dataclass(frozen=True)
class Block:
    """One Transformer block (or a whole projector): OWL's unit of sparsity."""

    name: str
    component: str  # "vision", "projector" or "language"
    module: nn.Module
    matrices: tuple[Matrix, ...]

    @property
    def size(self) -> int:
        return sum(matrix.size for matrix in self.matrices)


@dataclass(frozen=True)
class Structure:
    """The blocks in module order, and what is left dense with the reason."""

    blocks: tuple[Block, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def only(self, components: tuple[str, ...]) -> Structure:
        """Keep the blocks of some components; the others are listed as skipped."""
        kept = tuple(block for block in self.blocks if block.component in components)
        dropped = {block.name: f"component {block.component} not chosen" for block in self.blocks if block not in kept}
        return Structure(kept, {**self.skipped, **dropped})

    def component_sizes(self) -> dict[str, int]:
        """Count the prunable parameters of each component."""
        sizes: dict[str, int] = {}
        for block in self.blocks:
            sizes[block.component] = sizes.get(block.component, 0) + block.size
        return sizes


def find_structure(model: nn.Module) -> Structure:
    """Find all blocks and their prunable matrices.

    Raises:
        OwledError: when the model has no linear layer in a repeated block.
    """
    shared = _shared_parameters(model)
    component_at = component_finder(model)
    skipped: dict[str, str] = {}
    blocks = []
    inside: set[nn.Module] = set()
    for name, module in _block_modules(model, component_at):
        inside.update(module.modules())
        component = component_at(name)
        if component == "foreign":
            skipped[name] = "neither vision tower, projector nor language model"
            continue
        matrices = tuple(_matrices(name, module, shared, skipped))
        if matrices:
            blocks.append(Block(name, component, module, matrices))
    for name, module in model.named_modules():
        if module not in inside and _is_linear(module):
            skipped[name] = "outside every block (embedding, head or pooler)"
    if not blocks:
        raise OwledError(
            f"{type(model).__name__} has no Transformer block with linear layers: expected a ModuleList whose elements hold "
            "Linear, Conv1D or fused expert weights that are not shared. Nothing can be pruned"
        )
    return Structure(tuple(blocks), skipped)


def component_finder(model: nn.Module) -> Callable[[str], str]:
    """Return what tells the component of a module path in one model.

    Where a composite config has parts (vision_config, text_config, qformer_config, ...), the submodels that were built from
    them are towers and language model, and what lies between them is the projector. The words of the path decide the rest.
    """
    roots = _submodels(model)
    kinds = set(roots.values())
    words = {word for name, _ in model.named_modules() for word in _words(name)}
    heads = {id(part) for part in _embeddings(model)}
    tables = {name for name, module in model.named_modules() if id(module) in heads}

    def component(name: str) -> str:
        root = max((at for at in roots if name == at or name.startswith(at + ".")), key=len, default=None)
        if root is not None and roots[root] == "language":
            return "language"
        told = component_of(name)
        if told in ("foreign", "projector"):
            return told if "vision" in kinds or words & (VISION_WORDS | FOREIGN_WORDS) else "language"
        if root is not None:
            return roots[root]
        above = not name or name in tables or any(at.startswith(name + ".") for at in roots)
        return "projector" if {"vision", "language"} <= kinds and not above else told

    return component


def component_of(name: str) -> str:
    """Tell the component from the words of a module path alone: vision, projector, language, or foreign."""
    words = _words(name)
    if words & FOREIGN_WORDS:
        return "foreign"
    if words & PROJECTOR_WORDS:
        return "projector"
    return "vision" if words & VISION_WORDS else "language"


def _words(name: str) -> set[str]:
    return set(re.split(r"[._]", name.lower()))


def _submodels(model: nn.Module) -> dict[str, str]:
    """Return the component of every submodel that was built from a part of the model's config, by its path."""
    kinds = _config_kinds(getattr(model, "config", None))
    roots: dict[str, str] = {}
    for name, module in model.named_modules():
        kind = kinds.get(type(getattr(module, "config", None)))
        if name and kind and hasattr(module, "get_input_embeddings"):
            roots[name] = kind
    return roots


def _config_kinds(config: Any) -> dict[type, str]:
    """Return the component that each class of config stands for; a class in two roles tells nothing."""
    found: dict[type, set[str]] = {}
    waiting = [] if config is None else [config]
    while waiting:
        for key, part in vars(waiting.pop()).items():
            if not hasattr(part, "model_type") or isinstance(part, type):
                continue
            words = _words(key)
            for kind, known in (
                ("foreign", FOREIGN_WORDS), ("projector", PROJECTOR_WORDS), ("vision", VISION_WORDS), ("language", LANGUAGE_WORDS)
            ):  # fmt: skip
                if words & known:
                    found.setdefault(type(part), set()).add(kind)
                    break
            else:
                waiting.append(part)
    return {kind: roles.pop() for kind, roles in found.items() if len(roles) == 1}


def _embeddings(model: nn.Module) -> list[nn.Module]:
    tables = [getattr(model, name, None) for name in ("get_input_embeddings", "get_output_embeddings")]
    found = [table() for table in tables if table is not None]
    return [table for table in found if isinstance(table, nn.Module)]


def _block_modules(model: nn.Module, component_at: Callable[[str], str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield projectors and the elements of the outermost ModuleLists, each once, none inside another."""
    taken: list[str] = []
    for name, module in model.named_modules():
        if any(name == other or name.startswith(other + ".") for other in taken):
            continue
        if isinstance(module, nn.ModuleList):
            taken.append(name)
            for index, element in enumerate(module):
                yield f"{name}.{index}", element
        elif name and component_at(name) == "projector" and not _holds_blocks(module):
            taken.append(name)
            yield name, module


def _holds_blocks(module: nn.Module) -> bool:
    """Tell a projector with layers of its own (a Q-Former, a resampler): its layers are the blocks."""
    return any(isinstance(part, nn.ModuleList) and any(map(_is_linear, part.modules())) for part in module.modules())


def _matrices(block_name: str, block: nn.Module, shared: set[int], skipped: dict[str, str]) -> Iterator[Matrix]:
    for inner, module in block.named_modules():
        name = f"{block_name}.{inner}" if inner else block_name
        kind = re.sub(r"(^|\.)\d+\b", "", inner) or inner or "linear"
        if _is_linear(module):
            if id(module.weight) in shared:
                skipped[name] = "shares its weight with another layer"
            elif inner.rsplit(".", 1)[-1] in ROUTER_NAMES:
                skipped[name] = "router of a mixture of experts"
            elif type(module).__name__ == "NonDynamicallyQuantizableLinear":
                skipped[name] = "used through torch's fused attention, its inputs cannot be seen"
            else:
                transposed = type(module).__name__ == "Conv1D"
                rows, columns = module.weight.shape[::-1] if transposed else module.weight.shape
                yield Matrix(name, kind, module, "weight", rows, columns, transposed)
        elif "expert" in type(module).__name__.lower():
            yield from _fused_experts(name, kind, module, shared, skipped)
        else:
            _note_others(name, module, skipped)


def _fused_experts(
    name: str, kind: str, module: nn.Module, shared: set[int], skipped: dict[str, str]
) -> Iterator[Matrix]:
    transposed = bool(getattr(module, "is_transposed", False))
    for parameter_name, parameter in module.named_parameters(recurse=False):
        full = f"{name}.{parameter_name}"
        if parameter.ndim != 3:
            if parameter.ndim == 2 and "bias" not in parameter_name:
                skipped[full] = "experts in a form that is not known"
            continue
        if id(parameter) in shared:
            skipped[full] = "shares its weight with another layer"
            continue
        rows, columns = parameter.shape[:0:-1] if transposed else parameter.shape[1:]
        for expert in range(parameter.shape[0]):
            yield Matrix(
                f"{full}[{expert}]",
                f"{kind}.{parameter_name}",
                module,
                parameter_name,
                rows,
                columns,
                transposed,
                expert,
            )


def _note_others(name: str, module: nn.Module, skipped: dict[str, str]) -> None:
    """List the weights of a block that are no Linear layer's: convolutions, tables, attention in one piece."""
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim > 1 and not isinstance(module, nn.ModuleList):
            skipped[f"{name}.{parameter_name}"] = f"no Linear layer ({type(module).__name__})"


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return linear and isinstance(weight, torch.Tensor) and weight.ndim == 2


def _shared_parameters(model: nn.Module) -> set[int]:
    seen: set[int] = set()
    shared: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
