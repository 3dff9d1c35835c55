"""PTP: known answers for the fused score and the tile budgets, and runs in real models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import picture
from torch import Tensor

from prunebench import (
    Budget,
    BudgetError,
    Layout,
    Signal,
    Stage,
    Tile,
    Unsupported,
    VisualTokens,
    llm,
    prune,
    registry,
)
from prunebench.testing import check_pruner, tokens
from prunebench.testing.samples import facts

build = cache(families.build)


def sample(
    salient: Sequence[float] | Tensor,
    asked: Sequence[Any] | Tensor,
    *tiles: Tile,
    summaries: Tensor | None = None,
    seen: Signal = Signal.CLS_ATTENTION,
) -> VisualTokens:
    """Tokens of which the encoder and one text token (or several) make that much; one head, one
    block.
    """
    layout = Layout(tiles or (Tile(1, len(salient)),))
    paid = torch.as_tensor(asked, dtype=torch.float32).view(1, -1, len(layout))
    signals = {
        seen: torch.as_tensor(salient, dtype=torch.float32).view(1, 1, -1),
        Signal.TEXT_ATTENTION: paid,
    }
    if seen is Signal.CLS_ATTENTION:
        signals[Signal.CLS_FEATURES] = (
            torch.ones(len(layout.tiles), 2) if summaries is None else summaries
        )[None]
    else:
        signals[Signal.ENCODER_FEATURES] = (
            torch.ones(len(layout), 2) if summaries is None else summaries
        )[None]
    return VisualTokens(
        torch.zeros(len(layout), 1), layout, torch.arange(len(layout)), llm(3), signals=signals
    )


def score(shown: VisualTokens, **settings: Any) -> list[float]:
    pruner: Any = registry.build("ptp", settings)
    return [round(value, 4) for value in pruner.score(shown).tolist()]


def kept(shown: VisualTokens, keep: int, **settings: Any) -> list[int]:
    return registry.build("ptp", settings).prune(shown, Stage(llm(3), keep)).index.tolist()


def counts(shown: VisualTokens, keep: int, **settings: Any) -> list[int]:
    """How many tokens of every tile survive."""
    tile = shown.layout.tile[torch.tensor(kept(shown, keep, **settings))]
    return torch.bincount(tile, minlength=len(shown.tiles)).tolist()


def directions(*degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_the_two_signals_are_scaled_and_averaged() -> None:
    shown = sample([0.1, 0.2, 0.3, 0.5], [0.4, 0.1, 0.2, 0.1])
    # b: 0, 1/4, 1/2, 1; I: 1, 0, 1/3, 0
    assert score(shown) == [0.5, 0.125, 0.4167, 0.5]
    assert score(shown, alpha=0.0) == [0, 0.25, 0.5, 1]
    assert score(shown, alpha=1.0) == [1, 0, 0.3333, 0]
    assert score(shown, alpha=0.25) == [0.25, 0.1875, 0.4583, 0.75]
    assert kept(shown, 3) == [0, 3, 2]


def test_importance_is_the_maximum_over_text_of_the_mean_over_heads() -> None:
    shown = sample([0.1] * 4, [0.0] * 4)
    attention = torch.tensor(
        [[[0.5, 0.2, 0.1, 0.1], [0.0, 0.4, 0.1, 0.1]], [[0.1, 0.2, 0.2, 0.1], [0.0, 0.4, 0.6, 0.1]]]
    )
    shown.signals[Signal.TEXT_ATTENTION] = attention  # type: ignore[index]
    # means 0.3 0.2 0.15 0.1 and 0 0.4 0.35 0.1; maxima 0.3 0.4 0.35 0.1
    assert score(shown, alpha=1.0) == [0.6667, 1, 0.8333, 0]


def test_text_between_images_does_not_ask() -> None:
    tiles = (Tile(1, 2), Tile(1, 2, image=1))
    shown = sample([0.1] * 4, [[0.1, 0.8, 0, 0], [0.2, 0.1, 0.1, 0.2]], *tiles)
    assert score(shown, alpha=1.0) == [1, 0, 0, 1]


def test_what_does_not_vary_says_nothing() -> None:
    assert score(sample([0.2] * 3, [0.1, 0.2, 0.3])) == [0, 0.25, 0.5]
    assert score(sample([0.2] * 3, [0.3] * 3)) == [0, 0, 0]


def test_scaling_is_each_tiles_own() -> None:
    tiles = (Tile(1, 2, "thumbnail"), Tile(1, 2, "crop"))
    assert score(sample([0.1, 0.3, 0.01, 0.02], [0.1, 0.2, 0.5, 0.9], *tiles)) == [0, 1, 0, 1]


@pytest.mark.parametrize("thumbnail", [0, 2])
def test_crops_share_by_likeness_to_the_thumbnail(thumbnail: int) -> None:
    """First, as LLaVA-NeXT has it, or last, as InternVL does."""
    tiles = [Tile(2, 5, "crop"), Tile(2, 5, "crop")]
    tiles.insert(thumbnail, Tile(2, 5, "thumbnail"))
    # cosines 1 and 0.9: shares e^1 / (e^1 + 1) = 0.731 and 0.269 at 0.1
    summaries = torch.stack([directions(0.0)[0], torch.tensor([0.9, 0.19**0.5])]).tolist()
    summaries.insert(thumbnail, [2.0, 0.0])
    shown = sample(torch.rand(30), torch.rand(30), *tiles, summaries=torch.tensor(summaries))
    crops = counts(shown, 15)
    assert crops.pop(thumbnail) == 5
    assert crops == [7, 3]
    # 0.731 of 16 is more than a crop holds: the other gets the rest
    crops = counts(shown, 24)
    assert crops.pop(thumbnail) == 8
    assert crops == [10, 6]
    crops = counts(shown, 15, temperature=1e6)
    assert crops.pop(thumbnail) == 5
    assert crops == [5, 5]
    assert counts(shown, 30) == [10, 10, 10]


def test_crops_are_compared_with_their_own_thumbnail() -> None:
    tiles = [Tile(1, 4, kind, image) for image in (0, 1) for kind in ("thumbnail", "crop", "crop")]
    shown = sample(
        torch.rand(24), torch.rand(24), *tiles, summaries=directions(0, 0, 90, 90, 0, 90)
    )
    assert counts(shown, 12) == [2, 4, 0, 2, 0, 4]


def test_ranking_is_within_a_region() -> None:
    tiles = (Tile(1, 3, "thumbnail"), Tile(1, 3, "crop"), Tile(1, 3, "crop"))
    shown = sample([1, 2, 3, 3, 2, 1, 1, 3, 2], [0] * 9, *tiles, summaries=directions(0, 0, 0))
    assert sorted(kept(shown, 3)) == [2, 3, 7]


def test_crops_that_are_all_padding_get_nothing() -> None:
    tiles = (Tile(1, 4, "thumbnail"), Tile(0, 0, "crop", region=None), Tile(1, 4, "crop"))
    shown = sample(torch.rand(8), torch.rand(8), *tiles, summaries=directions(0, 0, 90))
    assert counts(shown, 4) == [2, 0, 2]


def test_crops_without_a_thumbnail_share_by_size() -> None:
    tiles = (Tile(1, 2, "crop"), Tile(1, 6, "crop"))
    assert counts(sample(torch.rand(8), torch.rand(8), *tiles, summaries=directions(0, 90)), 4) == [
        1,
        3,
    ]


def test_without_crops_it_is_a_plain_ranking() -> None:
    scores = torch.tensor([5.0, 1, 4, 3, 2, 6])
    assert kept(sample(scores, torch.zeros(6), Tile(2, 3)), 3) == [5, 0, 2]
    # a video is one region: each frame is scaled by itself, all are ranked together
    frames = (Tile(1, 3, "frame"), Tile(1, 3, "frame", frame=1))
    assert kept(sample([0.0, 0.9, 1.0, 0.0, 0.1, 1.0], torch.zeros(6), *frames), 3) == [2, 5, 1]


def test_images_share_by_size() -> None:
    tiles = (Tile(2, 4), Tile(1, 4, image=1))
    assert counts(sample(torch.rand(12), torch.rand(12), *tiles), 6) == [4, 2]


def test_newlines_come_last() -> None:
    tile = Tile(2, 2, newlines=True)
    # what text pays a newline is not even looked at, nor does its lack of a patch stretch the scale
    shown = sample([0.4, 0.3, 0.0, 0.5, 0.35, 0.0], [0.1, 0.1, 0.9, 0.1, 0.1, 0.9], tile)
    assert score(shown) == [0.25, 0, 0, 0.5, 0.125, 0]
    assert kept(shown, 4) == [3, 0, 4, 1]
    assert kept(shown, 5) == [3, 0, 4, 1, 2]
    assert sorted(kept(shown, 6)) == list(range(6))


def test_received_attention_stands_in_for_cls() -> None:
    tiles = (Tile(1, 2, "thumbnail"), Tile(1, 4, "crop"), Tile(1, 4, "crop"))
    features = torch.cat(
        [directions(-45, 45), directions(-30, 30, -10, 10), directions(80, 100, 70, 110)]
    )
    shown = sample(
        [0.1, 0.3, *torch.rand(8)],
        torch.rand(10),
        *tiles,
        summaries=features,
        seen=Signal.RECEIVED_ATTENTION,
    )
    # the means of the tiles point to 0, 0 and 90 degrees
    assert counts(shown, 5, attention="received") == [1, 4, 0]
    assert score(shown, attention="received", alpha=0.0)[:2] == [0, 1]


def test_site_and_reach() -> None:
    pruner = registry.build("ptp")
    assert pruner.site() == llm(3)
    assert registry.build("ptp", {"layer": 0}).site() == llm(1)
    # 3 layers of 576 and 29 of k: a mean of 288 keeps 258
    assert [stage.keep for stage in pruner.plan(Budget(0.5), 576, 32)] == [258]
    with pytest.raises(BudgetError, match="out of reach at llm:3"):
        pruner.plan(Budget(32), 576, 32)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention": "none"}, "attention is 'none'"),
        ({"layer": -1}, "layer is -1"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(registry.RegistryError, match=said):
        registry.build("ptp", settings)


def test_conforms_with_received_attention() -> None:
    checks = check_pruner(registry.build("ptp", {"attention": "received"}))
    assert [check for check in checks if not check.ok] == []
    assert "Qwen2.5-VL of" in next(check.message for check in checks if check.name == "in a model")


def test_any_budget_of_tiled_samples_is_met() -> None:
    pruner = registry.build("ptp")
    for seed in range(4):
        shown = tokens(
            rows=3,
            columns=4,
            tiles=2 + seed,
            newlines=seed % 2 == 1,
            needs={*pruner.needs, Signal.TILES},
            seed=seed,
        )
        for keep in range(1, len(shown) + 1):
            index = pruner.prune(shown, Stage(llm(3), keep)).index
            assert len(set(index.tolist())) == len(index) == keep


@pytest.mark.parametrize(
    ("name", "attention"),
    [("internvl", "cls"), ("llava_next", "cls"), ("llava_onevision", "received")],
)
def test_tiles_of_a_real_model(name: str, attention: str) -> None:
    """The thumbnail keeps the share that the image does."""
    family = build(name)
    pruner = registry.build("ptp", {"attention": attention, "layer": 0})
    with prune(family.model, pruner, plan=(Stage(llm(1), 20),)) as trace:
        family.model.generate(
            **family.inputs(([picture(*family.sizes[0])], "color of 5")), max_new_tokens=2
        )
    (row,) = trace.samples
    assert {tile.kind for tile in row.layout.tiles} == {"thumbnail", "crop"}
    assert len(row.kept[llm(1)]) == 20
    patches = torch.bincount(row.layout.tile[~row.layout.newline], minlength=len(row.layout.tiles))
    stay = torch.bincount(row.layout.tile[row.kept[llm(1)]], minlength=len(row.layout.tiles))
    whole = [tile.kind for tile in row.layout.tiles].index("thumbnail")
    assert abs(int(stay[whole]) - 20 * float(patches[whole] / patches.sum())) < 1


def test_an_encoder_without_cls_is_refused_where_one_is_asked_for() -> None:
    with (
        pytest.raises(Unsupported, match="has no CLS token"),
        prune(build("qwen2_5_vl").model, registry.build("ptp", {"attention": "cls"}), 0.75),
    ):
        pass


def test_models_without_crops_have_regions() -> None:
    """Four by four tokens, cut into four: the mean of the upper left part alone is unlike the
    whole's.
    """
    ready: Any = registry.build("ptp").prepared(replace(facts(), tiled=False))
    assert "equal parts of the picture" in ready.port
    summaries = torch.zeros(16, 2)
    summaries[:, 0] = 1.0
    upper_left = torch.tensor([0, 1, 4, 5])
    summaries[upper_left] = torch.tensor([0.0, 1.0])
    signals = {
        Signal.RECEIVED_ATTENTION: torch.rand(1, 1, 16),
        Signal.ENCODER_FEATURES: summaries[None],
        Signal.TEXT_ATTENTION: torch.rand(1, 2, 16),
    }
    shown = VisualTokens(
        torch.zeros(16, 2), Layout((Tile(4, 4),)), torch.arange(16), signals=signals
    )
    kept = ready.prune(shown, Stage(ready.site(), 9)).index
    assert len(kept.unique()) == 9
    assert not set(kept.tolist()) & set(upper_left.tolist())
    whole = replace(ready, cuts=1)
    assert len(whole.prune(shown, Stage(ready.site(), 9)).index.unique()) == 9
    assert whole.port == ""
