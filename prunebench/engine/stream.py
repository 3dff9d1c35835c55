"""Stream: which prompt positions are alive at one point of the decoder, and the tensors that follow
from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class EngineError(ValueError):
    """A use that the engine cannot serve, or a pruner that broke its contract."""


@dataclass(frozen=True)
class Stream:
    """The live sequence of a batch: `source` lists, per sample, the prompt positions alive [n_b],
    ascending, on the CPU.

    In tensors the samples are padded on the left to `width` columns.
    """

    source: tuple[Tensor, ...]
    width: int

    @classmethod
    def of_prompt(cls, batch: int, width: int, mask: Tensor | None) -> Stream:
        """The whole prompt; `mask` [B, S] is 0 on padding, which must lie on the left."""
        if mask is None:
            return cls((torch.arange(width),) * batch, width)
        if mask.shape != (batch, width):
            raise EngineError(
                f"attention_mask is {tuple(mask.shape)}, the prompt {(batch, width)}: pass a 2-D mask over the prompt "
                "(static caches bring their own masks and are not supported)"
            )
        live = mask.cpu()
        if not bool(((live == 0) | (live == 1)).all()):
            raise EngineError(
                "attention_mask holds other values than 0 and 1; pass 1 for every token and 0 for padding"
            )
        live = live.bool()
        for row, alive in enumerate(live):
            _check_padding(row, alive)
        return cls(tuple(row.nonzero()[:, 0] for row in live), width)

    @cached_property
    def padded(self) -> bool:
        """Whether any sample is shorter than the tensors."""
        return any(len(s) < self.width for s in self.source)

    def without(self, last: int) -> Stream:
        """The stream that lacks the last so many positions, which are alive in every sample."""
        return (
            self
            if last == 0
            else Stream(tuple(s[: len(s) - last] for s in self.source), self.width - last)
        )

    def start(self, sample: int) -> int:
        """The first column of a sample."""
        return self.width - len(self.source[sample])

    def valid(self, device: torch.device) -> Tensor:
        """[B, width] bool: columns that are no padding."""
        starts = torch.tensor([self.start(b) for b in range(len(self.source))])
        return (torch.arange(self.width) >= starts[:, None]).to(device)

    def narrowed(self, source: list[Tensor]) -> Stream:
        """The stream of the survivors `source`, as narrow as its longest sample."""
        return Stream(tuple(source), max(len(s) for s in source))

    def columns(self, to: Stream, device: torch.device) -> Tensor:
        """[B, to.width] for every column of the narrower stream `to` its column here; padding
        repeats the first live one.
        """
        index = torch.zeros(len(to.source), to.width, dtype=torch.int64)
        for b, (old, new) in enumerate(zip(self.source, to.source, strict=True)):
            places = torch.searchsorted(old, new) + self.start(b)
            index[b] = self.start(b)
            index[b, to.start(b) :] = places
        return index.to(device)


def _check_padding(row: int, alive: Tensor) -> None:
    """Raise EngineError unless `alive` [S] is padding on the left and tokens behind it."""
    if not bool(alive.any()):
        raise EngineError(f"attention_mask hides all of sample {row}; every sample needs a token")
    holes = (alive[:-1] & ~alive[1:]).nonzero()[:, 0]
    if not len(holes):
        return
    if bool(alive[-1]):
        raise EngineError(
            f"attention_mask hides position {int(holes[0]) + 1} in the middle of sample {row}; "
            "only padding on the left can be hidden: leave such tokens out of the prompt"
        )
    raise EngineError(
        "the prompt is padded on the right; set processor.tokenizer.padding_side = 'left'"
    )


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Columns `index` [B, n] of position-like `values` [..., B or 1, S]."""
    values = values.expand(*values.shape[:-2], index.shape[0], values.shape[-1])
    return values.gather(-1, index.expand(*values.shape[:-1], index.shape[1]))


def closed_up(ids: Tensor, stream: Stream) -> Tensor:
    """Position ids [B, n] or [axes, B, n] with unused values closed up: "compact" positions.

    1-D ids become consecutive. On M-RoPE's axes a value goes when no live token uses it on any
    axis, so rows and columns keep their order and text stays behind the image. A fourth leading row
    holds plain text positions, ranked by itself.
    """
    if ids.ndim == 3 and ids.shape[0] == 4:
        return torch.cat([closed_up(ids[0], stream)[None], closed_up(ids[1:], stream)])
    result = ids.clone()
    for b in range(len(stream.source)):
        live = ids[..., b, stream.start(b) :]
        values = torch.unique(live)
        result[..., b, stream.start(b) :] = (
            torch.searchsorted(values, live.contiguous()) + values[0]
        )
    return result


def attention_mask(
    stream: Stream, queries: int, fresh: int, implementation: str, like: Tensor
) -> Tensor | None:
    """The mask a layer's kernel needs for `queries` rows over the stream's columns and `fresh`
    decoded ones behind them.

    None wherever the kernel's own causal rule says the same. `like` gives device and dtype.
    """
    if "flash" in implementation:
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        return _keys(stream, fresh, like.device).long() if stream.padded or queries > 1 else None
    # without a mask sdpa lets the first query see the first key alone: right only where there is
    # nothing before it
    causal = implementation == "sdpa" and queries == stream.width + fresh
    if not stream.padded and (causal or queries == 1):
        return None
    keys = _keys(stream, fresh, like.device)
    total = keys.shape[1]
    place = torch.arange(total, device=like.device)
    rows = place[total - queries :, None]
    # a padding row sees itself: a row that sees nothing is NaN, and NaN spreads through the values
    visible = (place <= rows) & keys[:, None, :] | (place == rows)
    mask = visible[:, None]
    if implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
        ~mask, torch.finfo(like.dtype).min
    )


def _keys(stream: Stream, fresh: int, device: torch.device) -> Tensor:
    valid = stream.valid(device)
    return torch.cat([valid, valid.new_ones(valid.shape[0], fresh)], dim=1)
