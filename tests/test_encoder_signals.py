"""What the vision encoder and CLIP show is what they compute; some family gives every signal."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from families import Miniature
from families.llava import clip
from test_families import MARKED, PROMPTS
from test_signals import Watch, build, watched
from torch import Tensor

from prunebench import INPUT, Reads, Signal, Stage, llm, prune
from prunebench.engine.attention import Heads
from prunebench.engine.clip import load_clip
from prunebench.engine.readings import Queries, received_attention
from prunebench.models import family_of
from prunebench.signals import CLIP, LAYERS, PROBE, signals_of
from prunebench.sites import Part

# ---- the vision encoder --------------------------------------------------------------------------


@contextmanager
def kernel_of(miniature: Miniature, block: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Queries, keys, values and weights of a vision block's own eager kernel."""
    family = family_of(miniature.model)
    attention = family.block_attention(family.blocks(miniature.model)[block])
    module: Any = importlib.import_module(type(attention).__module__)
    kernel = module.eager_attention_forward
    calls: list[tuple[Tensor, ...]] = []

    def spied(
        called: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any
    ) -> Any:
        out = kernel(called, query, key, value, *args, **more)
        if called is attention:
            calls.append((query, key, value, out[1]))
        return out

    module.eager_attention_forward = spied
    try:
        yield calls
    finally:
        module.eager_attention_forward = kernel


@pytest.mark.parametrize("name", MARKED)
def test_encoder_values_and_received_attention(name: str) -> None:
    """Values, and attention with the CLS token's query and without it, as the kernel has them."""
    eager = build(name, "eager")
    family, inputs = family_of(eager.model), PROMPTS["two images"](eager)
    signals = frozenset({Signal.ENCODER_VALUES, Signal.RECEIVED_ATTENTION})
    place = family.cls_row
    with kernel_of(eager, 1) as calls:
        with_cls, without = (
            watched(
                eager, inputs, Stage(INPUT, 5), signals=signals, blocks=(1,), cls_query_counts=c
            )
            for c in (True, False)
        )
    (rows,) = family.encoder_rows(eager.model, inputs, family.layouts(eager.model, inputs))
    real = rows.patches[:, 0] >= 0
    calls = calls[: len(calls) // 2]
    values = torch.cat([call[2].transpose(0, 1).flatten(1, 2) for call in calls], dim=1)
    want = values[:, rows.patches[real]].mean(2)
    torch.testing.assert_close(with_cls[0].encoder_values[0][:, real], want, atol=1e-5, rtol=1e-4)
    assert not with_cls[0].encoder_values[0][:, ~real].any()
    for seen, counts in ((with_cls, True), (without, False)):
        weights = [call[3] for call in calls]
        if place is not None and not counts:
            weights = [w[:, :, 1:] if place == 0 else w[:, :, :-1] for w in weights]
        received = torch.cat([w.mean(2).transpose(0, 1).flatten(1) for w in weights], dim=1)
        received = received[:, rows.patches[real]].mean(-1)
        got = seen[0].received_attention[0][:, real]
        torch.testing.assert_close(got, received, atol=1e-5, rtol=1e-4)
    same = torch.equal(with_cls[0].received_attention, without[0].received_attention)
    assert same == (place is None)


def test_projections_of_cls_tokens() -> None:
    """By hand: the norm and the projections of the block."""
    miniature = build("llava")
    family, inputs = family_of(miniature.model), PROMPTS["two images"](miniature)
    block: Any = family.blocks(miniature.model)[1]
    entered: list[Tensor] = []
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    signals = frozenset({Signal.CLS_QUERIES, Signal.CLS_KEYS, Signal.CLS_VALUES})
    (tokens,) = watched(miniature, inputs, Stage(INPUT, 5), signals=signals, blocks=(1,))
    handle.remove()
    with torch.no_grad():
        normed = block.layer_norm1(entered[0][:, 0])
        for name, got in (
            ("q", tokens.cls_queries),
            ("k", tokens.cls_keys),
            ("v", tokens.cls_values),
        ):
            projected = getattr(block.self_attn, f"{name}_proj")(normed)
            # [T, H * d] to [H, T, d]
            want = projected.unflatten(-1, (2, -1)).transpose(0, 1)
            torch.testing.assert_close(got, want[None], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [None, (300, 20, 250, 30)])
@pytest.mark.parametrize("rows", [0, 1, 600])
def test_received_attention_is_made_in_parts(
    lengths: tuple[int, ...] | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long and short sequences, packed or padded ones; all heads together, or one by one. A mask
    has a row a query, or one for all.
    """
    from prunebench.engine import readings

    generator = torch.Generator().manual_seed(0)
    batch = 1 if lengths else 2
    query, key = torch.randn(2, batch, 4, 600, 8, generator=generator)
    mask = None
    if rows and not lengths:
        mask = torch.zeros(batch, 1, rows, 600)
        mask[1, ..., 500:] = torch.finfo(torch.float32).min
    ends = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0)
    heads = Heads(query, key, key, 0.3, mask, ends)
    spans = [(0, 600)] if ends is None else list(pairwise(ends.tolist()))
    want = []
    for start, end in spans:
        scores = query[:, :, start:end].double() @ key[:, :, start:end].double().transpose(2, 3)
        weights = (scores * 0.3 + (0 if mask is None else mask)).softmax(-1)
        means = [weights.mean(2), weights[:, :, 1:].mean(2), weights[:, :, :-1].mean(2)]
        want.append(torch.stack(means).transpose(1, 2).flatten(2))
    for at_once in (2**20, 0, 2**30):
        monkeypatch.setattr(readings, "AT_ONCE", at_once)
        got = received_attention(heads)
        torch.testing.assert_close(got.double(), torch.cat(want, dim=2), atol=4e-7, rtol=1e-4)
    assert [Queries.without(row) for row in (None, 0, -1)] == [0, 1, 2]


# ---- CLIP ----------------------------------------------------------------------------------------


def test_every_token_of_clips_texts() -> None:
    """Padding is embedded, too; the token that stands for its text is what CLIP gives for it."""
    miniature, question = build("llava"), "color of 5"
    inputs = PROMPTS["one image"](miniature)
    both = frozenset({Signal.CLIP_TEXT, Signal.CLIP_TEXT_TOKENS})
    shown = {}
    for signals in (both, {Signal.CLIP_TEXT}, {Signal.CLIP_TEXT_TOKENS}):
        (tokens,) = watched(
            miniature, inputs, Stage(INPUT, 5), signals=frozenset(signals), questions=[question]
        )
        shown[frozenset(signals)] = tokens
        assert set(tokens.signals) == set(signals)
    tower = load_clip(clip(), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        stock = tower.tokenizer(
            [question], padding="max_length", max_length=77, return_tensors="pt"
        )
        states = tower.model.text_model(**stock).last_hidden_state
        want = tower.model.text_projection(states)
        pooled = tower.model.get_text_features(**stock).pooler_output
    tokens = shown[both]
    assert tokens.clip_text_tokens.shape == (1, 77, 32)
    torch.testing.assert_close(tokens.clip_text_tokens, want)
    torch.testing.assert_close(tokens.clip_text, pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens.clip_text, shown[frozenset({Signal.CLIP_TEXT})].clip_text)
    end = int(stock["attention_mask"].sum()) - 1
    torch.testing.assert_close(tokens.clip_text_tokens[:, end], tokens.clip_text)


# ---- facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKED)
def test_facts_are_those_of_the_layers(name: str) -> None:
    miniature = build(name)
    family, model = family_of(miniature.model), miniature.model
    facts = family.facts(model)
    assert facts.layers == len(family.layers(model))
    attention: Any = family.attention(family.layers(model)[2])
    assert facts.kv_heads is not None
    assert facts.head_width is not None
    assert attention.k_proj.weight.shape[0] == facts.kv_heads * facts.head_width
    gated = 2 if "Qwen3.5" in miniature.name else 1
    assert attention.q_proj.weight.shape[0] == gated * facts.heads * facts.head_width
    assert facts.frequencies is not None
    assert facts.frequencies[0] == 1
    assert list(facts.frequencies) == sorted(facts.frequencies, reverse=True)
    assert len(facts.frequencies) <= facts.head_width // 2


def test_frequencies_turn_as_the_model_turns() -> None:
    miniature = build("llava")
    family = family_of(miniature.model)
    facts, ids = family.facts(miniature.model), torch.arange(9)[None]
    ((cosines, _),) = set(family.tables(miniature.model, torch.zeros(1), ids).values())
    assert facts.frequencies is not None
    angles = ids[0, :, None] * torch.tensor(facts.frequencies)
    torch.testing.assert_close(cosines[0], torch.cat([angles, angles], dim=-1).cos())


# ---- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKED)
def test_every_signal_is_computed_or_the_family_says_why_not(name: str) -> None:
    """Row by row of the table, at sites where the layer that it is read in attends to tokens."""
    miniature = build(name)
    model, family = miniature.model, family_of(miniature.model)
    lacking = {signal for signal in Signal if family.lacks(signal) is not None}
    for signal in lacking:
        assert signal.row.feature, f"{signal} is lacking for no flag of the family's"
    wanted = frozenset(Signal) - lacking
    probe = torch.zeros(6, model.get_decoder().config.hidden_size)

    @dataclass(frozen=True)
    class All(Watch):
        @property
        def reads(self) -> Reads:
            return Reads(wanted, clip=clip() if wanted & CLIP else "", probe=lambda: probe)

    inputs = PROMPTS["one image"](miniature)
    width, height = miniature.sizes[0]
    pixels = [torch.zeros(1, height, width, 3, dtype=torch.uint8)]
    spy = All()
    pruning = prune(
        model,
        spy,
        # at llm:4 the layers before and behind it attend in every family
        plan=(Stage(llm(4), 5),),
        questions=["color of 5"],
        pictures=[pixels],
        masks=[[torch.zeros(1, height, width, dtype=torch.bool)]],
        processor=miniature.processor,
    )
    with torch.no_grad(), pruning:
        model(**inputs)
    (tokens,) = spy.seen
    # TILES names a kind of model and has no value
    assert set(tokens.signals) == wanted - {Signal.TILES}
    assert tokens.absent == frozenset()
    for signal, value in tokens.signals.items():
        for axis in signal.row.token_axes:
            assert value.shape[axis] == len(tokens), signal
        if isinstance(value, Tensor):
            assert value.dim() == signal.row.shape.count(",") + 1, signal
            assert getattr(tokens, str(signal)) is value


def test_every_signal_is_computed_by_some_family() -> None:
    """What one family lacks another one gives."""
    families_of_all = [family_of(build(name).model) for name in ("llava", "llava_next", "qwen2_vl")]
    for signal in Signal:
        assert any(family.lacks(signal) is None for family in families_of_all), signal
        assert signal.parts, signal
    assert signals_of(*{signal.row.origin for signal in Signal}) == frozenset(Signal)
    assert all(Part.LLM in signal.parts for signal in PROBE | LAYERS)
