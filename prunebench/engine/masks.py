"""Masks: what an attention kernel needs to be told of a thinned sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.engine.stream import Stream, sent


@dataclass(frozen=True)
class Sight:
    """What a layer's queries see besides what stands before them, or do not see of it.

    `window`: a query sees positions less than so far back, counted in the prompt as it came,
    whatever was dropped since. `together` [S] are, per sample and on the CPU, numbers of groups
    that see each other in whatever order, -1 for positions in none; None where there are none.
    """

    window: int | None = None
    together: Sequence[Tensor] | None = None

    def within(self, stream: Stream, queries: int, fresh: int) -> Sight:
        """What of this the kernel's own causal rule does not say, for the last `queries` rows of a
        stream with `fresh` tokens behind it.
        """
        window = self.window
        if window is not None:
            spans = [end_of(source) - int(source.min()) + fresh for source in stream.source]
            window = window if max(spans) > window else None
        # the prompt's groups are no matter between tokens behind it
        together = self.together if queries > fresh else None
        return PLAIN if window is None and together is None else Sight(window, together)


PLAIN = Sight()
"""All that stands before a query and nothing else."""


@dataclass(frozen=True, eq=False)
class Extra:
    """What is said of single pairs of query and key.

    `pairs` [B, n, n] is added to the scores of all pairs of a stream's n columns, which must be the
    queries, too; `unseen` [B, n] bool are columns that no query sees.
    """

    pairs: Tensor | None = None
    unseen: Tensor | None = None


NOTHING_EXTRA = Extra()
"""Nothing is said of any pair."""


def attention_mask(
    stream: Stream,
    queries: int,
    fresh: int,
    kernel: str,
    like: Tensor,
    sight: Sight = PLAIN,
    extra: Extra = NOTHING_EXTRA,
) -> Tensor | None:
    """The mask a layer's kernel needs for the last `queries` rows of a sequence.

    The sequence is the stream's columns and `fresh` tokens behind them. None wherever the kernel's
    own causal rule says the same. `like` gives device and dtype.
    """
    if "flash" in kernel:
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        needed = stream.padded or queries > 1
        return visible_keys(stream, fresh, like.device).long() if needed else None
    special = sight.within(stream, queries, fresh)
    # without a mask sdpa lets the first query see the first key alone: right only where there is
    # nothing before it
    causal = kernel == "sdpa" and queries == stream.width + fresh
    plain = not stream.padded and stream.bias is None and special is PLAIN
    if plain and extra is NOTHING_EXTRA and (causal or queries == 1):
        return None
    return full_mask(stream, queries, fresh, kernel, like, special, extra)


def full_mask(
    stream: Stream,
    queries: int,
    fresh: int,
    kernel: str,
    like: Tensor,
    sight: Sight = PLAIN,
    extra: Extra = NOTHING_EXTRA,
) -> Tensor:
    """[B, 1, queries, width + fresh] the same, written out.

    Boolean for sdpa, additive for eager and wherever scores have a bias, which sdpa takes as well.
    """
    keys = visible_keys(stream, fresh, like.device)
    if extra.unseen is not None:
        keys = keys & ~torch.nn.functional.pad(extra.unseen, (0, fresh))
    total = keys.shape[1]
    place = torch.arange(total, device=like.device)
    # [queries, 1]: the queries are the last places of the sequence
    rows = place[total - queries :, None]
    reached = place <= rows
    if sight.together is not None:
        groups = sent(along(stream, sight.together, fresh, -1), like.device)
        of_query = groups[:, total - queries :, None]
        reached = reached | (of_query == groups[:, None]) & (of_query >= 0)
    if sight.window is not None:
        positions = [torch.arange(end_of(source) + fresh) for source in stream.source]
        places = sent(along(stream, positions, fresh, 0), like.device)
        reached = reached & (places[:, total - queries :, None] - places[:, None] < sight.window)
    # a padding row sees itself: a row that sees nothing is NaN, and NaN spreads through the values
    visible = reached & keys[:, None, :] | (place == rows)
    if stream.bias is None and extra.pairs is None and kernel == "sdpa":
        return visible[:, None]
    scores = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
    if stream.bias is not None:
        scores[..., : stream.width] += stream.key_bias(like.device)[:, None].to(like.dtype)
    if extra.pairs is not None:
        scores += extra.pairs.to(scores)
    return scores.masked_fill(~visible, torch.finfo(like.dtype).min)[:, None]


def masks_by_kind(
    stream: Stream,
    sights: Mapping[str, Sight],
    kernel: str,
    like: Tensor,
    extra: Extra = NOTHING_EXTRA,
) -> dict[str, Tensor | None]:
    """The masks of all rows of a stream, by kind of layer."""
    masks: dict[str, Tensor | None] = {}
    # most windows reach over the whole prompt, and then layers that see alike share one mask
    shared: dict[tuple[int | None, bool], Tensor | None] = {}
    for kind, sight in sights.items():
        special = sight.within(stream, stream.width, 0)
        # a batch has one way of grouping positions
        look = special.window, special.together is not None
        if look not in shared:
            shared[look] = attention_mask(stream, stream.width, 0, kernel, like, special, extra)
        masks[kind] = shared[look]
    return masks


def sees_specially(stream: Stream, sights: Mapping[str, Sight]) -> bool:
    """Whether any layer sees more or less of a stream than a causal rule over its columns."""
    return any(sight.within(stream, stream.width, 0) is not PLAIN for sight in sights.values())


def visible_keys(stream: Stream, fresh: int, device: torch.device) -> Tensor:
    """[B, width + fresh] bool: columns that are no padding."""
    valid = stream.valid(device)
    return torch.cat([valid, valid.new_ones(valid.shape[0], fresh)], dim=1)


def along(stream: Stream, values: Sequence[Tensor], fresh: int, else_: int) -> Tensor:
    """[B, width + fresh] int64 on the CPU: for every column what `values` says of its position in
    the prompt, `else_` for padding; tokens behind the prompt count on where values do.
    """
    columns = torch.full((len(stream.source), stream.width + fresh), else_, dtype=torch.int64)
    for row, (source, value) in enumerate(zip(stream.source, values, strict=True)):
        columns[row, stream.start(row) : stream.width] = value[source]
        behind = value[end_of(source) :][:fresh]
        columns[row, stream.width : stream.width + len(behind)] = behind
    return columns


def end_of(source: Tensor) -> int:
    """The first position behind a prompt, whose last position is always alive."""
    return int(source[-1]) + 1
