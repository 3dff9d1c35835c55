"""MaskCLIP++: masks on the token grid, their match with the question by hand, the affine head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench import (
    INPUT,
    Example,
    Keep,
    Layout,
    Signal,
    Stage,
    Tile,
    Unsupported,
    VisualTokens,
    registry,
)
from prunebench.testing import check_pruner, tokens

TEXT = torch.tensor([[3.0, 0, 0]])


def maskclip(**settings: Any) -> Any:
    return registry.build("maskclip", {"weights": "none", **settings})


def order(sample: VisualTokens, keep: int, **settings: Any) -> list[int]:
    survivors: Keep = maskclip(**settings).prune(sample, Stage(INPUT, keep))
    return survivors.index.tolist()


def image(
    masks: Sequence[Any],
    patches: Any,
    *,
    text: Tensor = TEXT,
    tiles: tuple[Tile, ...] = (Tile(2, 4),),
    images: int = 1,
) -> VisualTokens:
    """Tokens of 2 x 4 unless `tiles` says otherwise; masks per image, a pixel a token of the
    first.
    """
    layout = Layout(tiles)
    given = [torch.tensor(mask, dtype=torch.bool) for mask in (masks if images > 1 else [masks])]
    signals = {
        Signal.MASKS: tuple(given),
        Signal.CLIP_PATCHES: torch.as_tensor(patches),
        Signal.CLIP_TEXT: text,
    }
    return VisualTokens(
        torch.zeros(len(layout), 2), layout, torch.arange(len(layout)), signals=signals
    )


# two things: the left column, and the two tokens in the middle of the first row; the second is what
# the text says
LEFT, MIDDLE = [[1, 0, 0, 0], [1, 0, 0, 0]], [[0, 1, 1, 0], [0, 0, 0, 0]]
PATCHES = torch.tensor(
    [
        [0.0, 1, 0],
        [1, 0, 0],
        [1, 0.2, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0.5, 0, 0.5],
        [-1, 0, 0],
        [0.6, 0, 0.5],
    ]
)


def test_the_mask_that_matches_comes_first() -> None:
    # then the other mask, then what no mask covers by its own match: 7, 5, 3, 6
    assert order(image([LEFT, MIDDLE], PATCHES), 8) == [1, 2, 0, 4, 7, 5, 3, 6]
    assert order(image([LEFT, MIDDLE], PATCHES, text=torch.tensor([[0.0, 2, 0]])), 2) == [0, 4]


def test_a_mask_matches_as_a_whole() -> None:
    # its second token alone is nothing like the text
    patches = PATCHES.clone()
    patches[2] = torch.tensor([-0.4, 0, 0])
    assert order(image([LEFT, MIDDLE], patches), 2) == [1, 2]


def test_the_best_name_counts() -> None:
    text = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, -1, 0]])
    assert order(image([LEFT, MIDDLE], PATCHES, text=text), 2) == [0, 4]


def test_tokens_count_by_how_much_is_covered() -> None:
    # masks twice as fine as tokens: the mask covers all of token 0, half of token 1
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :2, :3] = True
    sample = replace(
        image([LEFT], PATCHES), signals={**image([LEFT], PATCHES).signals, Signal.MASKS: (mask,)}
    )
    scores = maskclip(scale=1.0).score(sample)
    assert float((scores[0] - scores[1]).exp()) == pytest.approx(2)


def test_match_is_a_softmax_with_none_of_them() -> None:
    sample = image([LEFT, MIDDLE], PATCHES)
    shown = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]])
    cosines = torch.tensor([0.0, 2 / (2**2 + 0.2**2) ** 0.5, 0.0])
    expected = (torch.tensor([5.0, 5, 0]) * cosines).log_softmax(0)
    torch.testing.assert_close(maskclip(scale=5.0).matches(sample, shown), expected)


def test_tiles_see_their_part_and_newlines_come_last() -> None:
    # a thumbnail of 2 x 2 and a crop that shows the right half, each row closed by a newline
    tiles = (
        Tile(2, 2, "thumbnail"),
        Tile(2, 2, "crop", newlines=True, region=(0.5, 0.0, 1.0, 1.0)),
    )
    patches = torch.zeros(10, 3)
    kept = order(image([[[0, 0, 0, 1], [0, 0, 0, 0]]], patches, tiles=tiles), 10)
    # the mask fills token 5 of the crop and half of token 1 of the thumbnail
    assert kept[:2] == [5, 1]
    assert kept[-2:] == [6, 9]


def test_masks_belong_to_their_image() -> None:
    tiles = (Tile(1, 2), Tile(1, 2, image=1))
    sample = image([[[[0, 1]]], [[[1, 0]]]], torch.zeros(4, 3), tiles=tiles, images=2)
    assert sorted(order(sample, 2)) == [1, 2]


def test_cover_asks_for_tokens_of_every_mask() -> None:
    sample = image([LEFT, MIDDLE], PATCHES)
    assert order(sample, 2, cover=1) == [1, 0]
    assert order(sample, 3, cover=1) == [1, 0, 2]
    assert order(sample, 1, cover=1) == [1]
    assert order(sample, 8, cover=4) == [1, 2, 0, 4, 7, 5, 3, 6]


def test_without_masks_patches_speak_for_themselves() -> None:
    assert order(image(torch.zeros(0, 2, 4).tolist(), PATCHES), 3) == [1, 2, 7]
    nowhere = torch.zeros(1, 2, 4).tolist()
    assert order(image(nowhere, PATCHES), 3, cover=1) == [1, 2, 7]


def test_a_mask_that_no_token_shows_is_no_mask() -> None:
    with_it = image([MIDDLE, torch.zeros(2, 4).tolist()], PATCHES)
    torch.testing.assert_close(
        maskclip(scale=1.0).score(with_it), maskclip(scale=1.0).score(image([MIDDLE], PATCHES))
    )


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("digit on red square", ("digit", "red square")),
        (
            "What is the color of the man's T-shirt, left of the dog?",
            ("color", "man", "T-shirt", "left", "dog"),
        ),
        ("a dog and a dog", ("dog",)),
        ("Is it?", ()),
    ],
)
def test_names_are_runs_between_function_words(question: str, names: tuple[str, ...]) -> None:
    assert maskclip(template="{}").reads.texts(question) == (names or (question,))
    assert maskclip().reads.texts(question) == tuple(
        f"a photo of a {name}." for name in names or (question,)
    )


def test_template_needs_a_place() -> None:
    with pytest.raises(registry.RegistryError, match=r"needs a \{\}"):
        maskclip(template="a photo")


# ---- the head ------------------------------------------------------------------------------------


def headed(slope: float, offset: float, **settings: Any) -> Any:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, weight, bias in zip(module, (2.0, slope / 2), (0.0, offset), strict=True):
            layer.weight.fill_(weight)  # type: ignore[operator]
            layer.bias.fill_(bias)  # type: ignore[operator]
    return replace(maskclip(**settings), module=module)


def test_a_head_cannot_reorder_masks() -> None:
    sample, expected = image([LEFT, MIDDLE], PATCHES), [1, 2, 0, 4, 7, 5, 3, 6]
    for slope, offset in [(1, 0), (0.1, 3), (7, -50)]:
        assert headed(slope, offset).prune(sample, Stage(INPUT, 8)).index.tolist() == expected


def test_one_and_zero_are_no_head() -> None:
    sample = tokens(needs=maskclip().needs, tiles=2)
    torch.testing.assert_close(headed(1, 0).score(sample), maskclip().score(sample))


def test_without_weights_there_is_no_head() -> None:
    from prunebench import Facts

    facts = Facts(name=None, layers=4, width=16, heads=2, eps=1e-6)
    assert registry.build("maskclip").prepared(facts).module is None  # type: ignore[attr-defined]
    module = registry.build("maskclip", {"weights": "random"}).prepared(facts).module  # type: ignore[attr-defined]
    assert sum(weight.numel() for weight in module.parameters()) == 2 * 768 + 768 + 1
    with pytest.raises(Unsupported, match="hub"):
        maskclip(weights="no/such-weights").prepared(facts)
    with pytest.raises(ValueError, match="prepared"):
        maskclip().loss(Example(tokens(), torch.ones(24)))


def test_loss_by_hand() -> None:
    sample = image([LEFT, MIDDLE], PATCHES)
    matched = headed(1, 0.5, scale=5.0).matches(
        sample, torch.stack([torch.tensor(LEFT), torch.tensor(MIDDLE)]).flatten(1).float()
    )
    loss, figures = headed(1, 0.5, scale=5.0).loss(
        Example(sample, torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 0]))
    )
    # half of the left mask is evidence, which is not most of it
    assert float(loss.detach()) == pytest.approx(-float(matched[1].detach()))
    assert figures == pytest.approx(
        {"mask_loss": float(loss.detach()), "slope": 1.0, "hit": 1.0, "chance": 0.5}
    )
    loss, figures = headed(1, 0.5, scale=5.0).loss(Example(sample, torch.zeros(8)))
    assert float(loss.detach()) == pytest.approx(-float(matched[2].detach()))
    assert "hit" not in figures


def test_the_head_learns_to_trust_the_cosine() -> None:
    sample = image([LEFT, MIDDLE], PATCHES)
    example = Example(sample, torch.tensor([0.0, 1, 1, 0, 0, 0, 0, 0]))
    student = replace(
        maskclip(scale=1.0), module=type(maskclip()).build({"templates": 1, "channels": 8})
    )
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=0.05)
    first, _ = student.loss(example)
    for _ in range(40):
        optimizer.zero_grad()
        student.loss(example)[0].backward()
        optimizer.step()
    loss, figures = student.loss(example)
    assert figures["slope"] > 1
    assert float(loss.detach()) < 0.2 < float(first.detach())


@pytest.mark.parametrize("settings", [{"weights": "none", "cover": 2}])
def test_conforms(settings: dict[str, Any]) -> None:
    assert [
        check for check in check_pruner(registry.build("maskclip", settings)) if not check.ok
    ] == []
