"""Signals of the language model are what it computes: attention, heads, changes, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import picture
from families import Miniature
from test_families import MARKED, PROMPTS
from torch import Tensor, nn

from prunebench import INPUT, Keep, Pruner, Reads, Signal, Site, Stage, VisualTokens, llm, prune
from prunebench.models import family_of
from prunebench.models.base import Unsupported
from prunebench.signals import CLIP, LAYERS

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
@pytest.mark.parametrize("name", MARKED)
def test_the_layer_behind_a_site_then_does_what_was_foreseen(name: str, positions: Any) -> None:
    """A stage that drops nothing lies between what is read ahead and what is read behind it."""
    miniature = build(name)
    inputs = PROMPTS["padded batch"](miniature)
    plan = Stage(llm(2), 9), Stage(llm(4), 9), Stage(llm(5), 4)
    signals = frozenset(
        {
            Signal.NEXT_ROTATED_KEYS,
            Signal.NEXT_TEXT_ATTENTION,
            Signal.PROMPT_KEYS,
            Signal.TEXT_ATTENTION,
        }
    )
    ahead = frozenset({Signal.NEXT_ROTATED_KEYS, Signal.NEXT_TEXT_ATTENTION})

    @dataclass(frozen=True)
    class Ahead(Watch):
        @property
        def reads(self) -> Reads:
            # the last layer of a family may keep a state
            return Reads(ahead).only_at(llm(4)) | Reads(signals - ahead).only_at(llm(5))

    spy = Ahead()
    with torch.no_grad(), prune(miniature.model, spy, plan=plan, positions=positions):
        miniature.model.generate(**inputs, max_new_tokens=1)
    for first, second in zip(spy.seen[2:4], spy.seen[4:], strict=True):
        torch.testing.assert_close(first.next_rotated_keys, second.prompt_keys)
        torch.testing.assert_close(first.next_text_attention, second.text_attention)


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
    family = family_of(model)
    changes: dict[int, list[Tensor]] = {layer: [] for layer in layers}
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
    queries, keys = 2 * width * 80 * 4 * 20, 2 * width * 80 * 2 * 20
    query, value = queries // width, keys // width
    # values are nobody's; and where no queries are read, or the last one alone, that one is made
    fewest = keys + value + query
    assert flops(Signal.NEXT_KEYS) == flops(Signal.NEXT_ROTATED_KEYS) == fewest
    assert flops(Signal.NEXT_KEYS, Signal.NEXT_ROTATED_KEYS) == 2 * fewest
    assert flops(Signal.NEXT_QUERY_ATTENTION) == fewest + 2 * 4 * width * 20
    projections = queries + keys + value
    assert flops(Signal.NEXT_KEYS, Signal.NEXT_QUERIES) == projections
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


STATE = "layer 0 keeps a state instead of attending to tokens"
REFUSED: tuple[tuple[str, Site, Signal, tuple[int, ...], type[Exception], str], ...] = (
    ("qwen3_5_vl", llm(1), Signal.VISUAL_ATTENTION, (), Unsupported, STATE),
    ("qwen3_5_vl", llm(1), Signal.PROMPT_VALUES, (), Unsupported, STATE),
    ("qwen3_5_vl", llm(1), Signal.TRANSITIONS, (), Unsupported, f"transitions at.*{STATE}"),
    ("qwen3_5_vl", llm(5), Signal.NEXT_KEYS, (), Unsupported, "next_keys at llm:5, and layer 5"),
    ("qwen2_5_vl", llm(2), Signal.TRANSITIONS, (1, 9), Unsupported, "in layer 9; the model has"),
    ("qwen2_5_vl", llm(2), Signal.TRANSITIONS, (3,), ValueError, "prune at llm:4 or later"),
    ("qwen2_5_vl", INPUT, Signal.EARLIER_FEATURES, (), ValueError, "no LLM layer has run"),
)


@pytest.mark.parametrize(("name", "site", "signal", "layers", "error", "message"), REFUSED)
def test_what_cannot_be_read_is_refused(
    name: str,
    site: Site,
    signal: Signal,
    layers: tuple[int, ...],
    error: type[Exception],
    message: str,
) -> None:
    miniature, named = build(name), {signal: layers} if layers else {}
    inputs = PROMPTS["one image"](miniature)
    with pytest.raises(error, match=message):
        watched(miniature, inputs, Stage(site, 5), signals=frozenset({signal}), layers=named)
