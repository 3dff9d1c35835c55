"""Every signal is what the model itself computes: attention, heads, parts of layers, positions,
what the vision encoder and CLIP show.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import families
import pytest
import torch
from conftest import picture
from families import Miniature
from families.llava import clip
from test_families import MARKED, PROMPTS
from torch import Tensor, nn

from prunebench import INPUT, Keep, Pruner, Reads, Signal, Site, Stage, VisualTokens, llm, prune
from prunebench.engine.attention import Heads
from prunebench.engine.clip import load_clip
from prunebench.engine.readings import Queries, received_attention
from prunebench.models import family_of
from prunebench.models.base import Unsupported
from prunebench.signals import CLIP, LAYERS, PROBE, signals_of
from prunebench.sites import Part

build = cache(families.build)

BEFORE = frozenset(
    {
        Signal.VISUAL_ATTENTION,
        Signal.PROMPT_QUERIES,
        Signal.PROMPT_KEYS,
        Signal.PROMPT_VALUES,
        Signal.KEYS,
        Signal.LAST_QUERY_ATTENTION,
        Signal.TEXT_ATTENTION,
    }
)
BEHIND = frozenset(
    {
        Signal.NEXT_TEXT_ATTENTION,
        Signal.NEXT_QUERY_ATTENTION,
        Signal.NEXT_QUERIES,
        Signal.NEXT_KEYS,
        Signal.NEXT_ROTATED_KEYS,
    }
)
STREAM = frozenset(
    {Signal.VISUAL_PLACES, Signal.TEXT_PLACES, Signal.POSITION_IDS, Signal.TEXT_FEATURES}
)
NEW_IN_LLM = BEFORE | BEHIND | STREAM | LAYERS


@dataclass(frozen=True)
class Watch(Pruner):
    """Keeps every other token, and notes all that it is shown."""

    signals: frozenset[Signal] = frozenset()
    layers: Mapping[Signal, tuple[int, ...]] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    cls_query_counts: bool = True
    clip: str = ""
    seen: list[VisualTokens] = field(default_factory=list, compare=False)

    @property
    def reads(self) -> Reads:
        blocks = dict.fromkeys(self.signals - CLIP, self.blocks)
        return Reads(
            self.signals,
            blocks=blocks,
            layers=self.layers,
            cls_query_counts=self.cls_query_counts,
            clip=self.clip,
        )

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)
        places = torch.arange(len(tokens))
        return Keep(torch.cat([places[1::2], places[::2]])[: stage.keep])


def watched(
    miniature: Miniature,
    inputs: dict[str, Any],
    *plan: Stage,
    positions: Any = None,
    questions: Any = None,
    generate: bool = False,
    **options: Any,
) -> list[VisualTokens]:
    """What `Watch` is shown of a batch, stage by stage and sample by sample.

    Only `generate` tells all families which positions are padding.
    """
    spy = Watch(**options)
    pruning = prune(miniature.model, spy, plan=plan, positions=positions, questions=questions)
    with torch.no_grad(), pruning:
        if generate:
            miniature.model.generate(**inputs, max_new_tokens=1)
        else:
            miniature.model(**inputs)
    return list(spy.seen)


def all_of(tokens: VisualTokens) -> Stage:
    """A stage that keeps every token."""
    return Stage(tokens.site, len(tokens))


def attending(model: Any, behind: bool) -> Site:
    """The first site behind which, or before which, a layer attends to tokens."""
    family = family_of(model)
    back = 0 if behind else 1
    full = [n for n in range(1, 6) if n - back not in family.stateful(model)]
    return llm(full[0])


def places_of(miniature: Miniature, inputs: dict[str, Any], row: int) -> tuple[Tensor, Tensor]:
    """The columns of a sample's visual tokens, and those of the text behind the first of these."""
    visual = family_of(miniature.model).visual(miniature.model, inputs["input_ids"])[row]
    columns = torch.arange(len(visual))
    first = int(visual.nonzero()[0, 0])
    return columns[visual], columns[~visual & (columns > first)]


# ---- attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKED)
def test_attention_is_what_eager_puts_out(name: str) -> None:
    """Of image rows in the layer before a site, and of text rows in the one behind it."""
    eager, sdpa = build(name, "eager"), build(name)
    inputs = PROMPTS["padded batch"](eager)
    with torch.no_grad():
        weights = eager.model(**inputs, output_attentions=True).attentions
    stateful = family_of(eager.model).stateful(eager.model)
    for behind, signal in (
        (False, Signal.VISUAL_ATTENTION),
        (True, Signal.NEXT_TEXT_ATTENTION),
    ):
        site = attending(eager.model, behind)
        layer = site.layer - 1 + behind
        # layers that keep a state put out none
        own = weights[layer - len([n for n in stateful if n < layer])]
        stage = Stage(site, 5)
        for miniature in (eager, sdpa):
            shown = watched(miniature, inputs, stage, signals=frozenset({signal}))
            assert len(shown) == 2
            for row, tokens in enumerate(shown):
                visual, text = places_of(eager, inputs, row)
                rows = text if behind else visual
                want = own[row][:, rows][:, :, visual]
                got = tokens.next_text_attention if behind else tokens.visual_attention
                torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-3)


def test_image_rows_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parts are, the attention is the same."""
    from prunebench.engine import views

    miniature = build("qwen2_5_vl")
    inputs, signal = PROMPTS["padded batch"](miniature), frozenset({Signal.VISUAL_ATTENTION})
    whole = watched(miniature, inputs, Stage(llm(2), 5), signals=signal)
    monkeypatch.setattr(views, "CHUNK", 7)
    parts = watched(miniature, inputs, Stage(llm(2), 5), signals=signal)
    for first, second in zip(whole, parts, strict=True):
        torch.testing.assert_close(first.visual_attention, second.visual_attention)


# ---- heads ---------------------------------------------------------------------------------------


@dataclass
class ByHand:
    """Queries, keys and values [B, H, S, d] of one layer, from what entered its attention."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    rotated_queries: Tensor
    rotated_keys: Tensor


def by_hand(model: Any, inputs: dict[str, Any], layer: int) -> ByHand:
    """The projections of a Llama-like layer, worked out anew."""
    attention = model.get_decoder().layers[layer].self_attn
    calls: list[dict[str, Any]] = []
    handle = attention.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        handle.remove()
        hidden, (cosines, sines) = calls[0]["hidden_states"], calls[0]["position_embeddings"]
        parts = []
        for name in ("q", "k", "v"):
            projected = getattr(attention, f"{name}_proj")(hidden)
            heads = projected.unflatten(-1, (-1, attention.head_dim))
            norm = getattr(attention, f"{name}_norm", None)
            parts.append((heads if norm is None else norm(heads)).transpose(1, 2))
    turned = [turn(part, cosines, sines) for part in parts[:2]]
    return ByHand(*parts, *turned)


def turn(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary position embedding of [B, H, S, d], halves against halves."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines[:, None] + torch.cat([-second, first], dim=-1) * sines[:, None]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_heads_are_the_layers_projections(name: str) -> None:
    """Grouped queries, M-RoPE, norms of queries and keys; rows of a sample without its padding."""
    miniature = build(name)
    inputs = PROMPTS["padded batch"](miniature)
    before, behind = by_hand(miniature.model, inputs, 1), by_hand(miniature.model, inputs, 2)
    assert before.keys.shape[1] == 2 < before.queries.shape[1] == 4
    assert (inputs["attention_mask"] == 0).any(), "nothing is padded"
    for row, tokens in enumerate(
        watched(miniature, inputs, Stage(llm(2), 5), signals=BEFORE | BEHIND)
    ):
        start = int((inputs["attention_mask"][row] == 0).sum())
        for got, want in (
            (tokens.prompt_queries, before.rotated_queries),
            (tokens.prompt_keys, before.rotated_keys),
            (tokens.prompt_values, before.values),
            (tokens.next_queries, behind.queries),
            (tokens.next_keys, behind.keys),
            (tokens.next_rotated_keys, behind.rotated_keys),
        ):
            torch.testing.assert_close(got, want[row, :, start:], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(tokens.next_keys, tokens.next_rotated_keys, atol=1e-2)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", MARKED)
def test_rows_of_the_prompt_fit_together_at_every_stage(name: str, positions: Any) -> None:
    """Places lead to the rows of tokens and of text, also where stages before have dropped some;
    attention is what queries and keys say.
    """
    miniature = build(name)
    inputs = PROMPTS["padded batch"](miniature)
    stateful = family_of(miniature.model).stateful(miniature.model)
    late = llm(4)
    assert not {3, 4} & stateful
    seen = watched(
        miniature, inputs, Stage(llm(2), 9), Stage(late, 4), positions=positions, signals=NEW_IN_LLM
    )
    for row, tokens in enumerate(seen[2:]):
        visual, text = tokens.visual_places, tokens.text_places
        length = int(inputs["attention_mask"][row].sum()) - len(tokens.layout) + 9
        assert len(tokens) == 9
        assert tokens.site == late
        assert sorted([*visual.tolist(), *text.tolist()]) == list(range(length))
        for whole in (tokens.prompt_queries, tokens.prompt_keys, tokens.prompt_values):
            assert whole.shape[1] == length
        torch.testing.assert_close(tokens.keys, tokens.prompt_keys[:, visual])
        assert tokens.transitions.shape == (1, 2, length, 2)
        assert tokens.position_ids.shape[1] == length
        assert tokens.text_features.shape[0] == len(text)
        # the last row of the prompt is text: what it pays is shown thrice
        torch.testing.assert_close(tokens.text_attention[:, -1], tokens.last_query_attention)
        torch.testing.assert_close(
            tokens.next_text_attention[:, -1], tokens.next_query_attention, atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_attention_follows_from_queries_and_keys(positions: Any) -> None:
    """At a second stage, in a padded batch, under M-RoPE and grouped queries."""
    miniature = build("qwen2_5_vl")
    inputs = PROMPTS["padded batch"](miniature)
    seen = watched(
        miniature,
        inputs,
        Stage(llm(2), 9),
        Stage(llm(4), 4),
        positions=positions,
        signals=BEFORE | BEHIND | STREAM,
    )
    for tokens in seen[2:]:
        queries, keys = tokens.prompt_queries, tokens.prompt_keys.repeat_interleave(2, 0)
        scores = queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        paid = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        visual = tokens.visual_places
        torch.testing.assert_close(
            tokens.visual_attention, paid[:, visual][:, :, visual], atol=1e-5, rtol=1e-4
        )
        behind = tokens.text_places[tokens.text_places > visual[0]]
        torch.testing.assert_close(
            tokens.text_attention, paid[:, behind][:, :, visual], atol=1e-5, rtol=1e-4
        )


# ---- positions -----------------------------------------------------------------------------------


@contextmanager
def rotary_ids(model: Any) -> Iterator[list[Tensor]]:
    """The position ids that the model's rotary module is given."""
    calls: list[Tensor] = []
    handle = (
        family_of(model)
        .rotary(model)
        .register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args[1:2] or [kwargs["position_ids"]])[0]),
            with_kwargs=True,
        )
    )
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("name", MARKED)
def test_position_ids_are_those_of_the_model(name: str) -> None:
    """At the decoder's input and before a layer; one axis, or three."""
    miniature = build(name)
    inputs = PROMPTS["padded batch"](miniature)
    signals = frozenset({Signal.POSITION_IDS, Signal.VISUAL_PLACES})
    with rotary_ids(miniature.model) as calls, torch.no_grad():
        miniature.model(**inputs)
    at_input = watched(miniature, inputs, Stage(INPUT, 5), signals=signals)
    at_layer = watched(miniature, inputs, Stage(llm(2), 5), signals=signals)
    for row, (first, second) in enumerate(zip(at_input, at_layer, strict=True)):
        own = calls[0] if calls[0].dim() == 3 else calls[0][None]
        start = int((inputs["attention_mask"][row] == 0).sum())
        assert first.position_ids.tolist() == own.expand(-1, 2, -1)[-3:, row, start:].tolist()
        assert torch.equal(first.position_ids, second.position_ids)
        assert torch.equal(first.visual_places, second.visual_places)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_position_ids_at_a_later_stage(name: str, positions: Any) -> None:
    """Gaps are there or closed, as for the layers."""
    miniature = build(name)
    inputs = PROMPTS["one image"](miniature)
    signals = frozenset({Signal.POSITION_IDS, Signal.VISUAL_PLACES})
    for site in (INPUT, llm(2)):
        plan = Stage(site, 5), Stage(llm(4), 3)
        first, second = watched(miniature, inputs, *plan, positions=positions, signals=signals)
        visual = first.visual_places
        survivors = torch.ones(first.position_ids.shape[1], dtype=torch.bool)
        survivors[visual] = False
        survivors[visual[second.index]] = True
        left = first.position_ids[:, survivors]
        if positions == "compact":
            values = left.unique()
            # the first position stays what it is
            left = values[0] + torch.searchsorted(values, left)
        assert second.position_ids.tolist() == left.tolist()


# ---- layers --------------------------------------------------------------------------------------


def test_earlier_features_are_what_entered_the_layer_before(miniature_name: str) -> None:
    miniature = build(miniature_name)
    inputs = PROMPTS["padded batch"](miniature)
    entering: list[Tensor] = []
    layer = family_of(miniature.model).layers(miniature.model)[1]
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: entering.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    with torch.no_grad():
        miniature.model(**inputs)
    handle.remove()
    seen = watched(
        miniature, inputs, Stage(llm(2), 5), signals=frozenset({Signal.EARLIER_FEATURES})
    )
    for row, tokens in enumerate(seen):
        visual, _ = places_of(miniature, inputs, row)
        torch.testing.assert_close(tokens.earlier_features, entering[0][row, visual])
        assert not torch.allclose(tokens.earlier_features, tokens.features, atol=1e-2)


@pytest.fixture(params=["llava", "qwen2_5_vl", "qwen3_vl"])
def miniature_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def parts_by_hand(
    model: Any, inputs: dict[str, Any], layers: tuple[int, ...]
) -> dict[int, list[Tensor]]:
    """By layer [B, S, 2] of its attention and of its feed-forward module."""
    family, changes = family_of(model), {layer: [] for layer in layers}
    handles = []

    def note(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = (*args, *kwargs.values())[0] if args else kwargs["hidden_states"]
            after = (output[0] if isinstance(output, tuple) else output).view_as(before)
            products = (before.double() * after.double()).sum(-1)
            norms = before.double().norm(dim=-1), after.double().norm(dim=-1)
            both = [norms[1] / norms[0], products / (norms[0] * norms[1])]
            changes[layer].append(torch.stack(both, dim=-1))

        return hook

    for layer in layers:
        block: Any = family.layers(model)[layer]
        feed_forward = block.mlp if hasattr(block, "mlp") else block.feed_forward
        for module in (block.self_attn, feed_forward):
            handles.append(module.register_forward_hook(note(layer), with_kwargs=True))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return changes


@pytest.mark.parametrize("name", MARKED)
def test_transitions_compare_what_enters_and_leaves_the_parts_of_layers(name: str) -> None:
    """Experts or not; two layers at the first stage, and one more at the second."""
    miniature = build(name)
    inputs = PROMPTS["padded batch"](miniature)
    named = {Signal.TRANSITIONS: (3, 1, 2)}
    want = parts_by_hand(miniature.model, inputs, (1, 2, 3))
    plan = Stage(llm(3), 6), Stage(llm(4), 3)
    signals = frozenset({Signal.TRANSITIONS, Signal.VISUAL_PLACES, Signal.TEXT_PLACES})
    seen = watched(miniature, inputs, *plan, layers=named, signals=signals)
    for row, tokens in enumerate(seen):
        row %= 2
        start = int((inputs["attention_mask"][row] == 0).sum())
        layers = (1, 2) if tokens.site == llm(3) else (1, 2, 3)
        assert tokens.transitions.shape[0] == len(layers)
        visual, _ = places_of(miniature, inputs, row)
        alive = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
        alive[:start] = False
        alive[visual] = False
        alive[visual[tokens.index]] = True
        # layer 3 is entered by what the first stage left, so its own rows are not the model's
        for number, layer in enumerate(layers[:2]):
            for part in range(2):
                own = want[layer][part][row, alive]
                got = tokens.transitions[number, part]
                torch.testing.assert_close(got, own.float(), atol=1e-4, rtol=1e-3)


def test_transitions_of_a_thinned_layer() -> None:
    """A layer behind a stage shows what it was given there."""
    miniature = build("qwen2_5_vl")
    inputs = PROMPTS["padded batch"](miniature)
    plan = Stage(llm(2), 6), Stage(llm(4), 3)
    options: dict[str, Any] = {"signals": frozenset({Signal.TRANSITIONS})}
    together = watched(miniature, inputs, *plan, **options)[2:]
    named = watched(miniature, inputs, *plan, layers={Signal.TRANSITIONS: (0, 3)}, **options)
    for row, (first, second) in enumerate(zip(together, named[2:], strict=True)):
        assert torch.equal(first.transitions[0], second.transitions[1])
        # what entered layer 0 was longer, and has lost the same rows since
        assert second.transitions.shape[2] == first.transitions.shape[2]
        assert named[row].transitions.shape[2] > second.transitions.shape[2]


# ---- batches, drafts, traces ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKED)
def test_a_sample_of_a_batch_is_shown_what_it_is_shown_alone(name: str) -> None:
    miniature = build(name)
    prompts = [
        ([picture(*miniature.sizes[0])], "color of 5"),
        ([picture(*miniature.sizes[1], 1)], "digit on red square"),
    ]
    plan = Stage(llm(2), 9), Stage(llm(4), 4)
    options: dict[str, Any] = {"signals": NEW_IN_LLM, "generate": True}
    together = watched(miniature, miniature.inputs(*prompts), *plan, **options)
    for row, prompt in enumerate(prompts):
        alone = watched(miniature, miniature.inputs(prompt), *plan, **options)
        for first, second in zip(together[row::2], alone, strict=True):
            shown = set(first.signals)
            assert shown == set(second.signals) == NEW_IN_LLM
            for signal in shown:
                torch.testing.assert_close(
                    first.signals[signal], second.signals[signal], atol=1e-3, rtol=1e-3
                )


def test_drafts_are_no_part_of_what_is_shown() -> None:
    """Guesses at the answer stand behind the prompt while it is read."""
    miniature = build("qwen2_5_vl")
    inputs = miniature.inputs(([picture(112, 84)], "color of 5 color of 5 color of"))
    lengths: list[int] = []
    decoder = miniature.model.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    spies = []
    for options in ({}, {"prompt_lookup_num_tokens": 2}):
        spy = Watch(NEW_IN_LLM)
        with prune(miniature.model, spy, plan=(Stage(llm(2), 9), Stage(llm(4), 4))):
            miniature.model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
        spies.append(spy)
    handle.remove()
    assert inputs["input_ids"].shape[1] + 2 in lengths
    for first, second in zip(spies[0].seen, spies[1].seen, strict=True):
        for signal in NEW_IN_LLM:
            torch.testing.assert_close(
                first.signals[signal], second.signals[signal], atol=1e-4, rtol=1e-3
            )


def test_what_is_shown_is_a_copy(miniature_name: str) -> None:
    """Zeros in all that a method was shown change no answer."""
    miniature = build(miniature_name)
    inputs = PROMPTS["one image"](miniature)

    @dataclass(frozen=True)
    class Vandal(Watch):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            keep = super().prune(tokens, stage)
            for value in tokens.signals.values():
                value.zero_()
            return keep

    answers = []
    for method in (Watch, Vandal):
        with torch.no_grad(), prune(miniature.model, method(NEW_IN_LLM), plan=(Stage(llm(2), 5),)):
            answers.append(miniature.model(**inputs).logits)
    assert torch.equal(*answers)


def test_hooks_on_parts_go_with_the_prefill() -> None:
    miniature = build("qwen2_5_vl")
    inputs = PROMPTS["one image"](miniature)
    parts = [
        module
        for layer in miniature.model.get_decoder().layers
        for module in (layer.self_attn, layer.mlp)
    ]
    counts: list[int] = []

    def hooks() -> int:
        return sum(len(part._forward_hooks) for part in parts)

    @dataclass(frozen=True)
    class Counting(Watch):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            counts.append(hooks())
            return super().prune(tokens, stage)

    before = hooks()
    method = Counting(frozenset({Signal.TRANSITIONS}), {Signal.TRANSITIONS: (0, 1)})
    with prune(miniature.model, method, plan=(Stage(llm(2), 5),)):
        miniature.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert hooks() == before
    # attention and feed-forward of two layers
    assert counts == [before + 4]


# ---- what it costs -------------------------------------------------------------------------------


def test_reading_is_priced(model: Any, inputs_of: Any) -> None:
    """In FLOPs: projections of a layer that is run dry, attention of image rows; what the model has
    made anyway costs none.
    """
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    width, visual = inputs["input_ids"].shape[1], 12

    def flops(*signals: Signal) -> int:
        spy = Watch(frozenset(signals))
        pruning = prune(model, spy, plan=(Stage(llm(2), 6),), count_flops=True)
        with torch.no_grad(), pruning as trace:
            model(**inputs)
        assert len(spy.seen[0]) == visual
        number = trace.samples[0].selector_flops
        assert number is not None
        return number

    free = (
        Signal.PROMPT_QUERIES,
        Signal.PROMPT_KEYS,
        Signal.PROMPT_VALUES,
        Signal.EARLIER_FEATURES,
        Signal.TRANSITIONS,
        Signal.VISUAL_PLACES,
        Signal.POSITION_IDS,
    )
    assert flops(*free) == 0
    # 4 heads of queries and 2 of keys and of values, 20 wide, of rows that are 80 wide
    projections = 2 * width * 80 * (4 + 2 + 2) * 20
    assert flops(Signal.NEXT_KEYS) == flops(Signal.NEXT_KEYS, Signal.NEXT_QUERIES) == projections
    assert flops(Signal.NEXT_ROTATED_KEYS) == projections
    assert flops(Signal.NEXT_KEYS, Signal.NEXT_ROTATED_KEYS) == 2 * projections
    assert flops(Signal.VISUAL_ATTENTION) == 2 * 4 * visual * width * 20
    _, text = places_of_ids(model, inputs["input_ids"][0])
    assert flops(Signal.NEXT_TEXT_ATTENTION) == projections + 2 * 4 * len(text) * width * 20


def places_of_ids(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The places of visual tokens, and those of the text behind the first."""
    visual = family_of(model).visual(model, ids[None])[0]
    columns = torch.arange(len(visual))
    return columns[visual], columns[~visual & (columns > visual.nonzero()[0, 0])]


def test_a_stage_that_does_not_read_costs_nothing(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"))

    @dataclass(frozen=True)
    class Late(Watch):
        @property
        def reads(self) -> Reads:
            return Reads(frozenset({Signal.NEXT_KEYS, Signal.VISUAL_ATTENTION})).only_at(llm(4))

    counts = []
    for late in (Late(), Watch(frozenset({Signal.NEXT_KEYS, Signal.VISUAL_ATTENTION}))):
        plan = Stage(llm(2), 6), Stage(llm(4), 3)
        with torch.no_grad(), prune(model, late, plan=plan, count_flops=True) as trace:
            model(**inputs)
        counts.append(trace.samples[0].selector_flops or 0)
        assert (Signal.NEXT_KEYS in late.seen[0].signals) == (not isinstance(late, Late))
    assert 0 < counts[0] < counts[1]


# ---- refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused() -> None:
    hybrid, plain = build("qwen3_5_vl"), build("qwen2_5_vl")
    state = "layer 0 keeps a state instead of attending to tokens"
    for miniature, site, options, error, message in (
        (hybrid, llm(1), {"signals": {Signal.VISUAL_ATTENTION}}, Unsupported, state),
        (hybrid, llm(1), {"signals": {Signal.PROMPT_VALUES}}, Unsupported, state),
        (
            hybrid,
            llm(1),
            {"signals": {Signal.TRANSITIONS}},
            Unsupported,
            f"transitions at.*{state}",
        ),
        (
            hybrid,
            llm(5),
            {"signals": {Signal.NEXT_KEYS}},
            Unsupported,
            "next_keys at llm:5, and layer 5 keeps a state.*nearest site.*llm:4",
        ),
        (
            plain,
            llm(2),
            {"signals": {Signal.TRANSITIONS}, "layers": {Signal.TRANSITIONS: (1, 9)}},
            Unsupported,
            r"reads transitions in layer 9; the model has layers 0\.\.5",
        ),
        (
            plain,
            llm(2),
            {"signals": {Signal.TRANSITIONS}, "layers": {Signal.TRANSITIONS: (3,)}},
            ValueError,
            "needs transitions at llm:2, before the layers that it is read in",
        ),
        (plain, INPUT, {"signals": {Signal.EARLIER_FEATURES}}, ValueError, "no LLM layer has run"),
    ):
        inputs = PROMPTS["one image"](miniature)
        options["signals"] = frozenset(options["signals"])  # type: ignore[index]
        with pytest.raises(error, match=message):
            watched(miniature, inputs, Stage(site, 5), **options)  # type: ignore[arg-type]


# ---- the vision encoder --------------------------------------------------------------------------


@contextmanager
def kernel_of(miniature: Miniature, block: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Queries, keys, values and weights of a vision block's own eager kernel."""
    family = family_of(miniature.model)
    attention = family.block_attention(family.blocks(miniature.model)[block])
    module: Any = importlib.import_module(type(attention).__module__)
    kernel, calls = module.eager_attention_forward, []

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
@pytest.mark.parametrize("masked", [False, True])
def test_received_attention_is_made_in_parts(
    lengths: tuple[int, ...] | None, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long and short sequences, packed or padded ones; all heads together, or one by one."""
    from prunebench.engine import readings

    generator = torch.Generator().manual_seed(0)
    batch = 1 if lengths else 2
    query, key = torch.randn(2, batch, 4, 600, 8, generator=generator)
    mask = None
    if masked and not lengths:
        mask = torch.zeros(batch, 1, 600, 600)
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
