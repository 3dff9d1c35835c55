"""What a method has to say in decoding: which visual entries later layers attend to at a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import families
import pytest
import torch
from conftest import miniature, picture
from oracle import Rows, logits
from test_equivalence import PROMPTS, STEPS, Draw, dead_columns, run
from torch import Tensor

from prunebench import INPUT, DecodingStep, Site, Stage, Unsupported, llm, prune
from prunebench.engine.stream import EngineError
from prunebench.models import family_of

CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}


@dataclass(frozen=True)
class Steering(Draw):
    """Attends to the entries that were paid most, but at every third step to all."""

    layer: int = 3
    most: int = 2
    steps: list[DecodingStep] = field(default_factory=list, compare=False)

    def decodes_at(self) -> Site:
        return llm(self.layer)

    def decode(self, step: DecodingStep) -> Tensor | None:
        self.steps.append(step)
        if step.number % 3 == 1:
            return None
        return chosen(step, self.most)


def chosen(step: DecodingStep, most: int) -> Tensor:
    """[K] the entries that all heads together pay most."""
    return step.attention.mean(dim=0).topk(min(most, len(step))).indices


def oracle(
    model: Any, inputs: dict[str, Any], answer: Tensor, trace: Any, pruner: Steering, compact: bool
) -> Tensor:
    """The logits where every answer's query has a bias of its own, which leaves nothing of what it
    does not attend to.
    """
    visual = family_of(model).visual(model, inputs["input_ids"])
    batch, width = visual.shape
    depth = len(family_of(model).layers(model))
    dead = dead_columns(model, inputs, trace)
    late = torch.zeros(batch, answer.shape[1] - 1, width)
    for number, step in enumerate(pruner.steps):
        time, row = divmod(number, batch)
        if time % 3 == 1:
            continue
        columns = visual[row].nonzero()[:, 0]
        attended = step.index[chosen(step, pruner.most)]
        others = step.index[~torch.isin(step.index, attended)]
        late[row, time, columns[others]] = -1e9
    whole = torch.arange(width).expand(batch, width)
    rows = []
    for layer in range(depth):
        own = late if layer >= pruner.layer else torch.zeros_like(late)
        rows.append(Rows(whole, whole, own))
    return logits(model, inputs, answer, dead, compact, rows=rows)


def expect(
    model: Any, inputs: dict[str, Any], pruner: Steering, plan: tuple[Stage, ...], positions: Any
) -> Any:
    answer, got, trace = run(model, inputs, pruner, plan=plan, positions=positions)
    compact = positions == "compact"
    want = oracle(model, inputs, answer, trace, pruner, compact)
    torch.testing.assert_close(got, want, **CLOSE)
    plain = logits(model, inputs, answer, dead_columns(model, inputs, trace), compact)
    assert (plain - got)[:, 1:].abs().max() > 2e-3
    return trace


PLANS: dict[str, tuple[Stage, ...]] = {
    "nothing dropped": (Stage(INPUT, 12),),
    "input": (Stage(INPUT, 8),),
    "staircase": (Stage(llm(1), 9), Stage(llm(4), 5)),
    "compacted": (Stage(INPUT, 8), Stage(llm(2), 8, compact=True)),
}


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
@pytest.mark.parametrize("plan", PLANS)
def test_steps_attend_to_what_the_method_says(
    model: Any, inputs_of: Any, plan: str, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    if plan == "nothing dropped" and prompt == "padded batch":
        pytest.skip("its samples have different sizes")
    pruner = Steering()
    trace = expect(model, inputs, pruner, PLANS[plan], positions)
    # the prefill makes the first token, and the method is asked at every step behind it
    asked = len(trace.samples) * (STEPS - 1)
    assert [step.number for step in pruner.steps] == sorted(
        [*range(STEPS - 1)] * len(trace.samples)
    )
    assert len(pruner.steps) == asked
    held = trace.samples[0].cached[2]
    assert trace.samples[0].attended == [2, held, 2, 2]
    assert trace.seconds["steer"] > 0


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "internvl", "qwen2_5_vl", "gemma3", "qwen3_vl"]
)
def test_in_several_families(name: str) -> None:
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    if name == "gemma3":
        _, _, trace = run(family.model, inputs, Steering(layer=2), plan=PLANS["input"])
        assert trace.samples[0].attended == [2, 8, 2, 2]
        return
    expect(family.model, inputs, Steering(layer=2), PLANS["input"], "original")


def test_it_sees_what_the_layer_before_paid(eager_model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    pruner = Steering()
    with prune(eager_model, pruner, plan=(Stage(INPUT, 8),)), torch.no_grad():
        out = eager_model(**inputs)
        step = eager_model(
            input_ids=torch.tensor([[5]]),
            past_key_values=out.past_key_values,
            output_attentions=True,
        )
    (seen,) = pruner.steps
    visual = family_of(eager_model).visual(eager_model, inputs["input_ids"])[0]
    first = int(visual.nonzero()[0])
    paid = step.attentions[2][0, :, -1, first : first + 8]
    torch.testing.assert_close(seen.attention, paid, atol=2e-5, rtol=1e-3)
    hidden = ~torch.isin(torch.arange(8), chosen(seen, 2))
    # layers behind pay the others nothing, those before do
    assert float(step.attentions[3][0, :, -1, first : first + 8][:, hidden].max()) == 0
    assert float(step.attentions[1][0, :, -1, first : first + 8][:, hidden].max()) > 0


def test_it_is_priced(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    with prune(model, Steering(), plan=(Stage(INPUT, 8),), count_flops=True) as trace:
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    width = inputs["input_ids"].shape[1] - 12 + 8
    # one query row of 4 heads of 20 dims against every key, at two steps
    assert trace.samples[0].step_flops == 2 * 4 * 20 * ((width + 1) + (width + 2))
    assert trace.samples[0].selector_flops == 0


def test_it_leaves_no_trace(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    before = model.generate(**inputs, **options)
    with prune(model, Steering(), plan=(Stage(INPUT, 8),)):
        model.generate(**inputs, **options)
        first = model.generate(**inputs, **options)
        second = model.generate(**inputs, **options)
    assert torch.equal(first, second)
    assert torch.equal(before, model.generate(**inputs, **options))


@pytest.mark.parametrize("answer", [[1], torch.tensor([1, 1]), torch.tensor([12]), torch.zeros(2)])
def test_a_broken_answer_is_named(model: Any, inputs_of: Any, answer: Any) -> None:
    @dataclass(frozen=True)
    class Broken(Steering):
        def decode(self, step: DecodingStep) -> Tensor | None:
            result: Tensor = answer
            return result

    with pytest.raises(EngineError, match=r"Broken\.decode returned"):
        run(model, PROMPTS["one image"](inputs_of), Broken(), plan=(Stage(INPUT, 8),))


def test_what_cannot_be_served_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(Unsupported, match="Steering steers decoding at llm:6; it must be one of"),
        prune(model, Steering(layer=6)),
    ):
        pass
    odd = miniature()
    monkeypatch.setattr(odd.get_decoder().config, "_attn_implementation", "flash_attention_2")
    with (
        pytest.raises(Unsupported, match="which flash attention is not told"),
        prune(odd, Steering()),
    ):
        pass
