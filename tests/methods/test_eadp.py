"""EADP: which words count, the Gaussian, and how tiles share, by hand."""

from __future__ import annotations

import importlib

import pytest
import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

eadp = importlib.import_module("prunebench.methods.eadp")


def test_words_that_pick_something_out_count() -> None:
    cosines = torch.zeros(1, 4, 5)
    # the third of five words tells one patch from the others
    cosines[0, 1, 2] = 0.5
    cosines[0, 0, 0] = 0.01
    assert torch.equal(eadp._of_words(cosines)[0], cosines[0, :, 2])


def test_a_peak_is_smoothed_and_borders_reflect() -> None:
    tokens = VisualTokens(torch.zeros(9, 1), Layout((Tile(3, 3),)), torch.arange(9))
    side = torch.tensor([-1.0, 0, 1]).square().mul(-0.5).exp()
    side = side / side.sum()
    peak = torch.zeros(9)
    peak[4] = 1
    smooth = eadp._smoothed(tokens, 0, torch.arange(9), peak).view(3, 3)
    assert smooth[1, 1] == pytest.approx(float(side[1] ** 2))
    # a corner's two reflected lines both show the middle
    assert smooth[0, 0] == pytest.approx(float(4 * side[0] ** 2))
    line = VisualTokens(torch.zeros(3, 1), Layout((Tile(1, 3),)), torch.arange(3))
    level = torch.full((3,), 2.0)
    assert torch.allclose(eadp._smoothed(line, 0, torch.arange(3), level), level)


def sample() -> VisualTokens:
    generator = torch.Generator().manual_seed(4)
    layout = Layout((Tile(3, 4, "thumbnail"), Tile(3, 4, "crop"), Tile(3, 4, "crop")))
    numbers = torch.randn(36, 5, generator=generator)
    signals = {
        Signal.CLIP_PATCHES: numbers,
        Signal.CLIP_TEXT: torch.randn(1, 5, generator=generator),
        Signal.CLIP_TEXT_TOKENS: torch.randn(1, 10, 5, generator=generator),
    }
    return VisualTokens(numbers, layout, torch.arange(36), signals=signals)


def test_tiles_share_exactly_or_as_official_code_rounds() -> None:
    tokens = sample()
    for count in range(1, 37):
        index = registry.build("eadp").prune(tokens, Stage(INPUT, count)).index
        assert len(set(index.tolist())) == count
        official = registry.build("eadp", {"official": True})
        fewer = official.prune(tokens, Stage(INPUT, count)).index
        assert count - 3 < len(set(fewer.tolist())) <= count or count > 24
