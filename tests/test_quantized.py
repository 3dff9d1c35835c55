"""Weights of 8 and 4 bits, and weights that lie elsewhere: pruned like any others, or refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from oracle import logits
from PIL import Image
from test_equivalence import PLANS, Draw, dead_columns, run

import prunebench
from prunebench.models import LoadError
from prunebench.models.loaded import Loaded
from prunebench.pruner import Unsupported
from prunebench.run import grid, provenance
from prunebench.run.backend import ModelSetup, setup_of
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.testbed import sample

MODEL = "tiny-qwen2.5-vl"
needs_bits = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def inputs_of(loaded: Loaded) -> tuple[dict[str, Any], str]:
    scene, question = sample(seed=7, index=1)
    return loaded.inputs(Image.fromarray(scene.render()), question.text), question.answer


@needs_bits
@pytest.mark.parametrize(
    ("bits", "layer"),
    [
        pytest.param("8bit", "Linear8bitLt", marks=pytest.mark.slow),
        ("4bit", "Linear4bit"),
    ],
)
def test_quantized_weights_are_pruned_like_others(bits: str, layer: str) -> None:
    loaded = prunebench.load(MODEL, quantization=bits)
    names = {type(module).__name__ for module in loaded.model.modules()}
    assert layer in names
    inputs, answer = inputs_of(loaded)
    with prunebench.prune(loaded.model, "fastv", 0.5) as trace:
        output = loaded.model.generate(**inputs, max_new_tokens=6)
    assert loaded.text(output, inputs) == answer
    assert trace.samples[0].spent() == pytest.approx(0.5 * trace.samples[0].available, abs=0.5)
    # rows are rounded alike in a shorter and in a longer sequence, but for 8 bits' outliers
    atol, rtol = (1e-3, 1e-3) if bits == "4bit" else (0.5, 0.1)
    loaded.model.generation_config.eos_token_id = None
    tokens, got, trace = run(loaded.model, inputs, Draw(), plan=PLANS["input and llm"])
    want = logits(loaded.model, inputs, tokens, dead_columns(loaded.model, inputs, trace))
    torch.testing.assert_close(got, want, atol=atol, rtol=rtol)


@needs_bits
@pytest.mark.slow
def test_quantization_is_of_the_weights_identity() -> None:
    plain, four = (prunebench.load(MODEL, quantization=bits) for bits in ("none", "4bit"))
    assert plain.revision != four.revision
    assert four.revision == prunebench.load(MODEL, quantization="4bit").revision


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantization": "3bit"}, "quantization is '3bit'; it is none, 8bit or 4bit"),
        ({"quantization": "4bit", "weights": "random"}, "random weights are not quantized"),
        ({"device_map": "everywhere"}, "device_map is 'everywhere'; it is none, auto, balanced"),
        ({"device_map": "cuda:99"}, "device_map is 'cuda:99', and torch sees . GPUs here"),
        ({"device_map": "auto", "weights": "random"}, "random weights are made in one place"),
    ],
)
def test_what_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        prunebench.load(MODEL, **options)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "bitsandbytes" else find(name, *args),
    )
    with pytest.raises(LoadError, match="for which bitsandbytes is missing; install it"):
        prunebench.load(MODEL, quantization="8bit")


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="no accelerate")
def test_layers_that_lie_on_disk() -> None:
    """A model that was loaded with a `device_map` is pruned as if it were in one place."""
    whole = prunebench.load(MODEL)
    places: dict[str, str | int] = dict.fromkeys(("model.visual", "lm_head"), "cpu")
    language = "model.language_model"
    places |= {f"{language}.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
    for number in range(len(whole.family.layers(whole.model))):
        places[f"{language}.layers.{number}"] = "cpu" if number < 2 else "disk"
    apart = prunebench.load(MODEL, device_map=places)
    assert "cpu and disk" in repr(apart)
    assert apart.revision == whole.revision
    inputs, answer = inputs_of(apart)
    with prunebench.prune(apart.model, "fastv", 0.5):
        output = apart.model.generate(**inputs, max_new_tokens=6)
    assert apart.text(output, inputs) == answer
    for plan in ("input", "three stages"):
        for positions in ("original", "compact"):
            options = {"plan": PLANS[plan], "positions": positions, "seeds": [3]}
            _, got, _ = run(apart.model, inputs, Draw(), **options)
            _, want, _ = run(whole.model, inputs, Draw(), **options)
            assert torch.equal(got, want)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="no accelerate")
@pytest.mark.parametrize("name", ["auto", "balanced", "cpu"])
def test_layers_that_accelerate_spreads(name: str) -> None:
    """Here all of them lie in one place, as they would without."""
    apart = prunebench.load(MODEL, device_map=name)
    assert " on cpu, revision" in repr(apart)
    assert apart.revision == prunebench.load(MODEL).revision
    inputs, answer = inputs_of(apart)
    with prunebench.prune(apart.model, "pyramiddrop", 0.5):
        output = apart.model.generate(**inputs, max_new_tokens=6)
    assert apart.text(output, inputs) == answer


def test_a_grid_says_where_layers_lie() -> None:
    setup = setup_of(grid.load(None, [f"model={MODEL}", "device_map=auto"]), MODEL, has_gpu=False)
    assert setup.device_map == "auto"
    assert provenance.collect(setup, {}, {})["device_map"] == "auto"
    assert setup_of(grid.load(None, [f"model={MODEL}"]), MODEL, has_gpu=False).device_map == "none"


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="no accelerate")
def test_no_clock_runs_for_a_model_in_several_places() -> None:
    backend = TransformersBackend.load(ModelSetup(MODEL, device_map="cpu"))
    backend.module.hf_device_map = {"model": 0, "lm_head": 1}  # type: ignore[assignment]
    with pytest.raises(Unsupported, match=r"a model on cuda:0, cuda:1 \(device_map\) are not"):
        backend.time(*[None] * 4)  # type: ignore[arg-type]
