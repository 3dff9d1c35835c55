"""PruMerge (ICCV 2025): keep the tokens whose attention stands out, add to each those most like it,
and sum up the rest in one token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Pruner,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    check_attention,
    quotas,
    register,
    require_finite,
    tile_places,
    top,
    with_newlines,
)

VARIANT = (
    "rows are merged behind the projector, and go on in reading order, unless order=given; the "
    "summary counts in the budget and stands where the most attended of the dropped stood; a "
    "budget of one is a token without summary; every tile has its own; unpadding and newlines are "
    "the model's"
)


@register(
    paper="https://arxiv.org/abs/2403.15388",
    code="https://github.com/42Shawn/LLaVA-PruMerge",
    variant=VARIANT,
)
@dataclass(frozen=True)
class PruMerge(Pruner):
    """Per tile keep the patches of highest attention a; a survivor becomes x_i plus the sum of
    a_j x_j over its nearest `neighbours`, and one row more is that sum over all that are dropped.

    The attention is that of the encoder's last block as one head of full width: the softmax over
    CLS and patches of the CLS query times the keys. Nearest is by cosine of those keys, survivors
    included. Sums, not means: as official code has them, which merges ahead of the projector.

    Settings:

    - `neighbours`: how many join a survivor;
    - `adaptive`: keep as many as lie above the third quartile by more than 1.5 times the distance
      of the quartiles, as the paper does, and a budget caps it; else keep what the budget says;
    - `order`: "given" hands tokens on by descending attention and a tile's summary behind them, as
      official code does; "raster" in reading order;
    - `attention`: "cls", "received" (what patches receive from all queries, over all heads), or
      "auto", the first where the encoder has a CLS token.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.055
    neighbours: int = 32
    adaptive: bool = False
    order: Literal["raster", "given"] = "raster"
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.neighbours < 0:
            raise ValueError(f"neighbours is {self.neighbours}; it is 0 or more")
        if self.order not in ("raster", "given"):
            raise ValueError(f"order is {self.order!r}; it is 'raster' or 'given'")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.adaptive

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        if self.attention != "auto":
            return {}
        return dict.fromkeys((Signal.CLS_QUERIES, Signal.CLS_KEYS), Signal.RECEIVED_ATTENTION)

    @property
    def reads(self) -> Reads:
        of_cls = {Signal.CLS_QUERIES, Signal.CLS_KEYS}
        scoring = {Signal.RECEIVED_ATTENTION} if self.attention == "received" else of_cls
        signals = frozenset({*scoring, Signal.ENCODER_KEYS})
        return Reads(signals, blocks=dict.fromkeys(signals, (-1,)))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Tile after tile, its survivors in order and its summary; raises ValueError for keys or
        features that are not finite.
        """
        require_finite(tokens.encoder_keys, "encoder keys")
        require_finite(tokens.features, "features")
        attention = self.score(tokens)
        features, weighted = tokens.features.float(), attention[:, None] * tokens.features.float()
        index = [torch.empty(0, dtype=torch.int64, device=features.device)]
        merged = [features[:0]]
        for places, picks, summary in self.picks(tokens, attention, stage.keep):
            joining = self.joining(tokens, places, picks)
            merged.append(features[picks] + joining @ weighted[places])
            is_dropped = ~torch.isin(places, picks)
            merged.append(weighted[places[is_dropped]].sum(0, keepdim=True)[: len(summary)])
            index += [picks, summary]
        kept = torch.cat(index)
        if not self.adaptive:
            kept = with_newlines(tokens, kept, stage.keep)
        merged.append(features[kept[sum(map(len, index)) :]])
        return Keep(kept, torch.cat(merged).to(tokens.features.dtype), order=self.order)

    def picks(
        self, tokens: VisualTokens, attention: Tensor, count: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of every tile that keeps something: its places, those of its survivors in order, and [0]
        or [1] the place of its summary.
        """
        tiles = tile_places(tokens, newlines=False)
        parts = []
        for places, quota in zip(tiles, quotas(tiles, count), strict=True):
            if quota == 0:
                continue
            own = attention[places]
            rows = quota
            if self.adaptive:
                rows = min(quota, self.outliers(own))
            has_summary = rows < len(places) and (rows > 1 or rows < quota)
            if has_summary and rows == quota:
                rows -= 1
            chosen_rows = self.survivors(own, rows)
            is_dropped = torch.ones_like(own, dtype=torch.bool).index_fill(0, chosen_rows, False)
            dropped = places[is_dropped]
            first = dropped[top(attention[dropped], int(has_summary))]
            parts.append((places, places[chosen_rows], first))
        return parts

    def survivors(self, attention: Tensor, count: int) -> Tensor:
        """[count] places in a tile with attention [n], in order."""
        return top(attention, count)

    def outliers(self, attention: Tensor) -> int:
        """How many tokens stand out, one at least; rounded by way of their share, as official code
        does.
        """
        quartiles = attention.quantile(torch.tensor([0.25, 0.75]).to(attention))
        fence = quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
        share = int((attention > fence).sum()) / len(attention)
        return max(1, int(len(attention) * share))

    def joining(self, tokens: VisualTokens, places: Tensor, picks: Tensor) -> Tensor:
        """[k, n] 1 for the neighbours, among a tile's n places, of each of its k survivors."""
        keys = tokens.encoder_keys[0].float().transpose(0, 1).flatten(1)  # [N, H * d_h]
        cosines = normalize(keys[picks], dim=-1) @ normalize(keys[places], dim=-1).T
        cosines = cosines.masked_fill(picks[:, None] == places, -torch.inf)
        count = min(self.neighbours, len(places) - 1)
        nearest = cosines.sort(descending=True, stable=True).indices[:, :count]
        return torch.zeros_like(cosines).scatter(1, nearest, 1.0)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] a; 0 for newlines."""
        if Signal.RECEIVED_ATTENTION in tokens.signals:
            return tokens.received_attention[0].float().mean(0).to(tokens.features.device)
        keys = tokens.encoder_keys[0].double()
        queries, own = tokens.cls_queries[0].double(), tokens.cls_keys[0].double()
        scale = (keys.shape[0] * keys.shape[2]) ** -0.5
        scores = torch.zeros_like(keys[0, :, 0])
        for number, places in enumerate(tile_places(tokens, newlines=False)):
            if not len(places):
                continue
            query = queries[:, number]  # [H, d_h]
            rows = torch.cat([own[:, number : number + 1], keys[:, places]], dim=1)
            logits = (rows @ query[:, :, None])[..., 0].sum(0) * scale
            scores[places] = logits.softmax(0)[1:]
        return scores.float()

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Attention, and the places of all tiles' survivors and summaries."""
        attention = self.score(tokens)
        parts = self.picks(tokens, attention, stage.keep)
        return {
            "cls_attention": attention[None, None],
            "order": torch.cat([picks for _, picks, _ in parts]),
            "summary": torch.cat([summary for _, _, summary in parts]),
        }
