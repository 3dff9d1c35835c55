"""Signals are the model's own attention; what the engine cannot serve is refused; a pruner that
breaks its contract is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import miniature, picture
from test_equivalence import PROMPTS, Draw, run
from transformers import GenerationConfig, StaticCache

from prunebench import (
    INPUT,
    PIXELS,
    Budget,
    BudgetError,
    Keep,
    Pruner,
    Signal,
    Site,
    Stage,
    VisualTokens,
    llm,
    prune,
    vision,
)
from prunebench.engine.stream import EngineError
from prunebench.models import Unsupported, family_of


@dataclass(frozen=True)
class Spy(Pruner):
    """Keeps the first tokens and notes what it was shown."""

    where: str = "llm:2"
    seen: list[VisualTokens] = field(default_factory=list, compare=False)
    needs = frozenset(
        {
            Signal.LAST_QUERY_ATTENTION,
            Signal.NEXT_QUERY_ATTENTION,
            Signal.TEXT_ATTENTION,
            Signal.KEYS,
            Signal.TEXT_FEATURES,
        }
    )

    def site(self) -> Site:
        return Site.parse(self.where)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)
        return Keep(torch.arange(stage.keep))


def eager_attention(eager_model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    with torch.no_grad():
        out = eager_model(**inputs, output_attentions=True, output_hidden_states=True)
    return out.attentions, out.hidden_states


@pytest.mark.parametrize("prompt", PROMPTS)
def test_signals_are_the_models_own(
    model: Any, eager_model: Any, inputs_of: Any, prompt: str
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    attention, hidden = eager_attention(eager_model, inputs)
    spy = Spy()
    with prune(model, spy, 0.5), torch.no_grad():
        model(**inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = family_of(model).visual(model, ids)
    for row, tokens in enumerate(spy.seen):
        columns = visual[row].nonzero()[:, 0]
        text = (~visual[row] & mask[row]).nonzero()[:, 0]
        behind = text[text > columns[0]]
        close: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-3}
        torch.testing.assert_close(tokens.features, hidden[2][row, columns], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(tokens.text_features, hidden[2][row, text], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            tokens.last_query_attention, attention[1][row, :, -1, columns], **close
        )
        torch.testing.assert_close(
            tokens.next_query_attention, attention[2][row, :, -1, columns], **close
        )
        torch.testing.assert_close(
            tokens.text_attention, attention[1][row][:, behind][:, :, columns], **close
        )
        assert tokens.keys.shape == (2, len(columns), 20)


def test_keys_are_the_cached_ones(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    spy = Spy("llm:3")
    with torch.no_grad():
        plain = model(**inputs).past_key_values.layers[2].keys
        with prune(model, spy, 0.6):
            model(**inputs)
    visual = family_of(model).visual(model, inputs["input_ids"])
    for row, tokens in enumerate(spy.seen):
        torch.testing.assert_close(tokens.keys, plain[row][:, visual[row]])


def test_layout_says_where_tokens_lie(model: Any, inputs_of: Any) -> None:
    spy = Spy()
    with prune(model, spy, 0.5), torch.no_grad():
        model(**inputs_of(([picture(112, 84), picture(84, 56, 1)], "color of 5")))
    layout = spy.seen[0].layout
    assert [(t.image, t.rows, t.columns, t.kind) for t in layout.tiles] == [
        (0, 3, 4, "image"),
        (1, 2, 3, "image"),
    ]
    assert layout.row[:5].tolist() == [0, 0, 0, 0, 1]
    assert layout.column[-3:].tolist() == [0, 1, 2]
    assert layout.tile.tolist() == [0] * 12 + [1] * 6


def test_video_frames_are_tiles(model: Any, inputs_of: Any) -> None:
    spy = Spy()
    with prune(model, spy, 0.5), torch.no_grad():
        model(**PROMPTS["video"](inputs_of))
    assert [(t.kind, t.frame, t.rows, t.columns) for t in spy.seen[0].tiles] == [
        ("frame", 0, 3, 4),
        ("frame", 1, 3, 4),
    ]


def test_an_undeclared_signal_is_refused(model: Any, inputs_of: Any) -> None:
    @dataclass(frozen=True)
    class Greedy(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(tokens.keys.norm(dim=-1).sum(0).topk(stage.keep).indices)

    with prune(model, Greedy(), 0.5), pytest.raises(AttributeError, match=r"Signal\.KEYS"):
        model(**PROMPTS["one image"](inputs_of))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n, k: torch.zeros(k, dtype=torch.long), "more than once: 5 of 6"),
        (lambda n, k: torch.arange(k) + n, "index spans 12..17"),
        (lambda n, k: torch.arange(k) - 1, "index spans -1..4"),
        (lambda n, k: torch.arange(k + 1), "keeps 7 of 12 tokens; the stage asks for 6"),
        (lambda n, k: torch.arange(k - 1), "keeps 5 of 12 tokens; the stage asks for 6"),
        (lambda n, k: torch.ones(n, dtype=torch.bool), "int64"),
    ],
)
def test_a_broken_pruner_is_named(model: Any, inputs_of: Any, answer: Any, message: str) -> None:
    @dataclass(frozen=True)
    class Broken(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(answer(len(tokens), stage.keep))

    with prune(model, Broken(), 0.5), pytest.raises(EngineError, match=message) as error:
        model(**PROMPTS["one image"](inputs_of))
    assert "Broken at input" in str(error.value)


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ((Stage(PIXELS, 4),), Unsupported, "before the processor"),
        ((Stage(vision(0), 4),), Unsupported, "before any block has run"),
        ((Stage(vision(2), 4),), Unsupported, "the projector reads block 1"),
        ((Stage(llm(6), 4),), Unsupported, r"layers 0\.\.5"),
        ((Stage(llm(2), 4), Stage(llm(1), 4)), EngineError, "forward"),
        ((Stage(llm(2), 4), Stage(llm(3), 5)), EngineError, "never grow"),
        ((Stage(INPUT, -1),), EngineError, "plans to keep -1"),
        ((Stage(INPUT, 13),), EngineError, "plans to keep 13 of 12"),
    ],
)
def test_an_impossible_plan_is_refused(
    model: Any, inputs_of: Any, plan: Any, error: Any, message: str
) -> None:
    with prune(model, Draw(), plan=plan), pytest.raises(error, match=message):
        model(**PROMPTS["one image"](inputs_of))


def test_attention_at_the_input_is_refused(model: Any, inputs_of: Any) -> None:
    with prune(model, Spy("input"), 0.5), pytest.raises(EngineError, match="no LLM layer has run"):
        model(**PROMPTS["one image"](inputs_of))


def test_budgets_out_of_reach_are_refused(model: Any, inputs_of: Any) -> None:
    with prune(model, "fastv", 0.1), pytest.raises(BudgetError, match="out of reach at llm:2"):
        model(**PROMPTS["one image"](inputs_of))
    with prune(model, "fastv", 13), pytest.raises(BudgetError, match="more than the 12"):
        model(**PROMPTS["one image"](inputs_of))
    with pytest.raises(BudgetError, match="no share"), prune(model, "fastv", 1.5):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_cache": False}, "use_cache=False"),
        ({"labels": torch.zeros(1, 20, dtype=torch.long)}, "labels"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 20, 80)}, "input_ids"),
    ],
)
def test_forward_calls_it_cannot_serve_are_refused(
    model: Any, inputs_of: Any, change: Any, message: str
) -> None:
    inputs = {**PROMPTS["one image"](inputs_of), **change}
    with prune(model, Draw(), 0.5), pytest.raises(EngineError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "static|DynamicCache"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size=4.*chunked prefill"),
        ({"guidance_scale": 2.0}, r"guidance_scale=2\.0.*classifier-free guidance"),
        ({"generation_config": GenerationConfig(guidance_scale=1.5)}, r"guidance_scale=1\.5"),
        ({"negative_prompt_ids": torch.zeros(1, 2, dtype=torch.long)}, "negative_prompt_ids"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6.*contrastively"),
        (
            {"assistant_early_exit": 2},
            "assistant_early_exit=2, which drafts with the pruned model itself",
        ),
        ({"custom_generate": "someone/sampling"}, "custom_generate='someone/sampling'"),
        (
            {"inputs_embeds": torch.zeros(1, 3, 80)},
            "inputs_embeds, which hides which tokens are visual",
        ),
    ],
)
def test_generate_modes_it_cannot_serve_are_refused(
    model: Any, inputs_of: Any, options: Any, message: str
) -> None:
    with prune(model, Draw(), 0.5), pytest.raises(EngineError, match=message):
        model.generate(**PROMPTS["one image"](inputs_of), max_new_tokens=3, **options)


def test_refusals_name_the_real_cause(inputs_of: Any) -> None:
    """What would else fail as something that it is not."""
    inputs = PROMPTS["one image"](inputs_of)

    def masked(**hidden: Any) -> dict[str, Any]:
        mask = inputs["attention_mask"].clone()
        mask[:, hidden["places"]] = 0
        return {**inputs, "attention_mask": mask}

    def asking(model: Any) -> Any:
        return model.generate(
            **inputs,
            max_new_tokens=2,
            logits_processor=[lambda ids, scores: model(input_ids=ids) and scores],
        )

    def prefixed(model: Any) -> Any:
        prefix = inputs["input_ids"][:, :1]
        with torch.no_grad():
            held = model.model.language_model(
                inputs_embeds=model.get_input_embeddings()(prefix), use_cache=True
            )
        return held.past_key_values

    calls: dict[str, Callable[[Any], Any]] = {
        "gradient checkpointing is on": lambda m: (
            m.gradient_checkpointing_enable(),
            m.train(),
            m(**inputs),
        ),
        "attention was set to 'eager' inside": lambda m: (
            m.set_attn_implementation("eager"),
            m(**inputs),
        ),
        "use_cache is off in its configuration": lambda m: (
            setattr(m.get_decoder().config, "use_cache", False),  # type: ignore[func-returns-value]
            m(**inputs),
        ),
        "hides position 14 in the middle of sample 0": lambda m: m(**masked(places=[14])),
        "hides visual tokens of sample 0": lambda m: m(**masked(places=[0, 1, 2])),
        "hides all of sample 0": lambda m: m(**masked(places=slice(None))),
        "other values than 0 and 1": lambda m: m(
            **{**inputs, "attention_mask": torch.full((1, 17), -1e4)}
        ),
        "pass a 2-D mask": lambda m: m(**{**inputs, "attention_mask": torch.ones(1, 1, 17, 17)}),
        "asked anew inside generate": asking,
        "drafts? .*the model itself|model is the model itself": lambda m: m.generate(
            **inputs, assistant_model=m
        ),
        "decoder was called by itself": lambda m: m.get_decoder()(
            inputs_embeds=torch.zeros(1, 5, 80)
        ),
        "whole model inside": lambda m: m.model(**inputs),
        "generate_batch batches continuously": lambda m: m.generate_batch([[1, 2]]),
        "the cache is StaticCache": lambda m: m(
            **inputs,
            past_key_values=StaticCache(config=m.config.get_text_config(), max_cache_len=64),
        ),
    }
    for message, call in calls.items():
        for pruner in (Draw(), Spy()):
            model = miniature()
            with pytest.raises(EngineError, match=message) as error, prune(model, pruner, 0.5):
                call(model)
            assert len(str(error.value)) <= 300
    model = miniature()
    cache = prefixed(model)
    with (
        prune(model, Draw(), 0.5),
        pytest.raises(EngineError, match="holds 1 tokens that were read outside"),
    ):
        model.generate(**inputs, past_key_values=cache, max_new_tokens=2)


def test_right_padding_is_refused(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = inputs[name].flip(1)
    with prune(model, Draw(), 0.5), pytest.raises(EngineError, match="padding_side"):
        model(**inputs)


def test_nesting_is_refused(model: Any) -> None:
    with (
        prune(model, Draw(), 0.5),
        pytest.raises(EngineError, match="another prune"),
        prune(model, Draw(), 0.5),
    ):
        pass


def test_a_family_without_adapter_is_refused() -> None:
    with (
        pytest.raises(Unsupported, match="no family for model type"),
        prune(torch.nn.Linear(2, 2), Draw(), 0.5),
    ):
        pass


def test_a_prompt_without_images_is_left_alone(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([], "color of 5"))
    plain = model.generate(**inputs, max_new_tokens=3)
    with prune(model, "fastv", 0.5) as trace:
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), plain)
    assert trace.samples[0].available == 0


def test_beams_and_samples_share_their_prompts_choice(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    for options in ({"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}):
        torch.manual_seed(0)
        with prune(model, Draw(), 0.4) as trace:
            model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, **options)
        kept = [sample.kept[INPUT].tolist() for sample in trace.samples]
        assert len(kept) == 6
        assert kept[0] == kept[1] == kept[2] != kept[3]


def test_sampled_decoding_follows_the_seed(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        with prune(model, "fastv", 0.5):
            answers.append(model.generate(**inputs, max_new_tokens=6, do_sample=True))
    assert torch.equal(*answers)


def test_trace_counts_what_was_paid(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    _, _, trace = run(model, inputs, Draw(), plan=(Stage(llm(2), 6), Stage(llm(4), 3)))
    sample = trace.samples[0]
    assert sample.available == 12
    assert sample.entering == [12, 12, 6, 6, 3, 3]
    assert sample.cached == [12, 12, 6, 6, 3, 3]
    assert sample.spent("mean") == sample.spent("kv") == 7
    assert sample.spent("input") == 12
    assert sample.text == inputs["input_ids"].shape[1] - 12
    assert sample.survivors().tolist() == sample.kept[llm(4)].tolist()


def test_selector_flops_are_counted_when_asked(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    with prune(model, "fastv", 0.5, count_flops=True) as trace, torch.no_grad():
        model(**inputs)
    total = inputs["input_ids"].shape[1]
    # one query row of 4 heads of 20 dims against every key
    assert trace.samples[0].selector_flops == 2 * 4 * 20 * total


def test_a_compact_kv_budget_is_met(model: Any, inputs_of: Any) -> None:
    @dataclass(frozen=True)
    class Compacting(Draw):
        def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
            from prunebench import solve

            assert budget is not None
            return solve(budget, [llm(3)], available, layers, compact=True)

    _, _, trace = run(model, PROMPTS["one image"](inputs_of), Compacting(), budget="kv:0.25")
    assert trace.samples[0].spent("kv") == 3
    assert trace.samples[0].spent("mean") == 7.5


def test_flash_is_no_silent_fallback() -> None:
    odd = miniature()
    odd.get_decoder().config._attn_implementation = "flex_attention"
    with pytest.raises(Unsupported, match="flex_attention"), prune(odd, Draw(), 0.5):
        pass


def test_generation_config_object_works_too(model: Any, inputs_of: Any) -> None:
    config = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    with prune(model, "fastv", 0.5) as trace:
        model.generate(**PROMPTS["one image"](inputs_of), generation_config=config)
    assert trace.samples[0].spent("mean") == 6


def test_a_doubled_cache_is_caught(model: Any, inputs_of: Any) -> None:
    """The defect of layers that run twice on one cache: entries nobody planned."""

    def twice(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        ghost = torch.zeros(1, 2, 5, 20)
        kwargs["past_key_values"].update(ghost, ghost, 3)

    handle = model.get_decoder().layers[3].register_forward_pre_hook(twice, with_kwargs=True)
    try:
        with (
            prune(model, Draw(), 0.5),
            pytest.raises(EngineError, match=r"cache of layer 3 holds \d+ entries"),
        ):
            model.generate(**PROMPTS["one image"](inputs_of), max_new_tokens=2)
    finally:
        handle.remove()


def test_a_plan_that_overspends_is_refused(model: Any, inputs_of: Any) -> None:
    @dataclass(frozen=True)
    class Greedy(Draw):
        def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
            return (Stage(INPUT, available - 1),)

    with (
        prune(model, Greedy(), 0.25),
        pytest.raises(
            EngineError, match=r"plans to spend 11 of 12 visual tokens, budget 0\.25 allows 3"
        ),
    ):
        model(**PROMPTS["one image"](inputs_of))
    with prune(model, "none", 0.5), pytest.raises(EngineError, match="plans to spend 12 of 12"):
        model(**PROMPTS["one image"](inputs_of))


def test_a_compacting_stage_compacts_though_it_drops_nothing(model: Any, inputs_of: Any) -> None:
    plan = (Stage(llm(1), 6), Stage(llm(3), 6, compact=True))
    _, _, trace = run(model, PROMPTS["one image"](inputs_of), Draw(), plan=plan)
    assert trace.samples[0].cached == [6] * 6


def test_text_attention_of_a_row_without_images_is_empty(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"), ([], "color of 5"))
    with prune(model, Spy(), 0.5) as trace, torch.no_grad():
        model(**inputs)
    assert [sample.available for sample in trace.samples] == [12, 0]
