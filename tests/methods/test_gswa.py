"""GSWA: tile weights by hand, both forms, the read-out, what training minimises, and the scorers
that it carries.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Example,
    Facts,
    Layout,
    Pruner,
    Signal,
    Stage,
    Tile,
    Trained,
    Unsupported,
    VisualTokens,
    in_regions,
    llm,
    prune,
    registry,
)
from prunebench.testing import check_pruner, tokens

WIDTH = 12
FACTS = Facts(
    "nowhere",
    layers=8,
    width=16,
    heads=4,
    eps=1e-6,
    vision_blocks=8,
    vision_width=WIDTH,
    feature_block=7,
)


def gswa(**settings: Any) -> Trained:
    found = registry.build("gswa", settings)
    assert isinstance(found, Trained)
    return found


def sample(tiles: list[Tile], cls: Any, scores: Any = None) -> VisualTokens:
    """Tokens with [1, 1, N] CLS attention and a CLS token a tile."""
    layout = Layout(tuple(tiles))
    shown = torch.arange(len(layout)).float() if scores is None else torch.tensor(scores)
    signals = {
        Signal.CLS_ATTENTION: shown[None, None],
        Signal.CLS_FEATURES: torch.as_tensor(cls, dtype=torch.float32)[None],
    }
    return VisualTokens(
        torch.zeros(len(layout), 1), layout, torch.arange(len(layout)), signals=signals
    )


def image(crops: int, side: int = 2, number: int = 0) -> list[Tile]:
    kinds = ["thumbnail", *["crop"] * crops]
    return [Tile(side, side, kind, number) for kind in kinds]


def kept(pruner: Pruner, sample: VisualTokens, keep: int) -> list[int]:
    return sorted(pruner.prune(sample, Stage(INPUT, keep)).index.tolist())


def counts(pruner: Pruner, sample: VisualTokens, keep: int) -> list[int]:
    tile = sample.layout.tile[kept(pruner, sample, keep)]
    return torch.bincount(tile, minlength=len(sample.tiles)).tolist()


# ---- the form without weights --------------------------------------------------------------------


def test_crops_near_the_thumbnail_get_more() -> None:
    # cosines 1, 0 and 0: softmaxes at a temperature of 1 / ln 2 are 1/2, 1/4, 1/4, so parts 1 : 1.5
    # : 0.75 : 0.75
    pruner = gswa(weights="none", temperature=1 / 0.6931471805599453)
    tokens_of = sample(image(3, side=3), [[2, 0], [5, 0], [0, 1], [0, 7]])
    parts = pruner.explain(tokens_of, Stage(INPUT, 16))["tile_parts"]
    torch.testing.assert_close(parts, torch.tensor([1, 1.5, 0.75, 0.75]))
    assert counts(pruner, tokens_of, 16) == [4, 6, 3, 3]
    # inside a tile the scorer chooses: the last of each
    assert kept(pruner, tokens_of, 16) == [5, 6, 7, 8, *range(12, 18), 24, 25, 26, 33, 34, 35]


def test_what_a_crop_cannot_hold_goes_to_the_others() -> None:
    pruner = gswa(weights="none", temperature=0.01)
    tokens_of = sample(image(3), [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert counts(pruner, tokens_of, 4) == [1, 3, 0, 0]
    # 12 tokens are 3 for the thumbnail and 9 for a crop of 4: first the thumbnail takes what is
    # left, then the others
    assert counts(pruner, tokens_of, 12) == [4, 4, 2, 2]
    assert counts(pruner, tokens_of, 16) == [4, 4, 4, 4]


def test_every_budget_is_met() -> None:
    draw = torch.Generator().manual_seed(0)
    tiles = [
        *image(3, side=3),
        Tile(2, 5, "crop", 1),
        Tile(2, 5, "thumbnail", 1),
        Tile(4, 1, "image", 2),
    ]
    tokens_of = sample(tiles, torch.randn(7, 5, generator=draw))
    for keep in range(1, len(tokens_of) + 1):
        assert len(kept(gswa(weights="none"), tokens_of, keep)) == keep


def test_images_share_by_tiles_and_thumbnails_may_come_last() -> None:
    pruner = gswa(weights="none", temperature=0.1)
    cls = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    first = sample(image(3), cls)
    turned = [*image(3)[1:], image(3)[0]]
    last = sample(turned, cls[[1, 2, 3, 0]])
    parts = pruner.explain(first, Stage(INPUT, 8))["tile_parts"]
    assert float(parts.mean()) == pytest.approx(1.0)
    torch.testing.assert_close(
        pruner.explain(last, Stage(INPUT, 8))["tile_parts"], parts[[1, 2, 3, 0]]
    )
    both = sample(
        [*image(3), *image(3, number=1), Tile(2, 2, "image", 2)],
        torch.cat([cls, cls.flip(0), cls[:1]]),
    )
    told = pruner.explain(both, Stage(INPUT, 8))["tile_parts"]
    torch.testing.assert_close(told[:4], parts)
    assert float(told[4:8].mean()) == pytest.approx(1.0)
    assert float(told[8]) == 1.0


def test_without_weights_for_the_model_it_takes_none(tmp_path: Path) -> None:
    free = gswa().prepared(FACTS)
    assert free.module is None
    tokens_of = tokens(tiles=4, needs=free.needs)
    assert kept(free, tokens_of, 20) == kept(gswa(weights="none"), tokens_of, 20)
    assert gswa(weights="none").prepared(FACTS).module is None
    with pytest.raises(Unsupported, match="cannot be read"):
        gswa(weights=str(tmp_path)).prepared(FACTS)


# ---- the trained form ----------------------------------------------------------------------------


def test_weights_are_a_distribution_over_the_crops() -> None:
    pruner = gswa(weights="random").prepared(FACTS)
    for crops in (1, 2, 5):
        weights = pruner.module(torch.randn(1 + crops, WIDTH))  # type: ignore[misc]
        assert weights.shape == (crops,)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-6)
        assert (weights > 0).all()


def test_the_order_of_crops_does_not_matter() -> None:
    module: Any = gswa(weights="random").prepared(FACTS).module
    cls = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([0, 3, 1, 4, 2])
    torch.testing.assert_close(module(cls[turn]), module(cls)[turn[1:] - 1])


def test_read_out_is_what_the_thumbnail_pays() -> None:
    """Without blocks, from the definition: softmax over all tiles, mean over heads, then over the
    crops.
    """
    method = type(gswa())
    module: Any = method.build(
        {"vision_width": 8, "channels": 8, "blocks": 0, "attention_heads": 2}
    )
    cls = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    hidden = module.norm(module.enter(cls))
    paid = torch.zeros(3)
    for head in (slice(0, 4), slice(4, 8)):
        query, key = module.query(hidden)[0, head], module.key(hidden)[:, head]
        paid += (key @ query / 4**0.5).softmax(0)[1:] / 2
    torch.testing.assert_close(module(cls), paid / paid.sum())


def test_crops_see_each_other() -> None:
    """With one head the read-out alone would leave the ratio of two crops as it is, whatever the
    third shows.
    """
    cls = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    other = torch.cat([cls[:3], -cls[3:]])
    for blocks, alike in ((0, True), (1, False)):
        sizes = {"vision_width": 8, "channels": 8, "blocks": blocks, "attention_heads": 1}
        module: Any = type(gswa()).build(sizes)
        before, after = (module(one)[0] / module(one)[1] for one in (cls, other))
        assert bool((before - after).abs() < 1e-5) == alike


def test_sizes_follow_the_encoder() -> None:
    method = type(gswa())
    assert method.sizes(replace(FACTS, vision_width=1024))["channels"] == 256
    assert method.sizes(replace(FACTS, vision_width=30))["channels"] == 28
    with pytest.raises(Unsupported, match="bare decoder"):
        method.sizes(replace(FACTS, vision_width=None))


def test_weights_are_written_and_read(tmp_path: Path) -> None:
    drawn = gswa(weights="random").prepared(FACTS)
    assert drawn.module is not None
    type(drawn).write(tmp_path, type(drawn).sizes(FACTS), drawn.module, {"steps": 0})
    read = gswa(weights=str(tmp_path)).prepared(FACTS)
    tokens_of = tokens(tiles=4, needs=read.needs)
    assert kept(read, tokens_of, 20) == kept(drawn, tokens_of, 20)
    with pytest.raises(Unsupported, match="vision_width 12; this one's is 16"):
        gswa(weights=str(tmp_path)).prepared(replace(FACTS, vision_width=16))


def student(seed: int = 0) -> Trained:
    method = type(gswa())
    torch.manual_seed(seed)
    return replace(gswa(), module=method.build(method.sizes(FACTS)).train())


def example(cls: torch.Tensor, evidence: dict[int, int]) -> Example:
    """One image of a thumbnail and crops of 2x2; so many tokens of each tile show the evidence."""
    tokens_of = sample(image(len(cls) - 1), cls)
    target = torch.zeros(len(tokens_of))
    for tile, count in evidence.items():
        target[4 * tile : 4 * tile + count] = 1.0
    return Example(tokens_of, target)


def test_loss_is_cross_entropy_with_where_the_evidence_lies() -> None:
    pruner, cls = student(), torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    loss, figures = pruner.loss(example(cls, {0: 4, 1: 3, 3: 1}))
    weights = pruner.module(cls).detach()  # type: ignore[misc]
    wanted = -(0.75 * weights[0].log() + 0.25 * weights[2].log())
    assert float(loss.detach()) == pytest.approx(float(wanted), abs=1e-5)
    assert figures["tile_loss"] == pytest.approx(float(loss.detach()))
    assert figures["even"] == pytest.approx(float(torch.tensor(3.0).log()))
    assert figures["hit"] == float(weights.argmax() == 0)
    loss.backward()
    assert pruner.module is not None
    assert all(weight.grad is not None for weight in pruner.module.parameters())


@pytest.mark.parametrize("evidence", [{}, {0: 4}])
def test_nothing_to_learn_is_no_loss_but_can_be_differentiated(evidence: dict[int, int]) -> None:
    pruner = student()
    loss, figures = pruner.loss(example(torch.randn(3, WIDTH), evidence))
    assert float(loss.detach()) == 0.0
    assert figures == {}
    loss.backward()
    assert pruner.module is not None
    assert all(
        weight.grad is None or not weight.grad.any() for weight in pruner.module.parameters()
    )


def test_it_learns() -> None:
    """Evidence lies in the crop whose CLS token points along the first axis; unseen images show
    that it was understood.
    """
    draw = torch.Generator().manual_seed(0)

    def drawn() -> Example:
        cls, crop = (
            torch.randn(5, WIDTH, generator=draw),
            int(torch.randint(1, 5, (1,), generator=draw)),
        )
        cls[crop, 0] += 4.0
        return example(cls, {crop: 2})

    pruner = student()
    assert pruner.module is not None
    optimizer = torch.optim.AdamW(pruner.module.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.stack([pruner.loss(drawn())[0] for _ in range(4)]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        figures = [pruner.loss(drawn())[1] for _ in range(50)]
    assert sum(one["tile_loss"] for one in figures) / 50 < 0.7 < 1.3 < figures[0]["even"]
    assert sum(one["hit"] for one in figures) / 50 > 0.7


# ---- scorers -------------------------------------------------------------------------------------


def test_takes_the_scorers_signals_site_and_stages() -> None:
    own = {Signal.CLS_FEATURES}
    assert gswa().needs == {*own, Signal.CLS_ATTENTION}
    fastv = gswa(weights="none", scorer="fastv")
    assert fastv.needs == {*own, Signal.LAST_QUERY_ATTENTION}
    assert fastv.site() == llm(2)
    with_hero = gswa(weights="none", scorer="hero").prepared(FACTS)
    assert with_hero.reads.blocks[Signal.CLS_ATTENTION] == (2, 3, 5, 6)
    assert with_hero.reads.blocks[Signal.CLS_FEATURES] == (-1,)
    stages = gswa(weights="none", scorer="pyramiddrop").plan(None, 64, 8)
    assert [stage.keep for stage in stages] == [32, 16, 8]


@pytest.mark.parametrize(
    "settings",
    [{"scorer": "divprune"}, {"scorer": "gswa"}, {"scorer": "nobody"}, {"temperature": 0.0}],
)
def test_refuses_settings_without_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(registry.RegistryError):
        gswa(**settings)


@pytest.mark.parametrize(
    "settings", [{"weights": "none"}, {"weights": "none", "scorer": "pyramiddrop"}]
)
def test_conforms(settings: dict[str, Any]) -> None:
    assert [check for check in check_pruner(gswa(**settings)) if not check.ok] == []


# ---- in a model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"weights": "none"}, {"weights": "random"}, {"weights": "none", "scorer": "fastv"}]
)
def test_prunes_in_llava_next(settings: dict[str, Any]) -> None:
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from prunebench.testbed import model_path

    folder = model_path("tiny-llava-next")
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    noise = torch.randint(
        0, 256, (140, 224, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    parts = [{"type": "image"}, {"type": "text", "text": "color of 5"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    inputs = processor(text=[text], images=[Image.fromarray(noise.numpy())], return_tensors="pt")
    with prune(model, gswa(**settings), 0.5) as trace:
        model.generate(**inputs, max_new_tokens=1)
    for stage in trace.samples[0].stages:
        assert len(trace.samples[0].kept[stage.site]) == stage.keep


# ---- models without a CLS token or crops ---------------------------------------------------------


def regions_of_four(**settings: Any) -> tuple[Any, VisualTokens]:
    """GSWA made ready for a model without crops, and 4 x 4 tokens whose upper left part is unlike
    the others.
    """
    pruner = gswa(**settings).prepared(replace(FACTS, tiled=False))
    features = torch.tensor([[1.0, 0.0]]).repeat(16, 1)
    features[[0, 1, 4, 5]] = torch.tensor([0.0, 1.0])
    signals = {
        Signal.RECEIVED_ATTENTION: torch.arange(16.0)[None, None],
        Signal.ENCODER_FEATURES: features[None],
    }
    layout = Layout((Tile(4, 4),))
    return pruner, VisualTokens(torch.zeros(16, 1), layout, torch.arange(16), signals=signals)


def test_regions_share_the_budget_and_their_mean_gets_nothing() -> None:
    pruner, tokens_of = regions_of_four(weights="none", temperature=1.0)
    # the mean points to (3, 1): cosines 1 and 3, by the root of ten
    weights = (torch.tensor([1.0, 3.0, 3.0, 3.0]) / 10**0.5).softmax(0)
    parts = pruner.explain(tokens_of, Stage(INPUT, 8))["tile_parts"]
    torch.testing.assert_close(parts, 16 * weights)
    # 1.18 and 2.27 of 8, and what is left to the first of the largest remainders
    assert kept(pruner, tokens_of, 8) == [3, 5, 6, 7, 12, 13, 14, 15]
    for keep in range(1, 17):
        assert len(kept(pruner, tokens_of, keep)) == keep


def test_images_in_regions_share_by_size() -> None:
    pruner, _ = regions_of_four(weights="none")
    layout = Layout((Tile(4, 4), Tile(2, 4, image=1), Tile(1, 1, image=2)))
    signals = {
        Signal.RECEIVED_ATTENTION: torch.arange(25.0)[None, None],
        Signal.ENCODER_FEATURES: torch.ones(1, 25, 3),
    }
    both = VisualTokens(torch.zeros(25, 1), layout, torch.arange(25), signals=signals)
    assert counts(pruner, both, 12) == [8, 4, 0]


def test_says_what_stands_in_and_forwards_what_its_scorer_says() -> None:
    plain = gswa(weights="none")
    assert plain.stand_ins == {
        Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION,
        Signal.CLS_FEATURES: Signal.ENCODER_FEATURES,
    }
    assert gswa(weights="none", attention="cls", scorer="fastv").stand_ins == {}
    hero = gswa(weights="none", scorer="hero").prepared(replace(FACTS, tiled=False))
    assert hero.stand_ins[Signal.CLIP_TILES] is None
    assert hero.port.count("equal parts of the picture") == 1
    assert plain.prepared(replace(FACTS, tiled=True)).port == ""


def test_the_allocator_compares_regions_with_their_mean() -> None:
    """Trained as on crops: the loss is that of the weights on regions."""
    pruner, tokens_of = regions_of_four(weights="none")
    module: Any = type(pruner).build({**type(pruner).sizes(FACTS), "vision_width": 2})
    trained = replace(pruner, module=module)
    target = torch.zeros(16)
    target[15] = 1.0
    loss, figures = trained.loss(Example(tokens_of, target))
    weights = trained.parts(in_regions(tokens_of, 2)) / 16
    torch.testing.assert_close(loss, -weights[3].log())
    assert figures["even"] == pytest.approx(log(4))
