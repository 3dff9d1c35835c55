"""Whatever way a model is called inside a block, dropping equals hiding at every step, or the
refusal names the way.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import miniature, picture
from families import llava
from oracle import logits
from test_engine import Spy
from test_equivalence import PLANS, PROMPTS, Draw, dead_columns
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from prunebench import Keep, Reads, Signal, Stage, VisualTokens, llm, prune
from prunebench.engine.stream import EngineError
from prunebench.models import Unsupported, family_of

QUESTION = "color of 5 color of 5 color of"
CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}


def generate(
    model: Any, inputs: dict[str, Any], steps: int = 10, **options: Any
) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] and their logits [B, T, V] of one greedy call."""
    out = model.generate(
        **inputs,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        # one that is never said: older versions of transformers cannot look up drafts without any
        eos_token_id=model.generation_config.suppress_tokens[0],
        pad_token_id=0,
        **options,
    )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1)


def check(
    model: Any,
    inputs: dict[str, Any],
    plan: tuple[Stage, ...],
    positions: Any,
    *,
    twin: Any = None,
    **options: Any,
) -> Any:
    """Compare every step with the oracle, which runs on `twin` where the model's kernel takes no
    masks of its; the trace.
    """
    with prune(model, Draw(), plan=plan, positions=positions, seeds=[3]) as trace:
        tokens, got = generate(model, inputs, **options)
    want = logits(
        twin or model, inputs, tokens, dead_columns(model, inputs, trace), positions == "compact"
    )
    torch.testing.assert_close(got, want, **CLOSE)
    return trace


@dataclass
class Lengths:
    """How many tokens every call of the model was given."""

    calls: list[int]


@pytest.fixture
def lengths(model: Any) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    yield calls
    hook.remove()


# ---- several tokens a step -----------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", PLANS)
def test_drafts_looked_up_in_the_prompt(
    model: Any, inputs_of: Any, lengths: list[int], plan: str, positions: Any
) -> None:
    inputs = inputs_of(([picture(112, 84)], QUESTION))
    drafted = check(model, inputs, PLANS[plan], positions, prompt_lookup_num_tokens=4)
    assert lengths[0] > inputs["input_ids"].shape[1]  # the prefill came with drafts
    assert sum(lengths[1:]) > 9  # and most drafts were rejected
    plain = check(model, inputs, PLANS[plan], positions)
    for ours, theirs in zip(drafted.samples, plain.samples, strict=True):
        assert {s: k.tolist() for s, k in ours.kept.items()} == {
            s: k.tolist() for s, k in theirs.kept.items()
        }
        assert (ours.text, ours.cached, ours.kv_bytes) == (
            theirs.text,
            theirs.cached,
            theirs.kv_bytes,
        )


def test_drafts_of_another_model(model: Any, inputs_of: Any, lengths: list[int]) -> None:
    assistant = miniature(seed=1)
    inputs = inputs_of(([picture(112, 84)], QUESTION))
    check(model, inputs, PLANS["three stages"], "original", assistant_model=assistant)
    assert max(lengths) > 2


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "eager"])
def test_drafts_in_other_families_and_kernels(
    name: str, model: Any, eager_model: Any, inputs_of: Any
) -> None:
    if name == "eager":
        inputs = inputs_of(([picture(112, 84)], QUESTION))
        check(
            eager_model,
            inputs,
            PLANS["three stages"],
            "compact",
            twin=model,
            prompt_lookup_num_tokens=3,
        )
        return
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], QUESTION))
    for positions in ("original", "compact"):
        check(family.model, inputs, PLANS["input and llm"], positions, prompt_lookup_num_tokens=3)


def test_no_signal_sees_a_draft(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], QUESTION))
    drafted, plain = Spy(), Spy()
    for spy, options in ((drafted, {"prompt_lookup_num_tokens": 4}), (plain, {})):
        with prune(model, spy, 0.5):
            generate(model, inputs, 3, **options)
    for signal in Spy.needs:
        torch.testing.assert_close(
            drafted.seen[0].signals[signal], plain.seen[0].signals[signal], atol=1e-5, rtol=1e-4
        )


def test_no_probe_sees_a_draft(model: Any, inputs_of: Any) -> None:
    @dataclass(frozen=True)
    class Probing(Spy):
        needs = frozenset({Signal.PROBE_LOGITS, Signal.PROBE_LOG_ATTENTION})

        @property
        def reads(self) -> Reads:
            token = torch.randn(6, 80, generator=torch.Generator().manual_seed(0))
            return Reads(self.needs, probe=lambda: token)

    inputs = inputs_of(([picture(112, 84)], QUESTION))
    drafted, plain = Probing(), Probing()
    for spy, options in ((drafted, {"prompt_lookup_num_tokens": 4}), (plain, {})):
        with prune(model, spy, 0.5):
            generate(model, inputs, 3, **options)
    for signal in Probing.needs:
        torch.testing.assert_close(
            drafted.seen[0].signals[signal], plain.seen[0].signals[signal], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("plan", PLANS)
def test_several_tokens_by_hand(model: Any, inputs_of: Any, plan: str) -> None:
    """A further turn of text on a pruned cache, whole and then token by token."""
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    turn = inputs["input_ids"][:, -4:]
    with prune(model, Draw(), plan=PLANS[plan], seeds=[3]) as trace, torch.no_grad():
        out = model(**inputs)
        more = model(input_ids=turn, past_key_values=out.past_key_values)
        last = model(input_ids=turn[:, :1], past_key_values=out.past_key_values)
    got = torch.cat([out.logits[:, -1:], more.logits, last.logits], dim=1)
    answer = torch.cat([turn, turn[:, :2]], dim=1)
    torch.testing.assert_close(
        got, logits(model, inputs, answer, dead_columns(model, inputs, trace)), **CLOSE
    )


def test_images_of_a_further_turn_are_refused(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    with prune(model, Draw(), 0.5), torch.no_grad():
        held = model(**inputs).past_key_values
        with pytest.raises(
            EngineError, match="pixel_values came with a cache that already holds a prompt"
        ):
            model(**{**inputs, "attention_mask": None}, past_key_values=held)


# ---- windows -------------------------------------------------------------------------------------


@cache
def windowed(window: int | None) -> Any:
    """LLaVA with a Mistral, whose configuration names a window and no kinds of layers."""
    family = families.build("llava")
    text = {
        "model_type": "mistral",
        "sliding_window": window,
        **families.llama(family.model.config.text_config.vocab_size),
    }
    config = LlavaConfig(
        text_config=text,
        vision_config=llava.VISION,
        image_token_index=family.model.config.image_token_id,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    model: Any = families.seeded(lambda: LlavaForConditionalGeneration(config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [model.config.image_token_id]
    return family, model


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("window", [12, 24])
def test_a_window_counts_the_tokens_that_were_dropped(
    plan: str, positions: Any, window: int
) -> None:
    """The prompt is longer than the shorter window, and the answer leaves the longer one."""
    family, model = windowed(window)
    inputs = family.inputs(([picture(56, 56)], "color of 5"))
    check(model, inputs, PLANS[plan], positions, steps=8)


def test_a_window_in_a_padded_batch() -> None:
    family, model = windowed(12)
    inputs = family.inputs(
        ([picture(56, 56)], "color of 5"), ([picture(56, 56, 1)], "digit on any red square")
    )
    for plan in ("input", "three stages"):
        check(model, inputs, PLANS[plan], "original", steps=8)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("window", [12, 24])
def test_drafts_and_a_window(plan: str, window: int) -> None:
    family, model = windowed(window)
    inputs = family.inputs(([picture(56, 56)], "color of 5"))
    check(model, inputs, PLANS[plan], "original", steps=8, prompt_lookup_num_tokens=2)


def test_a_cache_that_has_let_go_cannot_be_compacted() -> None:
    family, model = windowed(12)
    inputs = family.inputs(([picture(56, 56)], "color of 5"))
    with (
        prune(model, Draw(), plan=(Stage(llm(3), 6, compact=True),)),
        pytest.raises(Unsupported, match="layer 0 keeps 11 of 19 positions"),
    ):
        generate(model, inputs, 4)


def test_compacted_caches_within_a_window() -> None:
    family, model = windowed(30)
    inputs = family.inputs(([picture(56, 56)], "color of 5"))
    with prune(model, Draw(), plan=(Stage(llm(3), 6, compact=True),)) as trace:
        generate(model, inputs, 4)
    assert trace.samples[0].cached == [6] * 6


def test_windows_of_some_layers() -> None:
    """Qwen2 names kinds of layers, and has a window only where it is told to use it."""
    from transformers import Qwen2_5_VLTextConfig

    from prunebench.engine.window import window_of

    config = Qwen2_5_VLTextConfig(
        num_hidden_layers=6, use_sliding_window=True, sliding_window=24, max_window_layers=3
    )
    assert [window_of(config, kind) for kind in config.layer_types or ()] == [None] * 3 + [24] * 3
    unused = Qwen2_5_VLTextConfig(num_hidden_layers=6, sliding_window=24)
    assert {window_of(unused, kind) for kind in unused.layer_types or ()} == {None}


# ---- prompts that end with their image -----------------------------------------------------------


def ending(inputs: dict[str, Any], visual: Tensor) -> dict[str, Any]:
    """The inputs without the text behind the last visual token."""
    end = int(visual[0].nonzero()[-1, 0]) + 1
    return {
        name: value[:, :end]
        if isinstance(value, Tensor) and value.shape[:2] == visual.shape
        else value
        for name, value in inputs.items()
    }


def image_last(name: str, model: Any, inputs_of: Any) -> tuple[Any, dict[str, Any], Tensor]:
    """A miniature of the family, a prompt that ends with its image, and the text [1, 3] that was
    cut off.
    """
    if name == "qwen2_5_vl":
        inputs = inputs_of(([picture(112, 84)], "color of 5"))
    else:
        family = families.build(name)
        model, inputs = family.model, family.inputs(([picture(*family.sizes[0])], "color of 5"))
    return (
        model,
        ending(inputs, family_of(model).visual(model, inputs["input_ids"])),
        inputs["input_ids"][:, -3:],
    )


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_the_last_position_survives(
    model: Any, inputs_of: Any, name: str, plan: str, positions: Any
) -> None:
    served, inputs, text = image_last(name, model, inputs_of)
    answer = torch.cat([text, text[:, :1]], dim=1)
    with (
        prune(served, Draw(), plan=PLANS[plan], positions=positions, seeds=[3]) as trace,
        torch.no_grad(),
    ):
        steps = [served(**inputs)]
        for step in range(3):
            steps.append(
                served(
                    input_ids=answer[:, step : step + 1], past_key_values=steps[0].past_key_values
                )
            )
    got = torch.cat([step.logits[:, -1:] for step in steps], dim=1)
    want = logits(
        served, inputs, answer, dead_columns(served, inputs, trace), positions == "compact"
    )
    torch.testing.assert_close(got, want, **CLOSE)
    (sample,) = trace.samples
    for stage in PLANS[plan]:
        assert len(sample.kept[stage.site]) == stage.keep
        assert int(sample.kept[stage.site][-1]) == sample.available - 1


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_answers_behind_an_image_go_on_where_generate_does(
    model: Any, inputs_of: Any, name: str
) -> None:
    """Behind an image M-RoPE's axes part, and `generate` goes on from each: so it does on a pruned
    prompt.
    """
    served, inputs, _ = image_last(name, model, inputs_of)
    places: list[list[Any]] = []
    rotary = served.get_decoder().rotary_emb
    hook = rotary.register_forward_pre_hook(
        lambda _, args, kwargs: places.append(
            kwargs.get("position_ids", args[-1])[..., -1:].tolist()
        ),
        with_kwargs=True,
    )
    generate(served, inputs, 4)
    plain, places[:] = list(places), []
    with prune(served, Draw(), plan=PLANS["input"]):
        generate(served, inputs, 4)
    hook.remove()
    assert places == plain


def test_a_pinned_position_is_not_offered_and_counts(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    inputs = ending(inputs, family_of(model).visual(model, inputs["input_ids"]))
    spy = Spy()
    with prune(model, spy, plan=(Stage(llm(2), 5), Stage(llm(3), 1))) as trace, torch.no_grad():
        model(**inputs)
    assert [len(tokens) for tokens in spy.seen] == [11]
    assert spy.seen[0].last_query_attention.shape[1] == 11
    assert trace.samples[0].kept[llm(2)].tolist() == [0, 1, 2, 3, 11]
    assert trace.samples[0].kept[llm(3)].tolist() == [11]


# ---- copies and wrappers -------------------------------------------------------------------------


def test_a_copy_made_inside_is_a_model_of_its_own(inputs_of: Any) -> None:
    model = miniature()
    inputs = PROMPTS["one image"](inputs_of)
    plain = generate(model, inputs, 4)[1]
    with prune(model, Spy(), 0.5) as trace:
        generate(model, inputs, 2)
        twin = copy.deepcopy(model)
        kept = trace.samples[0].kept
        calls: list[int] = []
        watch = model.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(generate(twin, inputs, 4)[1], plain)
        with torch.no_grad():
            twin(**inputs)
        watch.remove()
        assert not calls
        assert trace.samples[0].kept is kept
    assert torch.equal(generate(twin, inputs, 4)[1], plain)
    with prune(twin, Spy(), 0.5) as again:
        generate(twin, inputs, 2)
    assert {s: k.tolist() for s, k in again.samples[0].kept.items()} == {
        s: k.tolist() for s, k in kept.items()
    }


class Holder(nn.Module):
    """A wrapper of the kind that DataParallel is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_wrapped_models_are_served_inside(inputs_of: Any) -> None:
    from peft import LoraConfig, get_peft_model

    inputs = PROMPTS["one image"](inputs_of)
    plan, model = PLANS["input and llm"], miniature()
    with prune(model, Draw(), plan=plan, seeds=[3]), torch.no_grad():
        want = model(**inputs).logits
        tokens, _ = generate(model, inputs, 3)
    wrapped = get_peft_model(
        miniature(), LoraConfig(target_modules=["q_proj"], init_lora_weights=True)
    )
    for wrapper in (Holder(model), nn.DataParallel(model), Holder(Holder(model)), wrapped.eval()):
        with prune(wrapper, Draw(), plan=plan, seeds=[3]) as trace, torch.no_grad():
            torch.testing.assert_close(wrapper(**inputs).logits, want)
            assert len(trace.samples[0].kept) == 2
            inner: Any = wrapped if wrapper is wrapped else model
            assert torch.equal(generate(inner, inputs, 3)[0], tokens)
        assert not list(wrapper._forward_pre_hooks) + list(wrapper._forward_hooks)


def test_compiled_models_are_served_by_generate_alone(inputs_of: Any) -> None:
    inputs, model = PROMPTS["one image"](inputs_of), miniature()
    compiled: Any = torch.compile(model, backend="eager")
    with prune(model, Draw(), 0.5, seeds=[3]):
        tokens, _ = generate(model, inputs, 3)
    with prune(compiled, Draw(), 0.5, seeds=[3]):
        assert torch.equal(generate(compiled, inputs, 3)[0], tokens)
        with pytest.raises(EngineError, match=r"model\._orig_mod"):
            compiled(**inputs)
    model.model.visual.compile(backend="eager")
    with (
        pytest.raises(EngineError, match=r"model\.visual of the model was compiled in place"),
        prune(model, Draw(), 0.5),
    ):
        pass


# ---- one model, one call at a time ---------------------------------------------------------------


def test_blocks_may_end_in_any_order(inputs_of: Any) -> None:
    """Also where two models share one configuration."""
    first = miniature()
    second = type(first)(first.config).eval()
    second.load_state_dict(first.state_dict())
    second.generation_config = first.generation_config
    assert second.get_decoder().config is first.get_decoder().config
    inputs = PROMPTS["one image"](inputs_of)
    one, other = prune(first, "fastv", 0.5), prune(second, "fastv", 0.5)
    with ExitStack() as undo:
        undo.callback(lambda: None)
        one.__enter__()
        trace = other.__enter__()
        one.__exit__(None, None, None)
        generate(second, inputs, 2)
        other.__exit__(None, None, None)
    assert trace.samples[0].spent() == 6
    assert first.get_decoder().config._attn_implementation == "sdpa"


def test_a_decoder_is_in_one_block_alone(model: Any) -> None:
    with (
        prune(model, Draw(), 0.5),
        pytest.raises(EngineError, match="another prune"),
        prune(Holder(model), Draw(), 0.5),
    ):
        pass


def test_a_second_thread_is_refused_and_one_worker_is_not(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    faults: list[BaseException] = []

    def work() -> None:
        try:
            generate(model, inputs, 2)
        except EngineError as error:
            faults.append(error)

    @dataclass(frozen=True)
    class Meeting(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            if threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            return super().prune(tokens, stage)

    with prune(model, Meeting(), 0.5):
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert not faults
        generate(model, inputs, 2)
    assert "another thread" in str(faults[0])


# ---- logits of chosen positions ------------------------------------------------------------------


@pytest.mark.parametrize("asked", [3, torch.tensor([-1, 0, -2]), torch.tensor([14, 0]), "mask"])
def test_logits_to_keep_counts_in_the_prompt(model: Any, inputs_of: Any, asked: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    width = inputs["input_ids"].shape[1]
    if isinstance(asked, str):
        asked = torch.arange(width) == 0
    for plan in ("input", "llm:2"):
        with prune(model, Draw(), plan=PLANS[plan], seeds=[3]) as trace, torch.no_grad():
            got = model(**inputs, logits_to_keep=asked).logits
        whole = masked(model, inputs, dead_columns(model, inputs, trace))
        want = whole[:, -asked:] if isinstance(asked, int) else whole[:, asked]
        torch.testing.assert_close(got, want, **CLOSE)


def masked(model: Any, inputs: dict[str, Any], dead: list[Tensor]) -> Tensor:
    """[B, S, V] the oracle's logits at every position of the prompt."""
    whole: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, output: whole.append(output))
    logits(model, inputs, inputs["input_ids"][:, :1], dead)
    hook.remove()
    return whole[0]


def test_logits_of_pruned_positions_are_refused(model: Any, inputs_of: Any) -> None:
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    place = int(family_of(model).visual(model, inputs["input_ids"])[0].nonzero()[0, 0])
    for asked in (
        inputs["input_ids"].shape[1],
        torch.tensor([place, place + 1, place + 2, place + 3, place + 4]),
    ):
        with (
            prune(model, Draw(), plan=PLANS["llm:2"]),
            pytest.raises(EngineError, match="logits_to_keep asks for position"),
        ):
            model(**inputs, logits_to_keep=asked)
    with prune(model, Draw(), 0.5), pytest.raises(EngineError, match="outside the prompt"):
        model(**inputs, logits_to_keep=torch.tensor([99]))
