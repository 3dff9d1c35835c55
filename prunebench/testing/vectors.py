"""Vectors: files of numbers from official code.

The format is that of tests/golden/README.md. What every file may hold is read here; names that only
the files of one method have are its translator's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunebench.tokens import Layout, Tile, VisualTokens

FORMAT = "visual-token-pruning-golden/1"

TOLERANCE = 1e-4
"""For float tensors whose file suggests none."""


class VerifyError(ValueError):
    """Vectors, or what belongs to them, that cannot be used."""


@dataclass(frozen=True)
class Vector:
    """One file of vectors: its metadata, and its tensors by name."""

    name: str
    meta: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Vector:
        """Raises VerifyError for a file that is damaged or of another format."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise VerifyError(f"cannot be read, it may be truncated: {error}") from error
        if header.get("format") != FORMAT or "meta" not in header:
            raise VerifyError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
        return cls(path.name, json.loads(header["meta"]), tensors)

    # ---- what a method is shown ------------------------------------------------------------------

    def tokens(self, tiles: Sequence[Tile] | None = None) -> VisualTokens:
        """The visual tokens before the first stage, without signals; `tiles` where `grid` does not
        say it all.

        A vector may give a method nothing but signals: its tokens have features [N, 0].
        """
        layout = Layout(tuple(self.tiles() if tiles is None else tiles))
        if "features" in self.tensors:
            features = self.tensors["features"].flatten(0, -2)
        elif "input_embeds" in self.tensors:
            features = self.tensors["input_embeds"][self.image()]
        else:
            features = torch.zeros(len(layout), 0)
        return VisualTokens(features, layout, torch.arange(len(layout)))

    def tiles(self) -> list[Tile]:
        """The grids that `grid` names: one for each of `frames` or `tiles`, or one row for each
        image.
        """
        grid = self.tensors["grid"]
        sizes = grid.tolist()
        if "frames" in self.meta:
            rows, columns = sizes
            return [Tile(rows, columns, "frame", frame=i) for i in range(self.meta["frames"])]
        if grid.dim() == 1:
            sizes = [sizes] * int(self.meta.get("tiles") or 1)
        return [Tile(rows, columns, image=image) for image, (rows, columns) in enumerate(sizes)]

    def image(self) -> Tensor:
        """[N] the positions of the visual tokens in the prompt."""
        if "image_mask" in self.tensors:
            return self.tensors["image_mask"].nonzero()[:, 0]
        return int(self.meta["image_start"]) + torch.arange(int(self.meta["image_length"]))

    def cls_attention(self, blocks: Sequence[int]) -> Tensor:
        """[B, H, N] CLS attention in these blocks of the vision encoder; raises VerifyError where
        the vector has others.
        """
        attention = self.tensors["cls_attention"]
        if attention.dim() == 4:  # [tiles, layers, H, n]
            attention = attention.permute(1, 2, 0, 3).flatten(2)
        layers = list(self.meta["cls_attention_layers"])
        absent = [str(block) for block in blocks if block not in layers]
        if absent:
            raise VerifyError(
                f"the vector brings CLS attention of blocks {layers}, not of {', '.join(absent)}"
            )
        return attention[[layers.index(block) for block in blocks]]

    # ---- what official code answers --------------------------------------------------------------

    def expected(self) -> list[str]:
        """The names of the tensors to compare with."""
        return list(self.meta["expected"])

    def target(self, name: str, like: Tensor) -> Tensor:
        """The tensor to compare with, in the shape of `like`: where a method answers for the whole
        sample at once, the rows of its tiles behind one another.
        """
        target = self.tensors[name]
        tiles = int(self.meta.get("tiles") or 1)
        if tiles == 1 or target.dim() <= like.dim():
            return target
        if name in ("keep", "order") and len(target) == tiles:  # places within a tile
            cells = int(self.tensors["grid"].prod())
            target = target + cells * torch.arange(tiles)[:, None]
        return target.flatten()

    def tolerance(self, name: str) -> float:
        """The largest difference at which a float tensor agrees; "stage0.scores" goes by
        "scores".
        """
        return float(self.meta.get("tolerance", {}).get(name.split(".")[-1], TOLERANCE))


def files_of(folder: Path, name: str) -> list[Path]:
    """The files `NAME-i.safetensors` of a folder, sorted."""
    pattern = re.compile(rf"{re.escape(name)}-\d+\.safetensors")
    return [path for path in sorted(folder.glob("*.safetensors")) if pattern.fullmatch(path.name)]
