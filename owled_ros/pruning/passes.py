"""Real forward passes, cut at the blocks: find chains of blocks, record what enters them, and run them again one by one.

Needs torch and a loaded model. A *segment* is a chain of blocks in which each output is the next block's input. Its
inputs are recorded by one forward pass of the whole model in which the segment's blocks hand their input on
unchanged, so embeddings, masks, positions and earlier towers are the model's own. Letters: B, T, C as usual.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from owled_ros.compute_type import autocast
from owled_ros.errors import OwledError
from owled_ros.models.components import Block
from owled_ros.pruning.config import Batch

LABEL_KEYS = {"labels"}
HIDDEN = object()  # stands for the hidden state in recorded arguments


@dataclass
class Chunk:
    """One call of a segment: the hidden state now, the other arguments of each block, and which tokens are real."""

    hidden: torch.Tensor  # (B, T, C) or (T, C)
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)  # by block name
    token_mask: torch.Tensor | None = None  # (B, T) bool, None where no token is padding


@dataclass(frozen=True)
class Segment:
    """Chained blocks; `passes` tells that each keeps the shape, so that it may hand its input on while recording."""

    blocks: tuple[Block, ...]
    passes: bool
    tuple_length: int = 0  # of what the blocks return; 0: a bare tensor


@dataclass
class _Visit:
    """What the discovery pass saw of one block."""

    calls: int = 0
    chained: bool = True
    same_shape: bool = True
    tuple_length: int = 0  # 0: the block returns a bare tensor


def to_device(batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Copy a batch to the model's device; floating tensors take its dtype, an attention mask of ones is dropped."""
    moved: dict[str, Any] = {}
    for key, value in batch.items():
        if isinstance(value, torch.Tensor):
            value = value.to(device, dtype if value.is_floating_point() else value.dtype)
            if key == "attention_mask" and value.ndim == 2 and bool(value.all()) and "pixel_values" not in batch:
                continue
        moved[key] = value
    return moved


def forward_precision(dtype: str, device: str) -> torch.autocast:
    """Return the context in which the passes of a run multiply: float32, or bfloat16 with float32 sums and weights."""
    return autocast(dtype, device, cached=False)


def forward_body(model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Run the model without its language head (blocks are all that is wanted)."""
    body = getattr(model, "base_model", model)
    inputs = {key: value for key, value in batch.items() if key not in LABEL_KEYS}
    if takes_argument(body, "use_cache"):
        inputs["use_cache"] = False
    body(**inputs)


def takes_argument(module: nn.Module, name: str) -> bool:
    """Tell whether a module's forward accepts a keyword."""
    parameters = inspect.signature(module.forward).parameters
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


@contextlib.contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turn what a model's own code raises on some batches into one sentence."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as err:
        raise OwledError(
            f"out of memory while the model ran {what} ({str(err).splitlines()[0]}): give fewer or shorter samples, "
            "or a device with more memory"
        ) from err
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as err:
        raise OwledError(f"the model cannot run {what} ({type(err).__name__}: {err})") from err


def telling_batches(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return one batch of every set of inputs (text only, with image), so that every component runs, and the others."""
    kinds: dict[tuple[str, ...], int] = {}
    for place, batch in enumerate(batches):
        kinds.setdefault(tuple(sorted(batch)), place)
    first = set(kinds.values())
    return [batches[place] for place in sorted(first)], [b for place, b in enumerate(batches) if place not in first]


def find_segments(
    model: nn.Module, blocks: Sequence[Block], batches: Iterable[Batch], others: Iterable[Batch] = ()
) -> tuple[Segment, ...]:
    """Run a few batches and cut the blocks, in the order in which they run, into segments.

    Args:
        others: batches to run only as long as some block did not.

    Raises:
        OwledError: when a block never runs, for example a vision tower on batches without images.
    """
    visits = {block.name: _Visit() for block in blocks}
    order: list[Block] = []
    for batch in batches:
        order = _joined(order, _discover(model, blocks, batch, visits))
    for batch in others:
        if len(order) == len(blocks):
            break
        order = _joined(order, _discover(model, blocks, batch, visits))
    missing = [block for block in blocks if visits[block.name].calls == 0]
    if missing:
        raise OwledError(
            f"the calibration never runs {missing[0].name} (component {missing[0].component}): "
            "add frames with images, or leave that component out"
        )
    segments: list[list[Block]] = []
    for block in order:
        visit = visits[block.name]
        previous = segments[-1][-1] if segments else None
        joins = (
            previous is not None
            and visit.chained
            and previous.component == block.component
            and visits[previous.name].same_shape
            and visit.same_shape
            and visits[previous.name].calls == visit.calls
            and visits[previous.name].tuple_length == visit.tuple_length
        )
        segments[-1].append(block) if joins else segments.append([block])
    firsts = [visits[part[0].name] for part in segments]
    return tuple(
        Segment(tuple(part), first.same_shape, first.tuple_length) for part, first in zip(segments, firsts, strict=True)
    )


def record(model: nn.Module, segments: Sequence[Segment], index: int, batches: Iterable[Batch]) -> list[Chunk]:
    """Record the inputs of segment `index` over all batches; earlier segments run as they are now."""
    chunks: list[Chunk] = []
    parameter = next(model.parameters())
    with contextlib.ExitStack() as stack, torch.no_grad():
        open_chunks: list[Chunk] = []
        current: dict[str, Any] = {}
        for later in segments[index + 1 :]:
            if later.passes:
                for block in later.blocks:
                    stack.enter_context(_handed_on(block.module, later.tuple_length))
        segment = segments[index]
        for place, block in enumerate(segment.blocks):
            stack.enter_context(_recorded(block, place == 0, open_chunks, current))
            if segment.passes:
                stack.enter_context(_handed_on(block.module, segment.tuple_length))
        for batch in batches:
            moved = to_device(batch, parameter.device, parameter.dtype)
            current["calls"] = {}
            current["mask"] = token_mask(moved)
            forward_body(model, moved)
            chunks.extend(open_chunks)
            open_chunks.clear()
    return chunks


def record_entering(
    model: nn.Module, segments: Sequence[Segment], batches: Iterable[Batch]
) -> list[list[torch.Tensor]]:
    """Record the hidden states that enter every segment in the model as it is, call by call as `record` does, in one pass."""
    entering: list[list[torch.Tensor]] = [[] for _ in segments]
    parameter = next(model.parameters())
    with contextlib.ExitStack() as stack, torch.no_grad():
        if segments[-1].passes:
            for block in segments[-1].blocks:
                stack.enter_context(_handed_on(block.module, segments[-1].tuple_length))
        for found, segment in zip(entering, segments, strict=True):

            def note(_: nn.Module, args: Any, kwargs: Any, found: list[torch.Tensor] = found) -> None:
                found.append(_hidden_of(args, kwargs).detach())

            stack.callback(segment.blocks[0].module.register_forward_pre_hook(note, with_kwargs=True).remove)
        for batch in batches:
            forward_body(model, to_device(batch, parameter.device, parameter.dtype))
    return entering


def run_block(block: Block, chunk: Chunk) -> torch.Tensor:
    """Run one block on a chunk and return its output hidden state."""
    args, kwargs = chunk.arguments[block.name]
    if args:
        output = block.module(chunk.hidden, *args[1:], **kwargs)
    else:
        output = block.module(**{key: chunk.hidden if value is HIDDEN else value for key, value in kwargs.items()})
    return output[0] if isinstance(output, tuple) else output


def _hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs[_hidden_key(kwargs)]


def _hidden_key(kwargs: Mapping[str, Any]) -> str:
    """Find the argument that carries the hidden state of a block called by keywords: the first tensor."""
    return next(key for key, value in kwargs.items() if isinstance(value, torch.Tensor))


def _discover(model: nn.Module, blocks: Sequence[Block], batch: Batch, visits: dict[str, _Visit]) -> list[Block]:
    """Run one batch; note calls, chaining and shapes; return the blocks in the order of their first call."""
    order: list[Block] = []
    outputs: dict[int, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}

    def before(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if block.name not in counts:
            order.append(block)
        call = counts[block.name] = counts.get(block.name, 0) + 1
        place = order.index(block)
        if place:
            previous = outputs.get(place - 1, [])
            same = len(previous) >= call and _same(previous[call - 1], _hidden_of(args, kwargs))
            visits[block.name].chained &= same

    def after(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        outputs.setdefault(order.index(block), []).append(hidden)
        visit = visits[block.name]
        visit.tuple_length = len(output) if isinstance(output, tuple) else 0
        others = output[1:] if isinstance(output, tuple) else ()
        visit.same_shape &= hidden.shape == _hidden_of(args, kwargs).shape and all(other is None for other in others)

    parameter = next(model.parameters())
    with contextlib.ExitStack() as stack, torch.no_grad():
        for block in blocks:
            pre = block.module.register_forward_pre_hook(lambda _, a, k, b=block: before(b, a, k), with_kwargs=True)
            post = block.module.register_forward_hook(lambda _, a, k, o, b=block: after(b, a, k, o), with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(post.remove)
        forward_body(model, to_device(batch, parameter.device, parameter.dtype))
    for name, count in counts.items():
        visits[name].calls = max(visits[name].calls, count)
    return order


def _joined(order: list[Block], seen: list[Block]) -> list[Block]:
    """Put blocks that ran for the first time into the known order, each behind the one that ran before it."""
    joined = list(order)
    place = 0
    for block in seen:
        if block in joined:
            place = joined.index(block) + 1
        else:
            joined.insert(place, block)
            place += 1
    return joined


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))


@contextlib.contextmanager
def _handed_on(module: nn.Module, tuple_length: int) -> Iterator[None]:
    """Let a block return its input while entered, in the form in which it returns its output."""

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden_of(args, kwargs)
        return (hidden, *[None] * (tuple_length - 1)) if tuple_length else hidden

    module.forward = hand_on
    try:
        yield
    finally:
        del module.forward


@contextlib.contextmanager
def _recorded(block: Block, first: bool, chunks: list[Chunk], current: dict[str, Any]) -> Iterator[None]:
    """Note the arguments of every call of a block; the segment's first block opens a chunk per call."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = current["calls"].get(block.name, 0)
        current["calls"][block.name] = call + 1
        if first:
            chunks.append(Chunk(_hidden_of(args, kwargs).detach(), token_mask=current["mask"]))
        if args:
            chunks[call].arguments[block.name] = ((HIDDEN, *args[1:]), kwargs)
        else:
            chunks[call].arguments[block.name] = ((), {**kwargs, _hidden_key(kwargs): HIDDEN})

    handle = block.module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def token_mask(batch: Mapping[str, Any]) -> torch.Tensor | None:
    """Tell which tokens (B, T) of a batch are real; None where all are."""
    mask = batch.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or bool(mask.all()):
        return None
    return mask.bool()
