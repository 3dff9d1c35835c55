"""What a stage may be: it may keep nothing, weigh its survivors, and read what exists there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import families
import pytest
import torch
from conftest import miniature, picture
from oracle import Rows, logits
from test_calls import image_last
from test_equivalence import PROMPTS, Draw, dead_columns, run
from torch import Tensor

from prunebench import (
    INPUT,
    Keep,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    alive,
    cached,
    llm,
    prune,
)
from prunebench.contract import Breach, walk
from prunebench.engine.stream import EngineError
from prunebench.models import family_of
from prunebench.sites import Part
from prunebench.testing import tokens

CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-4}

# ---- nothing is left -----------------------------------------------------------------------------

TO_NOTHING: dict[str, tuple[Stage, ...]] = {
    "input": (Stage(INPUT, 0),),
    "llm:2": (Stage(llm(2), 0),),
    "after a stage": (Stage(INPUT, 6), Stage(llm(3), 0)),
    "twice": (Stage(llm(1), 0), Stage(llm(3), 0)),
    "compact": (Stage(llm(2), 4), Stage(llm(4), 0, compact=True)),
}


@dataclass(frozen=True)
class Counting(Draw):
    """Notes how many tokens it was shown."""

    counts: list[int] = field(default_factory=list, compare=False)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.counts.append(len(tokens))
        return super().prune(tokens, stage)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("plan", TO_NOTHING)
def test_a_stage_may_keep_nothing(
    model: Any, inputs_of: Any, plan: str, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    pruner = Counting()
    stages = TO_NOTHING[plan]
    answer, got, trace = run(model, inputs, pruner, plan=stages, positions=positions)
    if not any(stage.compact for stage in stages):
        dead = dead_columns(model, inputs, trace)
        want = logits(model, inputs, answer, dead, positions == "compact")
        torch.testing.assert_close(got, want, **CLOSE)
    assert pruner.counts == [s.available for s in trace.samples] * (stages[0].keep > 0)
    for sample in trace.samples:
        assert len(sample.survivors()) == 0
        assert sample.entering == alive(stages, sample.available, 6)
        assert sample.cached == cached(stages, sample.available, 6)


@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_caches_are_cut_from_a_layer_on(
    model: Any, inputs_of: Any, first: int, prompt: str
) -> None:
    """An answer's queries no longer see what was cut there; the prompt's have seen it."""
    inputs = PROMPTS[prompt](inputs_of)
    stages = (Stage(llm(2), 6), Stage(llm(4), 3, compact_from=first))
    answer, got, trace = run(model, inputs, Draw(), plan=stages)
    for sample in trace.samples:
        assert sample.entering == alive(stages, sample.available, 6)
        assert sample.cached == cached(stages, sample.available, 6)
        assert sample.cached[first:] == [3] * (6 - first)
        assert sample.cached[:first] == sample.entering[:first]
    # what an answer's queries cannot see is a bias on the dropped that leaves them nothing
    dead = dead_columns(model, inputs, trace)
    late = [
        torch.zeros(dead[0].shape).masked_fill(dead[4], -1e9 * (number >= first))
        for number in range(6)
    ]
    whole = torch.arange(dead[0].shape[1]).expand(dead[0].shape)
    rows = [Rows(whole, whole, each) for each in late]
    want = logits(model, inputs, answer, dead, rows=rows)
    torch.testing.assert_close(got, want, **CLOSE)


def test_a_cache_cannot_be_cut_from_no_layer(model: Any, inputs_of: Any) -> None:
    plan = (Stage(llm(2), 6, compact_from=6),)
    message = "Draw compacts from layer 6 on at llm:2; it must be one of 0..5"
    with pytest.raises(EngineError, match=message):
        run(model, PROMPTS["one image"](inputs_of), Draw(), plan=plan)


@dataclass(frozen=True)
class Vanishing(Draw):
    """May keep fewer than it may, and keeps none."""

    dynamic = True

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.empty(0, dtype=torch.int64))


def test_a_dynamic_method_may_keep_nothing(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    answer, got, trace = run(model, inputs, Vanishing(), plan=(Stage(llm(2), 4), Stage(llm(3), 4)))
    want = logits(model, inputs, answer, dead_columns(model, inputs, trace))
    torch.testing.assert_close(got, want, **CLOSE)
    with pytest.raises(EngineError, match="keeps 0 of 12 tokens; the stage asks for 3"):
        run(model, PROMPTS["one image"](inputs_of), Fixed(), plan=(Stage(INPUT, 3),))


@dataclass(frozen=True)
class Fixed(Vanishing):
    dynamic = False


def test_outside_a_model_too() -> None:
    pruner = Counting()
    sample = tokens(rows=3, columns=4)
    steps = walk(pruner, (Stage(INPUT, 5), Stage(llm(1), 0), Stage(llm(2), 0)), sample)
    assert [len(step.keep.index) for step in steps] == [5, 0, 0]
    assert pruner.counts == [12]


@pytest.mark.parametrize("site", [INPUT, llm(2)])
def test_the_last_position_of_a_prompt_stays(model: Any, inputs_of: Any, site: Site) -> None:
    """A prompt that ends in its image: the answer starts from there, whatever a stage keeps."""
    served, inputs, text = image_last("qwen2_5_vl", model, inputs_of)
    with prune(served, Draw(), plan=(Stage(site, 0),)) as trace, torch.no_grad():
        steps = [served(**inputs)]
        for token in text[0, :2]:
            cache = steps[0].past_key_values
            steps.append(served(input_ids=token[None, None], past_key_values=cache))
    got = torch.cat([step.logits[:, -1:] for step in steps], dim=1)
    want = logits(served, inputs, text, dead_columns(served, inputs, trace))
    torch.testing.assert_close(got, want, **CLOSE)
    assert [sample.survivors().tolist() for sample in trace.samples] == [[11]]


@pytest.mark.parametrize("name", families.names())
@pytest.mark.parametrize("plan", ["input", "after a stage"])
def test_every_family_goes_on_without_visual_tokens(name: str, plan: str) -> None:
    """Also those that add visual features behind their first layers, or bring newlines."""
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    answer, got, trace = run(family.model, inputs, Draw(), plan=TO_NOTHING[plan])
    want = logits(family.model, inputs, answer, dead_columns(family.model, inputs, trace))
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)


# ---- a bias on the survivors' keys ---------------------------------------------------------------


def weights(site: Site, index: Tensor) -> Tensor:
    """[K] a bias that depends on the site and on which token it is for."""
    return 1.5 * torch.sin(1.0 + site.layer + 2.0 * index)


@dataclass(frozen=True)
class Weighing(Draw):
    """A draw whose survivors' keys count more or less than they would, at some sites."""

    where: tuple[Site, ...] = ()

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        keep = super().prune(tokens, stage)
        if stage.site not in self.where:
            return keep
        return Keep(keep.index, bias=weights(stage.site, tokens.index[keep.index]))


def bias_columns(model: Any, inputs: dict[str, Any], trace: Any, pruner: Weighing) -> list[Tensor]:
    """Per layer [B, S]: what is added to the scores of each key, from the trace's kept indices."""
    visual = family_of(model).visual(model, inputs["input_ids"])
    bias = [torch.zeros(visual.shape) for _ in family_of(model).layers(model)]
    for row, sample in enumerate(trace.samples):
        places = visual[row].nonzero()[:, 0]
        for site in pruner.where:
            kept = sample.kept[site]
            for layer in range(site.layer, len(bias)):
                bias[layer][row, places[kept]] += weights(site, kept)
    return bias


BIASED: dict[str, tuple[tuple[Stage, ...], tuple[Site, ...]]] = {
    "input": ((Stage(INPUT, 7),), (INPUT,)),
    "input keeps all": ((Stage(INPUT, 12),), (INPUT,)),
    "llm:2": ((Stage(llm(2), 5),), (llm(2),)),
    "then dropped": ((Stage(llm(1), 8), Stage(llm(3), 3)), (llm(1),)),
    "twice": ((Stage(INPUT, 8), Stage(llm(2), 8), Stage(llm(4), 3)), (INPUT, llm(2))),
    "late": ((Stage(INPUT, 8), Stage(llm(5), 4)), (llm(5),)),
    "all dropped": ((Stage(llm(1), 8), Stage(llm(3), 0)), (llm(1),)),
}


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
@pytest.mark.parametrize("plan", BIASED)
def test_a_bias_is_added_in_all_later_layers(
    model: Any, inputs_of: Any, plan: str, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    stages, where = BIASED[plan]
    if "keeps all" in plan and prompt == "padded batch":
        stages = (Stage(INPUT, 6),)
    pruner = Weighing(where=where)
    answer, got, trace = run(model, inputs, pruner, plan=stages, positions=positions)
    dead, bias = dead_columns(model, inputs, trace), bias_columns(model, inputs, trace, pruner)
    want = logits(model, inputs, answer, dead, positions == "compact", bias)
    torch.testing.assert_close(got, want, **CLOSE)
    unbiased = logits(model, inputs, answer, dead, positions == "compact")
    if plan != "all dropped":
        assert (unbiased - got).abs().max() > 1e-2


def test_random_plans_with_biases(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        layers = sorted(torch.randperm(5, generator=draw)[:3].tolist())
        keeps = sorted(torch.randint(0, 7, (3,), generator=draw).tolist(), reverse=True)
        sites = [llm(layer) if layer else INPUT for layer in layers]
        stages = tuple(Stage(site, keep) for site, keep in zip(sites, keeps, strict=True))
        biased = tuple(site for site, keep in zip(sites, keeps, strict=True) if keep % 2)
        pruner = Weighing(where=biased)
        answer, got, trace = run(model, inputs, pruner, plan=stages)
        dead, bias = dead_columns(model, inputs, trace), bias_columns(model, inputs, trace, pruner)
        torch.testing.assert_close(got, logits(model, inputs, answer, dead, bias=bias), **CLOSE)


@pytest.mark.parametrize("name", families.names())
def test_every_family_takes_a_bias(name: str) -> None:
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    stages, where = BIASED["twice"]
    pruner = Weighing(where=where)
    answer, got, trace = run(family.model, inputs, pruner, plan=stages)
    dead = dead_columns(family.model, inputs, trace)
    bias = bias_columns(family.model, inputs, trace, pruner)
    want = logits(family.model, inputs, answer, dead, bias=bias)
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)


def test_a_bias_and_drafts(model: Any, inputs_of: Any) -> None:
    """Assisted decoding asks several tokens at once, which all see the bias."""
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    pruner = Weighing(where=(llm(2),))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    answers = []
    for more in ({}, {"prompt_lookup_num_tokens": 3}):
        with prune(model, pruner, plan=(Stage(llm(2), 5),), seeds=[3]):
            answers.append(model.generate(**inputs, **options, **more))
    assert torch.equal(*answers)


def test_eager_takes_a_bias_and_compaction_keeps_it_from_earlier_layers(
    model: Any, eager_model: Any, inputs_of: Any
) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    pruner = Weighing(where=(INPUT, llm(3)))
    plan = (Stage(INPUT, 6), Stage(llm(3), 3, compact=True))
    _, sdpa, trace = run(model, inputs, pruner, plan=plan)
    _, eager, _ = run(eager_model, inputs, pruner, plan=plan)
    torch.testing.assert_close(eager, sdpa, **CLOSE)
    assert all(sample.cached == [3] * 6 for sample in trace.samples)
    # with the same survivors at both stages compaction changes nothing
    even = (Stage(INPUT, 6), Stage(llm(3), 6, compact=True))
    answer, got, trace = run(model, inputs, pruner, plan=even)
    dead, bias = dead_columns(model, inputs, trace), bias_columns(model, inputs, trace, pruner)
    torch.testing.assert_close(got, logits(model, inputs, answer, dead, bias=bias), **CLOSE)


@dataclass(frozen=True)
class Seeing(Weighing):
    """Weighs at the input, and notes at its later stage the attention that was paid."""

    needs = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.NEXT_QUERY_ATTENTION})
    views: list[VisualTokens] = field(default_factory=list, compare=False)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if stage.site.part is Part.LLM:
            self.views.append(tokens)
        return super().prune(tokens, stage)


def test_attention_that_is_shown_has_the_bias(eager_model: Any, inputs_of: Any) -> None:
    """What a later stage reads is what the model's own layers paid, bias included."""
    inputs = PROMPTS["one image"](inputs_of)
    pruner = Seeing(where=(INPUT,))
    plan = (Stage(INPUT, 8), Stage(llm(2), 8))
    with prune(eager_model, pruner, plan=plan, seeds=[3]), torch.no_grad():
        out = eager_model(**inputs, output_attentions=True)
    (view,) = pruner.views
    visual = family_of(eager_model).visual(eager_model, inputs["input_ids"])[0]
    first = int(visual.nonzero()[0])
    columns = slice(first, first + 8)
    paid = [attention[0, :, -1, columns] for attention in out.attentions]
    torch.testing.assert_close(view.last_query_attention, paid[1], atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(view.next_query_attention, paid[2], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.zeros(3), r"bias is \[3\]; it must be \[K\] = \[4\]"),
        (torch.zeros(4, dtype=torch.int64), "bias is torch.int64; it must be a floating type"),
        (torch.full((4,), float("inf")), "bias is not finite"),
        ([0.0] * 4, "bias is a list; it must be a tensor"),
    ],
)
def test_a_broken_bias_is_named(model: Any, inputs_of: Any, bias: Any, message: str) -> None:
    @dataclass(frozen=True)
    class Broken(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.arange(4), bias=bias)

    with prune(model, Broken(), plan=(Stage(INPUT, 4),)), pytest.raises(EngineError, match=message):
        model(**PROMPTS["one image"](inputs_of))
    with pytest.raises(Breach, match=message):
        walk(Broken(), (Stage(INPUT, 4),), tokens())


def test_flash_attention_takes_no_bias(inputs_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = miniature()
    monkeypatch.setattr(odd.get_decoder().config, "_attn_implementation", "flash_attention_2")
    pruner = Weighing(where=(INPUT,))
    with (
        prune(odd, pruner, plan=(Stage(INPUT, 4),)),
        pytest.raises(Unsupported, match="Weighing gives a bias at input, which flash"),
    ):
        odd(**PROMPTS["one image"](inputs_of))


# ---- signals per stage ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoStage(Pruner):
    """Ranks at the input by what patches receive, and in the language model by the last query."""

    needs = frozenset({Signal.RECEIVED_ATTENTION, Signal.LAST_QUERY_ATTENTION})
    views: list[VisualTokens] = field(default_factory=list, compare=False)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.views.append(tokens)
        if stage.site == INPUT:
            scores = tokens.received_attention.mean(dim=(0, 1))
        else:
            scores = tokens.last_query_attention.mean(dim=0)
        return Keep(scores.topk(stage.keep).indices)


BOTH = (Stage(INPUT, 8), Stage(llm(2), 4))


def test_a_stage_is_shown_what_exists_there(model: Any, inputs_of: Any) -> None:
    pruner = TwoStage()
    run(model, PROMPTS["one image"](inputs_of), pruner, plan=BOTH)
    first, second = pruner.views
    assert set(first.signals) == {Signal.RECEIVED_ATTENTION}
    assert set(second.signals) == pruner.needs
    message = "last_query_attention does not exist at input.*prune at llm:1 or later"
    with pytest.raises(AttributeError, match=message):
        _ = first.last_query_attention


def test_a_signal_that_exists_at_no_stage_is_refused(model: Any, inputs_of: Any) -> None:
    message = "TwoStage needs last_query_attention at input, where no LLM layer has run"
    with (
        prune(model, TwoStage(), plan=(Stage(INPUT, 8),)),
        pytest.raises(EngineError, match=message),
    ):
        model(**PROMPTS["one image"](inputs_of))


@dataclass(frozen=True)
class Choosy(TwoStage):
    """The same, and says which stage reads what."""

    first: Any = INPUT

    @property
    def reads(self) -> Reads:
        early = Reads(frozenset({Signal.RECEIVED_ATTENTION})).only_at(self.first)
        late = Reads(frozenset({Signal.LAST_QUERY_ATTENTION, Signal.KEYS})).only_at(Part.LLM)
        return early | late


def test_a_method_may_say_which_stage_reads_what(model: Any, inputs_of: Any) -> None:
    pruner = Choosy()
    run(model, PROMPTS["one image"](inputs_of), pruner, plan=BOTH)
    first, second = pruner.views
    assert set(first.signals) == {Signal.RECEIVED_ATTENTION}
    assert set(second.signals) == {Signal.LAST_QUERY_ATTENTION, Signal.KEYS}
    with pytest.raises(AttributeError, match="received_attention is read at other stages, not at"):
        _ = second.received_attention


def test_what_a_stage_does_not_read_is_not_computed(model: Any, inputs_of: Any) -> None:
    """By the FLOPs of two stages in the language model, one of which reads attention."""

    @dataclass(frozen=True)
    class Once(Draw):
        places: tuple[Site, ...] = ()

        @property
        def reads(self) -> Reads:
            return Reads(frozenset({Signal.LAST_QUERY_ATTENTION})).only_at(*self.places)

    inputs = PROMPTS["one image"](inputs_of)
    flops: dict[tuple[Site, ...], int] = {}
    for places in ((llm(1), llm(3)), (llm(1),), (llm(3),)):
        pruner = Once(places=places)
        plan = (Stage(llm(1), 6), Stage(llm(3), 3))
        with prune(model, pruner, plan=plan, count_flops=True) as trace, torch.no_grad():
            model(**inputs)
        selector_flops = trace.samples[0].selector_flops
        assert selector_flops is not None
        flops[places] = selector_flops
    width = inputs["input_ids"].shape[1]
    # one query row of 4 heads of 20 dims against every key
    assert flops[llm(1),] == 2 * 4 * 20 * width
    assert flops[llm(3),] == 2 * 4 * 20 * (width - 6)
    assert flops[llm(1), llm(3)] == flops[llm(1),] + flops[llm(3),]


def test_a_place_where_a_signal_cannot_be_is_refused(model: Any, inputs_of: Any) -> None:
    @dataclass(frozen=True)
    class Lost(Choosy):
        @property
        def reads(self) -> Reads:
            return Reads(frozenset({Signal.KEYS})).only_at(INPUT)

    with prune(model, Lost(), plan=BOTH), pytest.raises(EngineError, match="Lost needs keys at"):
        model(**PROMPTS["one image"](inputs_of))


def test_a_signal_of_a_stage_that_is_not_planned_is_no_fault(model: Any, inputs_of: Any) -> None:
    pruner = Choosy()
    run(model, PROMPTS["one image"](inputs_of), pruner, plan=BOTH[:1])
    assert set(pruner.views[0].signals) == {Signal.RECEIVED_ATTENTION}


def test_walks_show_a_stage_what_exists_there() -> None:
    pruner = TwoStage()
    walk(pruner, BOTH, tokens(needs=pruner.needs))
    assert set(pruner.views[0].signals) == {Signal.RECEIVED_ATTENTION}
    assert set(pruner.views[1].signals) == pruner.needs
