"""IGVA: the mix of depths by hand, the allocator's formula, and what its loss rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench import (
    INPUT,
    Example,
    Facts,
    Layout,
    Signal,
    Stage,
    Tile,
    Unsupported,
    VisualTokens,
    registry,
    tile_summaries,
)
from prunebench.testing import check_pruner, tokens

FACTS = Facts(
    name=None,
    layers=4,
    width=16,
    heads=2,
    eps=1e-6,
    vision_blocks=8,
    vision_width=12,
    feature_block=7,
)


def prepared(facts: Facts = FACTS, **settings: Any) -> Any:
    return registry.build("igva", settings).prepared(facts)


def sample(blocks: Tensor, tiles: tuple[Tile, ...], **signals: Any) -> VisualTokens:
    """Tokens with one head's CLS attention [B, N] in every block."""
    layout = Layout(tiles)
    known = {
        Signal.CLS_ATTENTION: blocks[:, None],
        **{Signal[name]: value for name, value in signals.items()},
    }
    return VisualTokens(
        torch.zeros(len(layout), 2), layout, torch.arange(len(layout)), signals=known
    )


class Fixed(nn.Module):
    """An allocator whose mind is made up."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(weights).clamp(min=1e-6).log())

    def forward(self, text: Tensor, summaries: Tensor) -> Tensor:
        return self.logits.softmax(0).expand(summaries.shape[1], -1)


def mixed(*weights: float, **settings: Any) -> Any:
    return replace(prepared(weights="none", **settings), module=Fixed(*weights))


# quarters of 8 blocks: the first likes token 0, the second token 1, ...
QUARTERS = torch.eye(4).repeat_interleave(2, dim=0)
ASKED = {"CLIP_TEXT": torch.ones(1, 3), "CLS_FEATURES": torch.zeros(8, 1, 12)}


def test_quarters_are_weighed() -> None:
    image = sample(QUARTERS, (Tile(2, 2),), **ASKED)
    torch.testing.assert_close(
        mixed(0.1, 0.2, 0.3, 0.4).score(image), torch.tensor([0.1, 0.2, 0.3, 0.4])
    )
    assert mixed(0.1, 0.2, 0.3, 0.4).prune(image, Stage(INPUT, 2)).index.tolist() == [3, 2]
    assert mixed(0.4, 0.3, 0.2, 0.1).prune(image, Stage(INPUT, 2)).index.tolist() == [0, 1]


def test_heads_and_blocks_of_a_group_are_averaged() -> None:
    image = tokens(needs=[Signal.CLS_ATTENTION], blocks={Signal.CLS_ATTENTION: 8})
    means = image.cls_attention.mean(1).view(4, 2, -1).mean(1)
    torch.testing.assert_close(
        prepared(weights="none").score(image), (means / means.sum(1, keepdim=True)).mean(0)
    )


def test_groups_count_the_same_however_much_they_pay() -> None:
    # the first quarter leaves almost everything with the CLS token itself
    blocks = QUARTERS * torch.tensor([0.01, 0.01, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])[:, None]
    torch.testing.assert_close(
        prepared(weights="none").score(sample(blocks, (Tile(2, 2),))), torch.full((4,), 0.25)
    )


def test_tiles_share_by_size_and_newlines_come_last() -> None:
    blocks = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0, 0.1, 0.0, 0.9, 0.0]]).repeat(8, 1)
    image = sample(blocks, (Tile(1, 4), Tile(1, 4, newlines=True)))
    assert sorted(prepared(weights="none").prune(image, Stage(INPUT, 4)).index.tolist()) == [
        0,
        2,
        5,
        7,
    ]
    assert 8 not in prepared(weights="none").prune(image, Stage(INPUT, 8)).index.tolist()


@pytest.mark.parametrize(
    ("depth", "groups"), [(24, [6, 6, 6, 6]), (27, [7, 7, 7, 6]), (4, [1, 1, 1, 1]), (3, [1, 1, 1])]
)
def test_groups_are_quarters_of_what_there_is(depth: int, groups: list[int]) -> None:
    ready = prepared(replace(FACTS, vision_blocks=depth), weights="none")
    assert ready.reads.blocks[Signal.CLS_ATTENTION] == tuple(range(depth))
    image = sample(torch.eye(depth), (Tile(1, depth),))
    sizes = torch.tensor([size for size in groups for _ in range(size)])
    torch.testing.assert_close(ready.score(image), 1 / (sizes * len(groups)))


def test_received_attention_stands_in_for_cls() -> None:
    ready = prepared(weights="none", attention="received")
    assert ready.needs == {Signal.RECEIVED_ATTENTION}
    image = tokens(needs=ready.needs, blocks={Signal.RECEIVED_ATTENTION: 8}, tiles=2, newlines=True)
    assert ready.score(image).sum().item() == pytest.approx(2)
    trained = prepared(weights="random", attention="received")
    blocks = {Signal.RECEIVED_ATTENTION: 8, Signal.ENCODER_FEATURES: 8}
    image = tokens(needs=trained.needs, blocks=blocks, tiles=2, newlines=True)
    patches = image.encoder_features[:, ~image.layout.newline].view(8, 2, 24, -1)
    torch.testing.assert_close(tile_summaries(image), patches.mean(2))


def test_allocator_is_the_papers() -> None:
    """A tile's weights by the formula, written out with the module's own matrices."""
    module: Any = prepared(weights="random").module
    draw = torch.Generator().manual_seed(1)
    text, cls = torch.randn(5, generator=draw), torch.randn(4, 3, 12, generator=draw)
    with torch.no_grad():
        padded = torch.zeros(768)
        padded[:5] = text / text.norm()
        for tile in range(3):
            query, memory = module.sentence(padded)[None], module.summary(cls[:, tile])
            for block in module.blocks:
                query = block.norm1(query + block.attend(query, memory, memory)[0])
                query = block.norm2(query + block.mlp[2](block.mlp[0](query).relu()))
            torch.testing.assert_close(
                module(text, cls)[tile], module.weigh(query[0]).softmax(0), atol=1e-5, rtol=1e-4
            )
    with pytest.raises(ValueError, match="769 channels"):
        module(torch.ones(769), cls)


def test_the_question_changes_the_weights() -> None:
    ready = prepared(weights="random")
    blocks = dict.fromkeys(ready.needs, 8)
    image = tokens(needs=ready.needs, blocks=blocks)
    other = replace(image, signals={**image.signals, Signal.CLIP_TEXT: -image.clip_text})
    assert ready.weigh(image).sum().item() == pytest.approx(1)
    assert not torch.allclose(ready.weigh(image), ready.weigh(other), atol=1e-4)


def test_without_weights_it_is_uniform_and_says_so_where_asked() -> None:
    assert prepared().module is None
    assert prepared(weights="none").needs == {Signal.CLS_ATTENTION}
    with pytest.raises(Unsupported, match="hub"):
        prepared(weights="no/such-weights")
    with pytest.raises(Unsupported, match="bare decoder"):
        prepared(replace(FACTS, vision_blocks=None))
    with pytest.raises(ValueError, match="prepared"):
        prepared(weights="none").loss(Example(tokens(), torch.ones(24)))


def test_loss_by_hand() -> None:
    image = sample(QUARTERS, (Tile(2, 2),), **ASKED)
    loss, figures = mixed(0.1, 0.2, 0.3, 0.4).loss(Example(image, torch.tensor([0.0, 0, 1, 1])))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    entropy = float(-(weights * weights.log()).sum())
    assert figures["location_loss"] == pytest.approx(-torch.tensor(0.7).log().item())
    assert figures["uniform_loss"] == pytest.approx(-torch.tensor(0.5).log().item())
    assert figures["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert figures["weight_3"] == pytest.approx(0.4)
    assert float(loss.detach()) == pytest.approx(
        figures["location_loss"] - 0.02 * entropy, rel=1e-4
    )


def test_nothing_to_see_teaches_balance_alone() -> None:
    image = sample(QUARTERS, (Tile(2, 2),), **ASKED)
    loss, figures = mixed(0.25, 0.25, 0.25, 0.25).loss(Example(image, torch.zeros(4)))
    assert figures["location_loss"] == 0
    loss.backward()


def test_the_allocator_learns_which_depth_a_question_wants() -> None:
    """Two questions, each with its evidence in another quarter."""
    ready = prepared(weights="random")
    student = replace(ready, module=ready.build(ready.sizes(FACTS)).train())
    draw = torch.Generator().manual_seed(0)
    cls = torch.randn(8, 1, 12, generator=draw)
    examples = [
        Example(sample(QUARTERS, (Tile(2, 2),), CLIP_TEXT=text, CLS_FEATURES=cls), target)
        for text, target in [
            (torch.tensor([[1.0, 0]]), torch.tensor([1.0, 0, 0, 0])),
            (torch.tensor([[0.0, 1]]), torch.tensor([0.0, 0, 0, 1])),
        ]
    ]
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.stack([student.loss(example)[0] for example in examples]).sum().backward()
        optimizer.step()
    assert [int(student.weigh(example.tokens).argmax()) for example in examples] == [0, 3]
    assert all(student.loss(example)[1]["location_loss"] < 0.2 for example in examples)


@pytest.mark.parametrize(
    "settings", [{"weights": "none"}, {"weights": "none", "attention": "received"}]
)
def test_conforms(settings: dict[str, Any]) -> None:
    assert [check for check in check_pruner(registry.build("igva", settings)) if not check.ok] == []
