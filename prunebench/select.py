"""Selection helpers: deterministic top-k, largest-remainder shares, regular windows."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.tokens import VisualTokens


def top(scores: Tensor, count: int) -> Tensor:
    """[count] places of the highest of `scores` [N], best first; ties go to the lower place, on every device."""
    return torch.sort(scores.float(), descending=True, stable=True).indices[:count]


def share(total: int, weights: Tensor) -> list[int]:
    """Split `total` into whole parts proportional to `weights` [T] by largest remainder (ties: first); sums to `total`.

    Raises ValueError for weights that are negative, not finite or all zero.
    """
    values = weights.double().cpu()
    if not torch.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(f"weights {values.tolist()} cannot be shared: they must be finite, >= 0 and not all 0")
    exact = total * values / values.sum()
    parts = exact.floor().long()
    for i in top(exact - parts, total - int(parts.sum())).tolist():
        parts[i] += 1
    return [int(p) for p in parts]


def windows(tokens: VisualTokens, count: int) -> list[Tensor]:
    """Cut the tiles into `count` windows, [h, w] places each; every tile gets its share by size, in bands of rows.

    Windows of about the tile's own shape cover it without overlap; a tile without a share has none. A newline token
    belongs to the window on its left but is no member of it, unless it stands alone. Raises ValueError where tokens
    have been dropped before.
    """
    if len(tokens) != len(tokens.layout):
        raise ValueError(f"windows need whole tiles, but {len(tokens)} of {len(tokens.layout)} visual tokens are alive")
    found = []
    sizes = torch.tensor([len(tile) for tile in tokens.tiles])
    for number, (tile, part) in enumerate(zip(tokens.tiles, share(count, sizes), strict=True)):
        if part == 0:
            continue
        width = tile.columns + tile.newlines
        place = tokens.layout.grid(number)
        bands = min(tile.rows, part, max(-(-part // width), round((part * tile.rows / width) ** 0.5)))
        for i in range(bands):
            band = place[i * tile.rows // bands : (i + 1) * tile.rows // bands]
            pieces = (i + 1) * part // bands - i * part // bands
            for j in range(pieces):
                left, right = j * width // pieces, (j + 1) * width // pieces
                found.append(band[:, left : max(left + 1, min(right, tile.columns))])
    return found
