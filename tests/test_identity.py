"""Budget 1.0 reproduces the model bit for bit, and a session leaves no trace behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import picture
from test_equivalence import PLANS, PROMPTS, Draw, run

from prunebench import INPUT, Stage, llm, prune
from prunebench.engine.encode import encode


def plain(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    out = model.generate(
        **inputs,
        max_new_tokens=5,
        min_new_tokens=5,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(out.logits, dim=1)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("site", [INPUT, llm(2)])
def test_keep_all_is_bit_identical(model: Any, inputs_of: Any, prompt: str, site: Any) -> None:
    inputs = PROMPTS[prompt](inputs_of)

    class All(Draw):
        def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
            return (Stage(site, available),)

    _, got, _ = run(model, inputs, All())
    assert torch.equal(got, plain(model, inputs))


@pytest.mark.parametrize("method", ["none", "fastv"])
def test_registered_keep_all_is_bit_identical(model: Any, inputs_of: Any, method: str) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    with prune(model, method, 1.0):
        got = plain(model, inputs)
    assert torch.equal(got, plain(model, inputs))


def test_no_trace_is_left(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, count = plain(model, inputs), hooks()
    with prune(model, "fastv", 0.5):
        model.generate(**inputs, max_new_tokens=2)
    assert hooks() == count
    assert model.get_decoder().config._attn_implementation == "sdpa"
    assert torch.equal(plain(model, inputs), before)


def test_an_error_leaves_no_trace_either(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    count = sum(len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(ZeroDivisionError), prune(model, "fastv", 0.5):
        model.generate(**inputs, max_new_tokens=2)
        raise ZeroDivisionError
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == count
    assert model.get_decoder().config._attn_implementation == "sdpa"


def test_encode_once_equals_encode_each(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["two images"](inputs_of)
    encoded = encode(model, inputs)
    if "mm_encoder_outputs" not in encoded:
        pytest.skip("this transformers takes no encodings; every call encodes")
    assert "pixel_values" not in encoded
    for plan in PLANS.values():
        _, each, _ = run(model, inputs, Draw(), plan=plan, seeds=[1])
        _, once, _ = run(model, encoded, Draw(), plan=plan, seeds=[1])
        assert torch.equal(each, once)


def test_a_sample_knows_nothing_of_the_one_before(model: Any, inputs_of: Any) -> None:
    one, other = (
        inputs_of(([picture(112, 84)], "color of 5")),
        inputs_of(([picture(84, 84, 9)], "shape of 2")),
    )
    with prune(model, "fastv", 0.4) as trace:
        model.generate(**one, max_new_tokens=1)
        first = trace.samples[0].kept
        model.generate(**other, max_new_tokens=1)
        model.generate(**one, max_new_tokens=1)
        again = trace.samples[0].kept
    assert {s: k.tolist() for s, k in first.items()} == {s: k.tolist() for s, k in again.items()}
