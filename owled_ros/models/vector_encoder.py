"""The scene encoder of LlmDriver: rows of numbers to latents (Perceiver, Jaegle et al., arXiv 2103.03206, section 3). Needs torch.

Latents look at the scene's rows, then at each other; attention means over what it sees, so how many there are of a kind is summed up
in a row of its own. Letters: B scenes, N rows of a scene, L latents, F features, C width, K counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from owled_ros.driving import vectors
from owled_ros.driving.vector_facts import FULL_WHEEL_DEGREES, MPH
from owled_ros.driving.vectors import METRES, SPEEDS, Ego, Pedestrian, Route, Vehicle

FAINT = 0.2  # size of what latents begin with where nothing better is known
SMOOTH, WAVES = 0.8, 6  # the slowest wave turns once in 2 pi / SMOOTH units, each next one twice as fast
SAME, FARTHEST = 1e-3, 4.0  # a feature that varies less is left out; none counts for more deviations than this
SHARP = 1.5  # how surely a latent begins by looking at its own rows
SPOKEN = 6  # numbers of a row that sentences say
NUMBER_WAVES = 128  # of one whole number
GROUPS = (vectors.WIDTH, vectors.WIDTH * 2 * WAVES, SPOKEN * 2 * NUMBER_WAVES, SPOKEN)  # features of a row: _features
FEATURES = sum(GROUPS)
KINDS = {
    "ahead": 1,
    "ego": 1,
    "route": vectors.ROUTE[0],
    "vehicle": vectors.VEHICLES[0],
    "pedestrian": vectors.PEDESTRIANS[0],
}  # rows
CROWDS = ("vehicle", "pedestrian")  # kinds that are counted
COUNTS, FINE = 4, 10.0  # of each kind; a count is told as a number and as ten times it, which tells neighbours apart
ROWS = 1 + vectors.ROWS + 1  # a scene's, behind one that sums up the route, before one that says how many there are


class VectorConfig(PreTrainedConfig):
    """The vector encoder."""

    model_type = "llm_driver_vectors"
    base_config_key = "vector_config"

    hidden_size: int = 128
    num_latents: int = 24
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 384
    initializer_range: float = 0.1  # of places


class Attention(nn.Module):
    """Multi-head attention of latents to others or to themselves."""

    def __init__(self, config: VectorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, asking: torch.Tensor, asked: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from (B, L, C) to (B, N, C); `mask` (B, 1, 1, N) is true where there is something."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj(asking), self.k_proj(asked), self.v_proj(asked))
        )  # (B, H, ., C / H)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(found.transpose(1, 2).flatten(2))


class PerceiverBlock(nn.Module):
    """Latents look at the rows, at each other, and think."""

    def __init__(self, config: VectorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.cross_norm, self.self_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attn, self.self_attn = Attention(config), Attention(config)
        self.fc1, self.fc2 = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)

    def forward(self, latents: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the latents (B, L, C) after one look at the rows (B, N, C)."""
        latents = latents + self.cross_attn(self.cross_norm(latents), rows, mask)
        own = self.self_norm(latents)
        latents = latents + self.self_attn(own, own)
        return latents + self.fc2(functional.gelu(self.fc1(self.mlp_norm(latents))))


class VectorEncoder(PreTrainedModel):
    """A scene to latents."""

    config_class = VectorConfig
    main_input_name = "vectors"
    _supports_sdpa = True

    def __init__(self, config: VectorConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.row_embedding = nn.ModuleDict({kind: RowEmbedding(FEATURES, width) for kind in KINDS})
        self.crowd = Crowd(width)
        self.place = nn.Parameter(torch.randn(ROWS, width) * config.initializer_range)
        self.latents = nn.Parameter(torch.randn(config.num_latents, width) * FAINT)
        self.blocks = nn.ModuleList(PerceiverBlock(config) for _ in range(config.num_hidden_layers))
        self.rows_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Begin with weights that keep the size of what passes: scenes must differ from the first step on."""
        if isinstance(module, nn.Linear) and not getattr(module.weight, "_is_hf_initialized", False):
            start(module)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return what reads the rows; there is no table."""
        return self.row_embedding

    def forward(self, vectors: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return the latents (B, L, C) of packed scenes (B, 81, 33)."""
        rows, mask = self.read(vectors.float())
        latents = self.latents.expand(len(vectors), -1, -1)
        for block in self.blocks:
            latents = block(latents, rows=rows, mask=mask)
        return BaseModelOutput(last_hidden_state=self.norm(latents))

    def read(self, scenes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the rows (B, N, C), and tell which hold something (B, 1, 1, N)."""
        there, kinds = _taken(scenes), tuple(KINDS.values())
        parts = zip(self.row_embedding.items(), _features(scenes).split(kinds, dim=1), strict=True)
        told = {kind: embed(part) for (kind, embed), part in parts}
        taken = dict(zip(KINDS, there[:, :-1].split(kinds, dim=1), strict=True))
        rows = torch.cat([*told.values(), self.crowd(told, taken)], dim=1)
        return self.rows_norm(rows + self.place), there[:, None, None, :]

    @torch.no_grad()
    def begin(self, scenes: torch.Tensor) -> None:
        """Start from what scenes (B, 81, 33) are like: features in deviations from their mean, latents that look at rows of their own.

        Without this nearly all of an embedding is what all scenes share, a latent sees the mean of 81 rows, and a small host that
        is taught the speed alone has not begun to read it after 300 steps; with it 150 are enough to begin.
        """
        taken = _taken(scenes)[:, :-1].split(tuple(KINDS.values()), dim=1)
        found = _features(scenes).split(tuple(KINDS.values()), dim=1)
        for embed, features, there in zip(self.row_embedding.values(), found, taken, strict=True):
            assert isinstance(embed, RowEmbedding)
            embed.measure(features[there])
        self.place.normal_()
        for latent, rows in zip(self.latents, first_looks(len(self.latents)), strict=True):
            look = self.place[rows].mean(0)
            latent.copy_(look / look.std())
        block = self.blocks[0]
        assert isinstance(block, PerceiverBlock)
        first = block.cross_attn
        first.q_proj.weight.mul_(SHARP)
        first.k_proj.weight.copy_(first.q_proj.weight)  # alike is looked at


def first_looks(latents: int) -> list[list[int]]:
    """Say which rows each latent begins with: what lies ahead, the vehicle itself, how many, stretches of the route, the nearest, whole kinds."""
    kinds_end = np.cumsum(list(KINDS.values()))
    _, _, route_rows, vehicle_rows, people_rows, crowd_rows = np.split(np.arange(ROWS), kinds_end)
    route = [stretch.tolist() for stretch in np.array_split(route_rows, max(latents // 4 - 1, 1))]
    vehicles = [[row] for row in vehicle_rows[: latents // 3].tolist()]
    people = [[row] for row in people_rows[: latents // 6].tolist()]
    kinds = [rows.tolist() for rows in (route_rows, vehicle_rows, people_rows)]
    own = [[0], [1], crowd_rows.tolist(), *route, *vehicles, *people]
    return [*own, *(kinds[place % len(kinds)] for place in range(latents))][:latents]


def number_waves(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """Write whole numbers (...) as waves (..., width), half sines, half cosines: close numbers alike, each one told apart."""
    frequency, phase = (torch.from_numpy(part).to(numbers) for part in _number_code(width))
    turns = 2.0 * math.pi * (frequency * numbers[..., None] / 100.0 + phase)
    return torch.cat([turns.sin(), turns.cos()], dim=-1)


@lru_cache(maxsize=4)
def _number_code(width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.exponential(2.0, width // 2), generator.random(width // 2)


def _features(scenes: torch.Tensor) -> torch.Tensor:
    """Write scenes (B, 81, 33) as rows (B, N, F): their numbers, these as waves, what sentences say of them in the code of number words, its signs."""
    ahead, said_ahead = _ahead(scenes)
    scenes = torch.cat([ahead[:, None], scenes], dim=1)
    waves = scenes[..., None] * (SMOOTH * 2.0 ** torch.arange(WAVES, device=scenes.device, dtype=scenes.dtype))
    said = torch.cat([said_ahead[:, None], _spoken(scenes[:, 1:])], dim=1)  # (B, N, S)
    hundredths = (said.abs() * 100.0).round()
    whole, decimals = (number_waves(part, NUMBER_WAVES) for part in ((hundredths / 100.0).floor(), hundredths % 100.0))
    spoken = torch.cat([whole, decimals], dim=-1)
    return torch.cat(
        [scenes, waves.sin().flatten(-2), waves.cos().flatten(-2), spoken.flatten(-2), said.sign()], dim=-1
    )


def _ahead(scenes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum up the route: a row (B, 33) with the next light's state and whether a junction comes, and its spoken numbers (B, S).

    A mean over 30 points hides the one that has the light; what is found here need not be learnt.
    """
    route = scenes[:, vectors.FIRST_ROUTE : vectors.FIRST_VEHICLE]  # (B, R, 33)
    distance = torch.hypot(route[..., Route.X], route[..., Route.Y]) * METRES
    angle = _bearing(route[..., Route.DX], route[..., Route.DY])
    row = torch.zeros_like(scenes[:, 0])
    found = []
    for flag, states in ((Route.LIGHT, range(Route.GREEN, Route.RED_YELLOW + 1)), (Route.JUNCTION, range(0))):
        there = route[..., flag] > 0  # (B, R)
        first = there.to(torch.uint8).argmax(1, keepdim=True)
        found.append(distance.gather(1, first)[:, 0] * there.any(1))
        row[:, flag] = there.any(1).to(row.dtype)
        for state in states:
            row[:, state] = route[..., state].gather(1, first)[:, 0] * row[:, flag]
    said = [*found, angle[:, -1], distance[:, -1], angle[:, 0], route[:, 0, Route.Y] * METRES]
    return row, torch.stack(said, dim=-1)


def _spoken(scenes: torch.Tensor) -> torch.Tensor:
    """Return the numbers of rows (B, N, S) in the units of the sentences: metres, degrees (right positive), miles per hour, percent."""
    ego, route, vehicles, people = scenes.split(tuple(KINDS.values())[1:], dim=1)
    wheel = torch.rad2deg(ego[..., Ego.STEERING_WHEEL]) / FULL_WHEEL_DEGREES
    pedals = [
        ego[..., column] for column in (Ego.LAST_ACCELERATOR, Ego.LAST_BRAKE, Ego.LAST_STEERING, Ego.ACCELERATION)
    ]
    own = torch.stack([ego[..., Ego.SPEED] * (SPEEDS * MPH / 100.0), wheel, *pedals], dim=-1) * 100.0
    rows = []
    for part, column, fast in (
        (route, Route, Route.SPEED_LIMIT), (vehicles, Vehicle, Vehicle.SPEED), (people, Pedestrian, Pedestrian.SPEED)
    ):  # fmt: skip
        x, y = part[..., column.X], part[..., column.Y]
        said = (torch.hypot(x, y) * METRES, _bearing(x, y), _bearing(part[..., column.DX], part[..., column.DY]),
                part[..., fast] * (SPEEDS * MPH), x * METRES, y * METRES)  # fmt: skip
        rows.append(torch.stack(said, dim=-1))
    return torch.cat([own, *rows], dim=1)


def _bearing(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.atan2(-y, x))


def _taken(scenes: torch.Tensor) -> torch.Tensor:
    """Tell which rows (B, N) hold something."""
    there = torch.ones((len(scenes), ROWS), dtype=torch.bool, device=scenes.device)
    there[:, 1 + vectors.FIRST_VEHICLE : -1] = scenes[:, vectors.FIRST_VEHICLE :, 0] != 0
    return there


class RowEmbedding(nn.Module):
    """The features of one kind of row, in deviations from their mean, to the encoder's width."""

    centre: torch.Tensor  # (F,)
    spread: torch.Tensor  # (F,)
    share: torch.Tensor  # (F,) of a feature; 0: always the same

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lift, self.mix, self.norm = nn.Linear(features, width), nn.Linear(width, width), nn.LayerNorm(width)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("share", torch.ones(features))

    def measure(self, features: torch.Tensor) -> None:
        """Take the deviations from rows (N, F). Numbers, their waves, the code of number words and its signs count the same.

        Flags are few, and so are signs: among the waves of a number its side is lost, and with it where to steer.
        """
        if len(features) < 2:
            return
        spread = features.std(0)
        groups = (spread > SAME).float().split(GROUPS)
        counted = [kept * (len(spread) / len(groups) / kept.sum().clamp(min=1.0)).sqrt() for kept in groups]
        self.centre.copy_(features.mean(0))
        self.spread.copy_(spread.clamp(min=SAME))
        self.share.copy_(torch.cat(counted))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Embed rows (B, N, F)."""
        told = ((features - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST) * self.share
        return self.norm(self.mix(functional.gelu(self.lift(told.to(self.lift.weight.dtype)))))


class Crowd(nn.Module):
    """How many rows of a kind are of some sort, K sorts of each kind, which are learnt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sort = nn.ModuleDict({kind: nn.Linear(width, COUNTS) for kind in CROWDS})
        self.tell = nn.Linear(len(CROWDS) * COUNTS * 2 * NUMBER_WAVES, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Mapping[str, torch.Tensor], taken: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return one row (B, 1, C) of embedded rows (B, N, C) by kind, of which those taken (B, N) count."""
        counts = [self.count(kind, rows[kind], taken[kind]) for kind in CROWDS]
        number = torch.cat(counts, dim=-1)  # (B, K)
        code = torch.cat([number_waves(number * scale, NUMBER_WAVES) for scale in (1.0, FINE)], dim=-1)
        return self.norm(self.tell(code.flatten(-2).to(self.tell.weight.dtype)))[:, None]

    def count(self, kind: str, rows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """Return how many rows (B, N, C) of those taken (B, N) are of each sort (B, K)."""
        return (self.sort[kind](rows).float().sigmoid() * taken[..., None]).sum(1)


def start(layer: nn.Linear, size: float = 1.0) -> None:
    """Draw weights that make an output of a size from inputs of size 1."""
    layer.weight.normal_(std=size / math.sqrt(layer.in_features))
    if layer.bias is not None:
        layer.bias.zero_()
