"""int8 codes without their zeros in tiles, as a GPU's tensor cores take them (tiles.cu); read back in torch. Needs torch.

A tile has 16 rows and 128 columns; tiles lie strip after strip, each padded to 16 bytes:
    16 B   where the codes of 4 steps and 2 halves of the rows begin, uint16 each, counted from the first code
    32 B   scales of the rows, bfloat16
    256 B  masks: for lanes 0 to 31 and both halves 32 bits, of column 32 t + bit; lane 4 g + t has row g + 8 * half
    rest   codes that are not zero, by step (8 columns of each lane), half, lane, column
Bytes a weight at density d: d + 0.154 and the padding. Letters: R rows, K columns, S strips, T tiles of a strip, N = S * T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROWS = 16
COLUMNS = 128
HEAD_BYTES = 304
UNIT = 16  # [bytes] that a tile is a multiple of
SLACK = 64  # [bytes] behind the last tile, which may be read


@dataclass(frozen=True)
class Tiles:
    """A matrix in tiles."""

    rows: int
    columns: int
    blob: torch.Tensor  # uint8
    starts: torch.Tensor  # (N + 1) int32, in units of 16 bytes
    slot: int  # room for any of its tiles, and what may be read behind it [bytes]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.blob.numel() + self.starts.numel() * self.starts.element_size()


def pack_tiles(codes: torch.Tensor, scales: torch.Tensor) -> Tiles:
    """Pack codes (R, K) int8 with scales (R, K / 128 rounded up) bfloat16, on their own device."""
    rows, columns = codes.shape
    codes = torch.nn.functional.pad(codes, (0, -columns % COLUMNS, 0, -rows % ROWS))
    scales = torch.nn.functional.pad(scales, (0, 0, 0, -rows % ROWS))
    tiles = codes.shape[1] // COLUMNS
    # Letters of the next line: S, half, g, T, t, step, 8 columns; then as they lie.
    ordered = (
        codes.view(-1, 2, 8, tiles, 4, 4, 8).permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, 8, 256)
    )  # (N, step and half, 256)
    counts = (ordered != 0).sum(2)  # (N, 8)
    before = (counts.cumsum(1) - counts).to(torch.int16)
    totals = counts.sum(1)  # (N)
    units = (HEAD_BYTES + totals + UNIT - 1) // UNIT
    starts = torch.cat([units.new_zeros(1), units.cumsum(0)])  # (N + 1)
    blob = torch.zeros(int(starts[-1]) * UNIT + SLACK, dtype=torch.uint8, device=codes.device)
    tile_scales = scales.view(-1, ROWS, tiles).permute(0, 2, 1).reshape(-1, ROWS).contiguous()  # (N, 16)
    kept = (codes.view(-1, 2, 8, tiles, 4, 32) != 0).permute(0, 3, 2, 4, 1, 5)  # (S, T, g, t, half, 32)
    heads = torch.cat(
        [before.view(torch.uint8), tile_scales.view(torch.uint8), _bytes_of(kept.reshape(len(before), -1))], 1
    )  # (N, 304)
    begins = starts[:-1] * UNIT
    blob[begins[:, None] + torch.arange(HEAD_BYTES, device=codes.device)] = heads
    blob[_places(begins, totals)] = ordered[ordered != 0].view(torch.uint8)
    return Tiles(rows, columns, blob, starts.to(torch.int32), int(units.max()) * UNIT + UNIT)


def unpack_tiles(tiles: Tiles) -> tuple[torch.Tensor, torch.Tensor]:
    """Give back codes and scales; the reference for the kernels."""
    across = -(-tiles.columns // COLUMNS)
    begins = tiles.starts[:-1].long() * UNIT
    heads = tiles.blob[begins[:, None] + torch.arange(HEAD_BYTES, device=tiles.blob.device)]  # (N, 304)
    scales = heads[:, 16:48].contiguous().view(torch.bfloat16).view(-1, across, ROWS).permute(0, 2, 1)  # (S, 16, T)
    kept = _bits_of(heads[:, 48:]).view(-1, 8, 4, 2, 4, 8)  # (N, g, t, half, step, 8)
    ordered = kept.permute(0, 4, 3, 1, 2, 5).reshape(len(begins), -1)  # (N, 2048)
    codes = torch.zeros(ordered.shape, dtype=torch.int8, device=tiles.blob.device)
    codes[ordered] = tiles.blob[_places(begins, ordered.sum(1))].view(torch.int8)
    # (S, T, step, half, g, t, 8) -> (S, half, g, T, t, step, 8)
    matrix = codes.view(-1, across, 4, 2, 8, 4, 8).permute(0, 3, 4, 1, 5, 2, 6).reshape(-1, across * COLUMNS)
    return (
        matrix[: tiles.rows, : tiles.columns].contiguous(),
        scales.reshape(-1, across)[: tiles.rows].contiguous(),
    )


def _places(begins: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
    """Addresses of all codes, tile after tile."""
    first = totals.cumsum(0) - totals
    within = torch.arange(int(totals.sum()), device=totals.device) - torch.repeat_interleave(first, totals)
    return torch.repeat_interleave(begins + HEAD_BYTES, totals) + within


def _bytes_of(bits: torch.Tensor) -> torch.Tensor:
    weights = 1 << torch.arange(8, device=bits.device)
    return (bits.view(len(bits), -1, 8) * weights).sum(2).to(torch.uint8)


def _bits_of(data: torch.Tensor) -> torch.Tensor:
    return (data[..., None].int() >> torch.arange(8, device=data.device) & 1).bool()
