"""Further turns on a pruned cache: the tokens that were kept stay, and every step of every answer
equals the oracle over the whole conversation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import picture
from families import Miniature, gemma3
from oracle import logits
from test_equivalence import PLANS, Draw, dead_columns
from torch import Tensor

from prunebench import prune
from prunebench.engine.stream import EngineError

STEPS = 4
FAMILIES = ("llava", "qwen2_5_vl", "qwen3_5_vl", "gemma3", "window")


@cache
def build(name: str) -> Miniature:
    """A family's miniature; "window" is Gemma 3 with one that is shorter than a prompt."""
    if name != "window":
        return families.build(name)
    monkey, stock = pytest.MonkeyPatch(), gemma3.build
    monkey.setattr(gemma3, "build", lambda: stock(window=12))
    try:
        return families.build("gemma3")
    finally:
        monkey.undo()


def words(miniature: Miniature, text: str) -> Tensor:
    """[1, n] the tokens of a further turn."""
    ids = miniature.processor.tokenizer(text, return_tensors="pt")["input_ids"]
    assert isinstance(ids, Tensor)
    return ids


def first(miniature: Miniature) -> dict[str, Any]:
    return miniature.inputs(([picture(112, 84)], "color of 5"))


def answered(miniature: Miniature, inputs: dict[str, Any], **options: Any) -> Any:
    return miniature.model.generate(
        **inputs,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


def longer(inputs: dict[str, Any], conversation: Tensor) -> dict[str, Any]:
    """What a processor makes of the whole conversation, the image of its first turn included."""
    prompt, total = inputs["input_ids"].shape[1], conversation.shape[1]
    made = {"input_ids": conversation, "attention_mask": torch.ones_like(conversation)}
    for name, value in inputs.items():
        if value.shape == (1, prompt) and name not in made:  # the modality of every token
            value = torch.nn.functional.pad(value, (0, total - prompt))
        made.setdefault(name, value)
    return made


def given(how: str, inputs: dict[str, Any], conversation: Tensor, read: int) -> dict[str, Any]:
    """The ways in which a conversation can be handed on."""
    whole = longer(inputs, conversation)
    if how == "with its image":
        return whole
    if how == "new alone":
        return {
            "input_ids": conversation[:, read:],
            "attention_mask": whole["attention_mask"],
        }
    return {name: whole[name] for name in ("input_ids", "attention_mask")}


def check(name: str, plan: str, positions: Any, how: str, **options: Any) -> None:
    miniature = build(name)
    model, inputs = miniature.model, first(miniature)
    conversation, start = inputs["input_ids"], inputs["input_ids"].shape[1]
    turn, places, outputs = inputs, [], []
    with prune(model, Draw(), plan=PLANS[plan], positions=positions, seeds=[3]) as trace:
        for text in ("how many blue star", "what is it", ""):
            places.append(conversation.shape[1] - start)
            outputs.append(answered(miniature, turn, **options))
            options = {}  # of the first turn
            conversation = torch.cat([conversation, outputs[-1].sequences[:, -STEPS:]], dim=1)
            # the last token of an answer was put out and never read
            read = conversation.shape[1] - 1
            if text:
                conversation = torch.cat([conversation, words(miniature, text)], dim=1)
                turn = given(how, inputs, conversation, read)
                turn["past_key_values"] = outputs[-1].past_key_values
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, conversation[:, start:], dead, positions == "compact")
    for place, output in zip(places, outputs, strict=True):
        got = torch.stack(output.logits, dim=1)
        torch.testing.assert_close(got, want[:, place : place + STEPS], atol=5e-4, rtol=2e-4)
    if how != "new alone":
        assert outputs[-1].sequences.tolist() == conversation.tolist()


@pytest.mark.parametrize("plan", ["input", "three stages"])
@pytest.mark.parametrize("name", FAMILIES)
def test_three_turns_equal_the_oracle(name: str, plan: str) -> None:
    check(name, plan, "original", "the conversation")


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
def test_three_turns_of_every_plan(name: str, plan: str, positions: Any) -> None:
    check(name, plan, positions, "the conversation")


@pytest.mark.parametrize("how", ["with its image", "new alone"])
@pytest.mark.parametrize("name", FAMILIES)
def test_however_a_turn_is_given(name: str, how: str) -> None:
    check(name, "input", "original", how)


@pytest.mark.parametrize("plan", ["input", "three stages"])
def test_a_turn_behind_drafts(plan: str) -> None:
    """Drafts that were taken back are no part of what was read."""
    check("qwen2_5_vl", plan, "original", "the conversation", prompt_lookup_num_tokens=2)


def test_a_further_turn_with_drafts_is_refused() -> None:
    miniature = build("llava")
    with prune(miniature.model, Draw(), 0.5):
        out = answered(miniature, first(miniature))
        with pytest.raises(EngineError, match="was given prompt_lookup_num_tokens, with which"):
            miniature.model.generate(
                out.sequences, past_key_values=out.past_key_values, prompt_lookup_num_tokens=2
            )


@pytest.mark.parametrize("plan", ["input", "three stages"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "window"])
def test_two_conversations_of_different_length(name: str, plan: str) -> None:
    """Padded on the left by their first prompts, with turns of the same length."""
    miniature = build(name)
    model = miniature.model
    inputs = miniature.inputs(
        ([picture(112, 84)], "color of 5"),
        ([picture(84, 112, 1)], "digit on any red square"),
    )
    start, mask = inputs["input_ids"].shape[1], inputs["attention_mask"]
    with prune(model, Draw(), plan=PLANS[plan], seeds=[3, 4]) as trace:
        out = answered(miniature, inputs)
        turn = words(miniature, "what is it").expand(2, -1)
        conversation = torch.cat([out.sequences, turn], dim=1)
        place = conversation.shape[1] - start
        mask = torch.nn.functional.pad(mask, (0, place), value=1)
        last = answered(
            miniature,
            {"input_ids": conversation, "attention_mask": mask},
            past_key_values=out.past_key_values,
        )
        with pytest.raises(EngineError, match="a further turn is padded in some samples"):
            longer_mask = torch.nn.functional.pad(mask, (0, STEPS), value=0)
            model.generate(
                last.sequences, attention_mask=longer_mask, past_key_values=last.past_key_values
            )
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, last.sequences[:, start:], dead)
    got = torch.stack(last.logits, dim=1)
    torch.testing.assert_close(got, want[:, place:], atol=5e-4, rtol=2e-4)


def test_a_turn_of_nothing_else_than_what_was_read() -> None:
    miniature = build("llava")
    inputs = first(miniature)
    with prune(miniature.model, Draw(), 0.5):
        out = answered(miniature, inputs)
        held = {"past_key_values": out.past_key_values}
        read = out.sequences.shape[1] - 1
        with pytest.raises(EngineError, match=f"has {read} tokens and the cache holds {read}"):
            miniature.model.generate(out.sequences[:, :-1], **held)
        other = out.sequences.clone()
        other[0, 3] += 1
        with pytest.raises(EngineError, match="differs at position 3 from the one that the cache"):
            miniature.model.generate(other, **held)
        with pytest.raises(EngineError, match="new images of a further turn are not pruned"):
            ids = torch.cat([out.sequences, inputs["input_ids"]], dim=1)
            miniature.model.generate(ids, pixel_values=inputs["pixel_values"], **held)
        with pytest.raises(EngineError, match=f"the cache holds {read} tokens of a conversation"):
            miniature.model.generate(
                out.sequences[:, -2:], attention_mask=torch.ones(1, read + 5), **held
            )
        # and goes on all the same
        miniature.model.generate(out.sequences, max_new_tokens=1, **held)


def test_another_conversations_cache_is_refused() -> None:
    miniature = build("llava")
    inputs = first(miniature)
    with prune(miniature.model, Draw(), 0.5):
        old = answered(miniature, inputs)
        answered(miniature, inputs)
        with pytest.raises(EngineError, match="read outside this prune"):
            miniature.model.generate(old.sequences, past_key_values=old.past_key_values)


def test_a_cache_says_its_own_length_again() -> None:
    miniature = build("llava")
    with prune(miniature.model, Draw(), 0.5) as trace:
        out = answered(miniature, first(miniature))
        held = out.past_key_values
        ids = torch.cat([out.sequences, words(miniature, "what is it")], dim=1)
        miniature.model.generate(ids, past_key_values=held, max_new_tokens=1)
    sample = trace.samples[0]
    assert held.get_seq_length() == ids.shape[1] - sample.available + len(sample.survivors())
