"""HERO: budgets and picks by hand, the official vectors with their newlines, unpadding, and what
the budget forces.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from prunebench import (
    INPUT,
    Facts,
    Layout,
    Pruner,
    Signal,
    Stage,
    Tile,
    Unsupported,
    VisualTokens,
    prune,
    registry,
)
from prunebench.testing import check_pruner
from prunebench.testing.translators import load_translator
from prunebench.testing.vectors import Vector
from prunebench.testing.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"
THUMBNAIL = Tile(2, 2, "thumbnail")


def facts(blocks: int) -> Facts:
    return Facts(
        None,
        layers=8,
        width=16,
        heads=4,
        eps=1e-6,
        vision_blocks=blocks,
        vision_width=12,
        feature_block=blocks - 2,
    )


def hero(**settings: Any) -> Pruner:
    """One low block and one high, unless told otherwise."""
    return registry.build("hero", {"low": (0,), "high": (1,), **settings})


def sample(
    tiles: list[Tile], attention: Any, cls: Any, clip: Any = None, places: Tensor | None = None
) -> VisualTokens:
    """Tokens with [2, 1, N] CLS attention of a low block and a high one, and a CLS token a tile."""
    layout = Layout(tuple(tiles), places)
    signals: dict[Signal, Any] = {
        Signal.CLS_ATTENTION: torch.as_tensor(attention, dtype=torch.float32),
        Signal.CLS_FEATURES: torch.as_tensor(cls, dtype=torch.float32)[None],
    }
    if clip is not None:
        signals[Signal.CLIP_TILES] = torch.as_tensor(clip, dtype=torch.float32)
        signals[Signal.CLIP_TEXT] = torch.tensor([[1.0, 0.0]])
    return VisualTokens(
        torch.zeros(len(layout), 1), layout, torch.arange(len(layout)), signals=signals
    )


def kept(pruner: Pruner, tokens: VisualTokens, keep: int) -> list[int]:
    return sorted(pruner.prune(tokens, Stage(INPUT, keep)).index.tolist())


def crops(*names: str) -> list[Tile]:
    return [THUMBNAIL, *(Tile(2, 2, "crop") for _ in names)]


LOW = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1, 0.1, 0.4, 0.2, 0.3]
HIGH = [0.4, 0.1, 0.3, 0.2, 0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1]


def test_low_blocks_rank_crops_and_high_ones_the_thumbnail() -> None:
    # two equal crops: 6 tokens are 2 for the thumbnail (0 and 2 by HIGH) and 4 * 0.5 = 2 for each
    # crop, by LOW;
    # the official 1e-6 keeps a weight of exactly a half just below it, so that floor takes one from
    # each
    tokens = sample(crops("a", "b"), [[LOW], [HIGH]], [[1, 0], [1, 0], [1, 0]])
    assert kept(hero(alpha=1.0), tokens, 6) == [0, 2, 4, 9]
    assert kept(hero(alpha=1.0, fill=True), tokens, 6) == [0, 2, 4, 5, 9, 11]


def test_blocks_are_averaged() -> None:
    # two low blocks and a high one; token 4 leads in the first low block, token 5 in both together
    other = [0.1, 0.2, 0.3, 0.4, 0.1, 0.4, 0.2, 0.1]
    tokens = sample(crops("a"), [[LOW[:8]], [other], [HIGH[:8]]], [[1.0], [1.0]])
    pruner = hero(alpha=1.0, low=(3, 4), high=(6,), fill=True)
    assert kept(pruner, tokens, 2) == [0, 5]
    low = torch.tensor([LOW[4:8], other[4:]]).softmax(-1).mean(0)
    torch.testing.assert_close(pruner.explain(tokens, Stage(INPUT, 2))["scores"][4:], low)


def test_tiles_are_weighed_as_written() -> None:
    # cosines 1 and 0 to the thumbnail, 0 and 1 to the question; the second crop shows half as much
    tiles = [*crops("a"), Tile(1, 2, "crop")]
    tokens = sample(
        tiles, torch.zeros(2, 1, 10), [[2, 0], [1, 0], [0, 3]], clip=[[5, 5], [0, 1], [4, 0]]
    )
    pruner = hero(alpha=0.25, saliency_temperature=1.0, relevance_temperature=0.5)
    told = pruner.explain(tokens, Stage(INPUT, 9))
    likely, sharp = torch.tensor([1.0, 0.0]).softmax(0), torch.tensor([0.0, 2.0]).softmax(0)
    torch.testing.assert_close(told["tile_saliency"], likely)
    torch.testing.assert_close(told["tile_relevance"], sharp)
    torch.testing.assert_close(
        told["tile_density"], torch.tensor([2 / 3, 1 / 3]), atol=1e-5, rtol=0
    )
    wanted = 0.2 * torch.tensor([2 / 3, 1 / 3]) + 0.8 * (0.25 * likely + 0.75 * sharp)
    torch.testing.assert_close(told["tile_weights"], wanted, atol=1e-5, rtol=0)
    # 9 tokens: 3 for the thumbnail, 6 for crops of weights 0.35 and 0.65; the second has room for 2
    # of its 3
    assert [round(weight, 2) for weight in told["tile_weights"].tolist()] == [0.35, 0.65]
    assert told["budgets"].tolist() == [2, 2]
    assert len(kept(pruner, tokens, 9)) == 7
    filled: Any = replace(pruner, fill=True)  # type: ignore[call-arg]
    assert filled.explain(tokens, Stage(INPUT, 9))["budgets"].tolist() == [4, 2]
    assert len(kept(filled, tokens, 9)) == 9


def test_without_clip_relevance_is_left_out() -> None:
    tokens = sample(crops("a", "b"), torch.zeros(2, 1, 12), [[1, 0], [1, 0], [0, 1]])
    told = hero(alpha=1.0, density=0.0, saliency_temperature=1.0).explain(tokens, Stage(INPUT, 6))
    torch.testing.assert_close(told["tile_weights"], torch.tensor([1.0, 0.0]).softmax(0))
    assert hero(alpha=1.0).needs == {Signal.CLS_ATTENTION, Signal.CLS_FEATURES}
    assert hero().needs == hero(alpha=1.0).needs | {Signal.CLIP_TEXT, Signal.CLIP_TILES}


def test_a_second_softmax_lets_no_head_rule() -> None:
    # head 0 pays more in all; after a softmax both heads count alike, so 1 and 2 beat 0
    paid = torch.tensor([[0.09, 0.05, 0.05, 0.0], [0.0, 0.04, 0.045, 0.0]])
    tokens = sample([THUMBNAIL], paid[None].expand(2, -1, -1), [[1.0, 0.0]])
    scores = hero(alpha=1.0).explain(tokens, Stage(INPUT, 2))["scores"]
    torch.testing.assert_close(scores, paid.softmax(-1).mean(0))
    assert float(scores.sum()) == pytest.approx(1.0)


# ---- official vectors ----------------------------------------------------------------------------


def test_agrees_with_official_code() -> None:
    found = verify(GOLDEN, ["hero"])
    assert [one for one in found if not one.agree] == []
    tiles = {f"tile_{name}" for name in ("saliency", "relevance", "density", "weights", "valid")}
    assert {one.field for one in found} == {
        "keep",
        "keep_thumbnail",
        "kept_per_tile",
        "budgets",
        "scores",
        *tiles,
    }


def regions(down: int, across: int, side: int, width: int, height: int) -> list[Any]:
    """What every crop of a padded grid covers of an image in its middle."""
    scale = min(across * side / width, down * side / height)
    shown = width * scale, height * scale

    def edge(step: int, axis: int) -> float:
        whole = (across, down)[axis] * side
        return (step * side - (whole - shown[axis]) / 2) / shown[axis]

    return [
        (edge(x, 0), edge(y, 1), edge(x + 1, 0), edge(y + 1, 1))
        for y in range(down)
        for x in range(across)
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_hands_over_what_official_code_does(number: int) -> None:
    """`output_index`: the thumbnail, then stitched lines, each closed by its newline; newlines are
    counted here.
    """
    with safe_open(GOLDEN / f"hero-{number}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["meta"])
        given = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    down, across = given["tile_grid"].tolist()
    side, size = 24, given["image_size"].tolist()
    tiles = [Tile(side, side, "thumbnail")]
    for crop, region in enumerate(regions(down, across, side, *size)):
        tiles.append(Tile(side, side, "crop", newlines=crop % across == across - 1, region=region))
    places = [[0, row, column] for row in range(side) for column in range(side)]
    for line in range(down * side):
        for column in range(across * side + 1):
            x = min(column // side, across - 1)
            places.append([1 + line // side * across + x, line % side, column - x * side])
    flat = torch.tensor(
        [
            -3 if column == side else tile * side**2 + row * side + column
            for tile, row, column in places
        ]
    )
    paid = given["cls_attention"].permute(1, 2, 0, 3).flatten(2)
    path = GOLDEN / f"hero-{number}.safetensors"
    translator = load_translator("hero")
    assert translator is not None
    (of_vector,) = translator.cases(registry.get("hero"), Vector.read(path))
    pruner, (stage,) = of_vector.pruner, of_vector.stages
    blocks = [
        case["cls_attention_layers"].index(block)
        for block in pruner.reads.blocks[Signal.CLS_ATTENTION]
    ]
    shown = paid[blocks][..., flat.clamp(min=0)].masked_fill(flat < 0, 0.0)
    tokens = sample(
        tiles, shown, given["cls_states"], given["clip_image_embeds"], torch.tensor(places)
    )
    tokens.signals[Signal.CLIP_TEXT] = given["clip_text_embeds"]  # type: ignore[index]
    ends = int((flat < 0).sum())
    assert ends == case["rows_handed_to_llm"] - case["expected_count"]
    assert flat[kept(pruner, tokens, stage.keep + ends)].tolist() == given["output_index"].tolist()


@pytest.mark.parametrize(("down", "across"), [(2, 2), (1, 3), (2, 1)])
def test_unpads_as_official_code_does(down: int, across: int) -> None:
    """Whole lines in the middle, the smaller margin first, where the official code has integers and
    this has regions.
    """
    side = 8
    for width, height in [
        (1200, 900),
        (1000, 300),
        (500, 1000),
        (337, 336),
        (1, 9),
        (640, 479),
        (777, 512),
        (24, 17),
    ]:
        rows, columns = down * side, across * side
        if width * rows > columns * height:
            line = height * columns // width
            first = (rows - line) // 2
            valid = torch.zeros(rows, columns, dtype=torch.bool)
            valid[first : first + line] = True
        else:
            line = width * rows // height
            first = (columns - line) // 2
            valid = torch.zeros(rows, columns, dtype=torch.bool)
            valid[:, first : first + line] = True
        tiles = [
            Tile(side, side, "crop", region=region)
            for region in regions(down, across, side, width, height)
        ]
        tokens = sample(
            [Tile(side, side, "thumbnail"), *tiles],
            torch.zeros(2, 1, (down * across + 1) * side**2),
            [[1.0]],
        )
        seen = registry.get("hero").visible(hero(), tokens)  # type: ignore[attr-defined]
        cut = valid.view(down, side, across, side).transpose(1, 2).reshape(-1)
        assert seen[side**2 :].tolist() == cut.tolist(), (width, height)
        assert seen[: side**2].all()


def test_a_line_that_only_the_model_leaves_is_never_kept() -> None:
    # 2.6 lines of image in the middle of 3: the model keeps all three, the official code the first
    # two
    margin = 0.2 / 2.6
    tiles = [Tile(3, 2, "thumbnail"), Tile(3, 2, "crop", region=(0, -margin, 1, 1 + margin))]
    tokens = sample(
        tiles, torch.rand(2, 1, 12, generator=torch.Generator().manual_seed(0)), [[1.0], [1.0]]
    )
    assert kept(hero(alpha=1.0, fill=True), tokens, 12) == list(range(10))


# ---- budgets -------------------------------------------------------------------------------------


def lined(lines: int = 4, columns: int = 3) -> VisualTokens:
    """A thumbnail and one crop, whose lines end with newlines."""
    tiles = [Tile(2, columns, "thumbnail"), Tile(lines, columns, "crop", newlines=True)]
    count = 2 * columns + lines * (columns + 1)
    return sample(tiles, torch.linspace(0, 1, 2 * count).view(2, 1, count), [[1.0], [1.0]])


def test_newlines_are_kept_and_counted_up_to_half_of_the_budget() -> None:
    tokens = lined()
    ends = tokens.layout.newline.nonzero()[:, 0].tolist()
    for keep, expected in [(22, 4), (8, 4), (7, 3), (5, 2), (2, 1), (1, 0)]:
        found = kept(hero(alpha=1.0, fill=True), tokens, keep)
        assert len(found) == keep
        assert len(set(found) & set(ends)) == expected
    assert set(kept(hero(alpha=1.0), tokens, 4)) & set(ends) == {ends[0], ends[2]}


def test_keeps_at_most_what_is_allowed_and_something() -> None:
    draw = torch.Generator().manual_seed(0)
    tiles = [Tile(4, 4, "thumbnail"), *(Tile(4, 4, "crop", region=(0, 0, 1, 1)) for _ in range(3))]
    tokens = sample(tiles, torch.rand(2, 1, 64, generator=draw), torch.randn(4, 5, generator=draw))
    narrow = sample(
        [THUMBNAIL, Tile(1, 2, "crop")], torch.rand(2, 1, 6, generator=draw), [[1.0], [1.0]]
    )
    assert [len(kept(hero(alpha=1.0), narrow, keep)) for keep in (4, 6)] == [3, 5]
    assert [len(kept(hero(alpha=1.0, fill=True), narrow, keep)) for keep in (4, 6)] == [4, 6]
    for keep in range(1, 65):
        thumbnail = max(1, keep // 4)
        weights = hero(alpha=1.0).explain(tokens, Stage(INPUT, keep))["tile_weights"].double()
        parts = [min(16, int(weight * (keep - thumbnail))) for weight in weights]
        assert len(kept(hero(alpha=1.0), tokens, keep)) == thumbnail + sum(parts) <= keep
        assert len(kept(hero(alpha=1.0, fill=True), tokens, keep)) == keep


def test_images_share_by_size_and_are_pruned_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    paid, cls = torch.rand(2, 1, 24, generator=draw), torch.randn(6, 5, generator=draw)
    one = [THUMBNAIL, *crops("a", "b")[1:]]
    both = sample(
        [*one, *(replace(tile, image=1) for tile in one)],
        torch.cat([paid[..., :12]] * 2, -1),
        torch.cat([cls[:3]] * 2),
    )
    alone = sample(one, paid[..., :12], cls[:3])
    first = kept(hero(alpha=1.0), alone, 6)
    assert kept(hero(alpha=1.0), both, 12) == [*first, *(place + 12 for place in first)]


def test_an_image_without_crops_is_its_own_thumbnail() -> None:
    tokens = sample([Tile(2, 2)], [[[0.4, 0.3, 0.2, 0.1]], [[0.1, 0.2, 0.4, 0.3]]], [[1.0]])
    assert kept(hero(alpha=1.0), tokens, 2) == [2, 3]


def test_thumbnails_may_come_last() -> None:
    # as in InternVL; the same tokens as with the thumbnail first
    last = sample(
        [*crops("a", "b")[1:], THUMBNAIL],
        [[LOW[4:] + LOW[:4]], [HIGH[4:] + HIGH[:4]]],
        [[1, 0], [0, 1], [1, 0]],
    )
    first = sample(crops("a", "b"), [[LOW], [HIGH]], [[1, 0], [1, 0], [0, 1]])
    found = kept(hero(alpha=1.0), first, 8)
    assert sorted((place + 4) % 12 for place in kept(hero(alpha=1.0), last, 8)) == found


# ---- settings ------------------------------------------------------------------------------------


def test_shares_of_the_depth_become_blocks() -> None:
    asked = Signal.CLS_ATTENTION
    plain = registry.build("hero")
    assert plain.prepared(facts(24)).reads.blocks[asked] == (*range(6, 12), *range(16, 23))
    assert plain.prepared(facts(6)).reads.blocks[asked] == (1, 2, 4)
    assert plain.prepared(facts(2)).reads.blocks[asked] == (0, 1)
    assert hero(low=(2, 7), high=(-1,)).prepared(facts(24)).reads.blocks[asked] == (2, 7, -1)
    assert plain.prepared(facts(24)).reads.blocks[Signal.CLS_FEATURES] == (-1,)
    with pytest.raises(ValueError, match="not known yet"):
        plain.reads.blocks[asked]


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.5},
        {"density": -0.1},
        {"saliency_temperature": 0.0},
        {"low": ()},
        {"low": (0.5,)},
        {"high": (0.5, 0.2)},
        {"high": (0.5, 2)},
    ],
)
def test_refuses_settings_without_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(registry.RegistryError, match="hero: "):
        registry.build("hero", settings)


@pytest.mark.parametrize("settings", [{"fill": True}, {"alpha": 1.0, "low": [0], "high": [7]}])
def test_conforms(settings: dict[str, Any]) -> None:
    assert [check for check in check_pruner(registry.build("hero", settings)) if not check.ok] == []


# ---- in a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Any:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from prunebench.testbed import model_path

    folder = model_path("tiny-llava-next")
    return AutoModelForImageTextToText.from_pretrained(
        folder
    ).eval(), AutoProcessor.from_pretrained(folder)


def asked(processor: Any, width: int, height: int, question: str) -> Any:
    from PIL import Image

    noise = torch.randint(
        0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    return processor(text=[text], images=[Image.fromarray(noise.numpy())], return_tensors="pt")


@pytest.mark.parametrize(("width", "height"), [(224, 224), (224, 140), (130, 300)])
def test_prunes_in_llava_next(tiny: Any, width: int, height: int) -> None:
    model, processor = tiny
    question = "what digit is on the red square ?"
    inputs = asked(processor, width, height, question)
    with prune(model, hero(low=(1, 2), high=(4,), fill=True), 0.4, questions=[question]) as trace:
        model.generate(**inputs, max_new_tokens=1)
    row = trace.samples[0]
    (stage,) = row.stages
    index = row.kept[INPUT]
    assert len(index) == stage.keep
    newline = row.layout.newline
    assert newline[index].sum() == min(newline.sum(), stage.keep // 2)


def test_clip_reads_the_question_as_far_as_it_can(tiny: Any) -> None:
    model, processor = tiny
    inputs = asked(processor, 224, 224, "what digit is on the red square ?")
    with prune(model, "hero", 0.4, questions=["red square " * 200]) as trace:
        model.generate(**inputs, max_new_tokens=1)
    assert trace.samples[0].notes == ["1 texts were longer than CLIP reads and were cut off"]
    with pytest.raises(Unsupported, match="questions"), prune(model, "hero", 0.4):
        pass
    with prune(model, hero(alpha=1.0, low=(1,), high=(4,)), 0.4) as trace:
        model.generate(**inputs, max_new_tokens=1)
    assert len(trace.samples[0].kept[INPUT]) > 0


# ---- models without a CLS token, crops or a CLIP -------------------------------------------------


def on_regions(**settings: Any) -> Any:
    """HERO made ready for a model that takes no crops."""
    return hero(**settings).prepared(replace(facts(4), tiled=False))


def one_picture(features: Tensor, clip: Any = None) -> VisualTokens:
    """4 x 4 tokens; attention grows with their number in the low block and shrinks in the high."""
    rising = torch.arange(16.0) / 16
    signals: dict[Signal, Any] = {
        Signal.RECEIVED_ATTENTION: torch.stack([rising, rising.flip(0)])[:, None],
        Signal.ENCODER_FEATURES: features[None],
    }
    if clip is not None:
        signals[Signal.CLIP_TILES] = torch.as_tensor(clip, dtype=torch.float32)
        signals[Signal.CLIP_TEXT] = torch.tensor([[1.0, 0.0]])
    return VisualTokens(
        torch.zeros(16, 1), Layout((Tile(4, 4),)), torch.arange(16), signals=signals
    )


def test_regions_share_the_whole_budget_by_their_likeness_to_the_mean() -> None:
    """Three parts look right and one up: their mean is (3, 1) / 4."""
    upper_left = [0, 1, 4, 5]
    features = torch.tensor([[1.0, 0.0]]).repeat(16, 1)
    features[upper_left] = torch.tensor([0.0, 1.0])
    pruner = on_regions(density=0.0, saliency_temperature=1.0)
    values = pruner.explain(one_picture(features), Stage(INPUT, 8))
    wanted = torch.tensor([1.0, 3.0, 3.0, 3.0]) / 10**0.5
    torch.testing.assert_close(values["tile_saliency"], wanted.softmax(0))
    # nothing else is known: saliency alone, whatever alpha says
    torch.testing.assert_close(values["tile_weights"], wanted.softmax(0))
    # 8 tokens by weights .148 and .284: 1.18 and 2.27, and what is left to the largest remainder
    assert values["budgets"].tolist() == [1, 3, 2, 2]
    # in a region the low block ranks: the last of each part
    assert kept(pruner, one_picture(features), 8) == [3, 5, 6, 7, 12, 13, 14, 15]


def test_every_budget_is_met_on_regions() -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = one_picture(torch.randn(16, 3, generator=draw))
    for keep in range(1, 17):
        assert len(kept(on_regions(), tokens, keep)) == keep
    whole = on_regions(regions=1)
    assert kept(whole, tokens, 3) == [0, 1, 2]  # by the high block, as an image by itself


def test_a_clip_that_sees_regions_counts_against_saliency() -> None:
    tokens = one_picture(torch.ones(16, 2), clip=[[0, 1], [0, 1], [1, 0], [0, 1]])
    pruner = on_regions(density=0.0, alpha=0.0, relevance_temperature=1.0)
    relevance = torch.tensor([0.0, 0.0, 1.0, 0.0]).softmax(0)
    told = pruner.explain(tokens, Stage(INPUT, 8))
    torch.testing.assert_close(told["tile_weights"], relevance)
    torch.testing.assert_close(told["tile_relevance"], relevance)


def test_says_what_stands_in() -> None:
    plain = hero()
    assert plain.stand_ins == {
        Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION,
        Signal.CLS_FEATURES: Signal.ENCODER_FEATURES,
        Signal.CLIP_TEXT: None,
        Signal.CLIP_TILES: None,
    }
    assert hero(attention="cls", alpha=1.0).stand_ins == {}
    assert hero(attention="received").needs >= {Signal.RECEIVED_ATTENTION, Signal.ENCODER_FEATURES}
    ready = on_regions(clip="tiny-clip")
    assert "equal parts of the picture" in ready.port
    assert (ready.reads.clip, ready.reads.regions) == ("tiny-clip", 2)
    # no CLS token is a region's
    assert Signal.CLS_FEATURES not in ready.needs
    tiled = plain.prepared(replace(facts(4), tiled=True))
    assert (tiled.port, tiled.reads.regions) == ("", 1)
