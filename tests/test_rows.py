"""What survivors may go on with: another order, other position ids, a bias that differs from layer
to layer or depends on distances.
"""

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
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    llm,
    prune,
    vision,
)
from prunebench.contract import Breach, walk
from prunebench.engine.stream import EngineError
from prunebench.models import family_of
from prunebench.sites import Part
from prunebench.testing import tokens

CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}

SEVERAL = ["llava", "llava_next", "internvl", "qwen2_5_vl", "qwen3_vl", "smolvlm"]


def near(distance: Tensor) -> Tensor:
    """[n, n] what is added at distances [P, n, n]."""
    return 0.8 * torch.cos(0.7 * distance).mean(0) + 0.02 * distance[0]


@dataclass(frozen=True)
class Arranging(Draw):
    """A draw that goes on in the order of the draw, with ids of other tokens, and a bias that
    differs in the first `depth` layers; what it answered is noted.
    """

    order: Any = "given"
    wears: bool = False
    depth: int = 0
    pairs: bool = False
    answers: dict[tuple[int, Site], tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, compare=False
    )

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        index = super().prune(tokens, stage).index
        worn = tokens.index[index.flip(0)] if self.wears else tokens.index[index]
        rows = torch.arange(1.0, self.depth + 1)[:, None]
        bias = 1.5 * torch.sin(rows + tokens.index[index] + stage.site.layer)
        self.answers[tokens.seed, stage.site] = tokens.index[index], worn, bias
        return Keep(
            index,
            bias=bias if self.depth else None,
            order=self.order,
            places=worn if self.wears else None,
            pair_bias=near if self.pairs else None,
        )


def told(
    model: Any, inputs: dict[str, Any], trace: Any, pruner: Arranging
) -> tuple[list[Rows], list[Tensor]]:
    """The rows and the biases of every layer as the pruner answered, counted by hand."""
    visual = family_of(model).visual(model, inputs["input_ids"])
    batch, width = visual.shape
    depth = len(family_of(model).layers(model))
    whole = torch.arange(width).expand(batch, -1).clone()
    rank, worn = [whole.clone() for _ in range(depth)], [whole.clone() for _ in range(depth)]
    bias = [torch.zeros(batch, width) for _ in range(depth)]
    late = [torch.zeros(batch, width) for _ in range(depth)]
    for row, sample in enumerate(trace.samples):
        columns = visual[row].nonzero()[:, 0]
        for site in sorted(sample.kept):
            index, carriers, added = pruner.answers[row, site]
            if pruner.order == "raster":
                # by where they stand so far
                first = rank[site.layer][row, columns[index]].argsort()
                index, carriers, added = index[first], carriers[first], added[:, first]
            slots = rank[site.layer][row, columns[index]].sort().values.clone()
            for layer in range(site.layer, depth):
                before = worn[layer][row].clone()
                worn[layer][row, columns[index]] = before[columns[carriers]]
                rank[layer][row, columns[index]] = slots
                if pruner.depth:
                    step = min(layer - site.layer, pruner.depth - 1)
                    bias[layer][row, columns[index]] += added[step]
                    late[layer][row, columns[index]] += added[-1]
    pairs = []
    for layer in range(depth):
        behind = sum(site.layer <= layer for site in trace.samples[0].kept)
        function = (lambda distance, times=behind: times * near(distance)) if behind else None
        pairs.append([function if pruner.pairs else None] * batch)
    parts = zip(rank, worn, late, pairs, strict=True)
    return [Rows(*part) for part in parts], bias


PLANS: dict[str, tuple[Stage, ...]] = {
    "input": (Stage(INPUT, 7),),
    "keeps all": (Stage(INPUT, 12),),
    "llm:2": (Stage(llm(2), 6),),
    "two stages": (Stage(INPUT, 8), Stage(llm(2), 5)),
    "next to each other": (Stage(llm(1), 8), Stage(llm(2), 5), Stage(llm(4), 3)),
}

KINDS: dict[str, dict[str, Any]] = {
    "order": {},
    "places": {"order": "raster", "wears": True},
    "order and places": {"wears": True},
    "bias by layer": {"order": "raster", "depth": 3},
    "pairs": {"order": "raster", "pairs": True},
    "everything": {"wears": True, "depth": 2, "pairs": True},
}


def expect(
    model: Any, inputs: dict[str, Any], pruner: Arranging, plan: tuple[Stage, ...], positions: Any
) -> None:
    """A pruned generation against the oracle."""
    seeds = list(range(len(inputs["input_ids"])))
    answer, got, trace = run(model, inputs, pruner, plan=plan, positions=positions, seeds=seeds)
    rows, bias = told(model, inputs, trace, pruner)
    dead, compact = dead_columns(model, inputs, trace), positions == "compact"
    want = logits(model, inputs, answer, dead, compact, bias, rows)
    torch.testing.assert_close(got, want, **CLOSE)
    plain = logits(model, inputs, answer, dead, compact)
    assert (plain - got).abs().max() > 2e-3


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_go_on_as_the_method_says(
    model: Any, inputs_of: Any, kind: str, plan: str, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    if plan == "keeps all" and prompt == "padded batch":
        pytest.skip("its samples have different sizes")
    expect(model, inputs, Arranging(**KINDS[kind]), PLANS[plan], positions)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", ["input", "two stages"])
@pytest.mark.parametrize("kind", ["order", "everything"])
@pytest.mark.parametrize("name", SEVERAL)
def test_in_several_families(name: str, kind: str, plan: str, positions: Any) -> None:
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    expect(family.model, inputs, Arranging(**KINDS[kind]), PLANS[plan], positions)


def test_a_prompt_that_ends_in_its_image_keeps_its_end(model: Any, inputs_of: Any) -> None:
    served, inputs, text = image_last("qwen2_5_vl", model, inputs_of)
    pruner = Arranging()
    with prune(served, pruner, plan=(Stage(INPUT, 6),), seeds=[0]) as trace, torch.no_grad():
        steps = [served(**inputs)]
        for token in text[0, :2]:
            cache = steps[0].past_key_values
            steps.append(served(input_ids=token[None, None], past_key_values=cache))
    got = torch.cat([step.logits[:, -1:] for step in steps], dim=1)
    rows, _ = told(served, inputs, trace, pruner)
    dead = dead_columns(served, inputs, trace)
    torch.testing.assert_close(got, logits(served, inputs, text, dead, rows=rows), **CLOSE)
    assert int(trace.samples[0].survivors()[-1]) == 11


def test_drafts_see_what_single_tokens_see(model: Any, inputs_of: Any) -> None:
    """Assisted decoding asks several tokens at once, some of them along with the prompt."""
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    pruner = Arranging(wears=True, depth=2)
    answers = []
    for more in ({}, {"prompt_lookup_num_tokens": 3}):
        with prune(model, pruner, plan=PLANS["two stages"], seeds=[3]):
            answers.append(model.generate(**inputs, **options, **more))
    assert torch.equal(*answers)


def test_a_compacted_cache_has_the_order_of_the_rows(model: Any, inputs_of: Any) -> None:
    """With the same survivors at both stages compaction changes nothing."""
    inputs = PROMPTS["padded batch"](inputs_of)
    got = []
    for compact in (False, True):
        plan = (Stage(INPUT, 6), Stage(llm(3), 6, compact=compact))
        got.append(run(model, inputs, Arranging(wears=True, depth=2), plan=plan, seeds=[0, 1])[1])
    torch.testing.assert_close(*got, **CLOSE)


@dataclass(frozen=True)
class Seeing(Arranging):
    """Notes at its later stage the attention that was paid."""

    needs = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.NEXT_QUERY_ATTENTION})
    views: list[VisualTokens] = field(default_factory=list, compare=False)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if stage.site.part is Part.LLM:
            self.views.append(tokens)
        return super().prune(tokens, stage)


def test_attention_that_is_shown_is_what_the_layers_paid(eager_model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    pruner = Seeing(wears=True, depth=3, pairs=True)
    plan = (Stage(INPUT, 8), Stage(llm(2), 8))
    with prune(eager_model, pruner, plan=plan, seeds=[3]), torch.no_grad():
        out = eager_model(**inputs, output_attentions=True)
    (view,) = pruner.views
    visual = family_of(eager_model).visual(eager_model, inputs["input_ids"])[0]
    first = int(visual.nonzero()[0])
    paid = [attention[0, :, -1, first : first + 8] for attention in out.attentions]
    torch.testing.assert_close(view.last_query_attention, paid[1], atol=2e-5, rtol=1e-3)
    # in the order of the rows, the draw of the first stage
    assert view.index.tolist() == pruner.answers[3, INPUT][0].tolist()


def test_a_walk_goes_on_in_the_given_order() -> None:
    pruner = Seeing()
    sample = tokens(needs=pruner.needs)
    first, second = walk(pruner, (Stage(INPUT, 6), Stage(llm(2), 3)), sample)
    assert second.tokens.index.tolist() == first.order.tolist()
    assert torch.equal(second.tokens.features, sample.features[first.order])
    assert torch.equal(
        second.tokens.last_query_attention, sample.last_query_attention[:, first.order]
    )


FOUR = torch.arange(4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"order": "random"}, "order is 'random'; it is 'raster' or 'given'"),
        ({"places": FOUR[:3]}, r"places are torch.int64 \[3\]; they must be int64 \[K\] = \[4\]"),
        ({"places": FOUR + 9}, "places name token 12, which the stage was not shown"),
        ({"places": [0] * 4}, "places is a list; it must be a tensor"),
        ({"bias": torch.zeros(2, 3)}, r"bias is \[2, 3\]; it must be \[K\] = \[4\] or \[J, K\]"),
        ({"bias": torch.zeros(0, 4)}, r"bias is \[0, 4\]; it must be"),
        ({"pair_bias": 3.0}, "pair_bias is a float; it must be a function of distances"),
        ({"pair_bias": lambda d: d}, r"Broken's pair_bias gives \[3, \d+, \d+\]"),
        ({"pair_bias": lambda d: d[0] / 0}, "Broken's pair_bias is not finite"),
    ],
)
def test_a_broken_answer_is_named(
    model: Any, inputs_of: Any, answer: dict[str, Any], message: str
) -> None:
    @dataclass(frozen=True)
    class Broken(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(FOUR, **answer)

    plan = (Stage(INPUT, 4),)
    with prune(model, Broken(), plan=plan), pytest.raises(EngineError, match=message):
        model(**PROMPTS["one image"](inputs_of))
    if not message.startswith("Broken's"):
        with pytest.raises(Breach, match=message):
            walk(Broken(), plan, tokens(rows=3, columns=4))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("order", "order is 'given'; inside the vision encoder"),
        ("places", "places is given; inside the vision encoder there is none"),
        ("pairs", "pair_bias is given; inside the vision encoder"),
        ("bias by layer", r"bias has a row a layer; inside the vision encoder it is \[K\]"),
    ],
)
def test_inside_the_vision_encoder_rows_stay(
    model: Any, inputs_of: Any, kind: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        run(model, PROMPTS["one image"](inputs_of), Arranging(**KINDS[kind]), plan=INSIDE)


INSIDE = (Stage(vision(1), 6),)


@pytest.mark.parametrize("kind", ["pairs", "bias by layer"])
def test_flash_attention_takes_no_bias(
    inputs_of: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = miniature()
    monkeypatch.setattr(odd.get_decoder().config, "_attn_implementation", "flash_attention_2")
    with (
        prune(odd, Arranging(**KINDS[kind]), plan=(Stage(INPUT, 4),)),
        pytest.raises(Unsupported, match="Arranging gives a bias at input, which flash"),
    ):
        odd(**PROMPTS["one image"](inputs_of))
