"""FLOP formulas against torch's own counter, on a miniature Qwen2.5-VL with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from conftest import counted as products
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from prunebench import Budget, BudgetError, Keep, Pruner, Stage, Unsupported, VisualTokens, prune
from prunebench.benchmarks import load_task
from prunebench.engine import trace as trace_module
from prunebench.engine.ready import Ready
from prunebench.engine.stream import EngineError
from prunebench.engine.trace import SampleTrace
from prunebench.measure.flops import Flops, counter, decode, head, llm_prefill, sample_flops
from prunebench.models.qwen2_5_vl import Qwen25VL
from prunebench.registry import build, get, names
from prunebench.run.backend import Conditions, Encoded, setup_of
from prunebench.run.grid import Grid
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.tokens import Layout, Tile
from prunebench.trained import RANDOM, Trained

IMAGE, VIDEO, START, END = 90, 91, 92, 93


@pytest.fixture(scope="module")
def model() -> Any:
    """Grouped queries; windows of 4x4 tokens in two vision blocks of three; widths that no two
    parts share.
    """
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 88,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 52,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def prompt(
    images: list[tuple[int, int]], video: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Inputs of one sample: images of height x width patches, and a video of frames x height x
    width.
    """
    grids = [(1, *image) for image in images]
    ids = [5]
    for token, (t, h, w) in [(IMAGE, g) for g in grids] + ([(VIDEO, video)] if video else []):
        ids += [START] + [token] * (t * h * w // 4) + [END]
    input_ids = torch.tensor([[*ids, 7, 8, 9]])
    kinds = torch.where(input_ids == IMAGE, 1, torch.where(input_ids == VIDEO, 2, 0))
    inputs: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": kinds.int(),
    }
    if grids:
        patches = sum(h * w for _, h, w in grids)
        inputs |= {
            "pixel_values": torch.randn(patches, 1176),
            "image_grid_thw": torch.tensor(grids),
        }
    if video:
        patches = video[0] * video[1] * video[2]
        inputs |= {
            "pixel_values_videos": torch.randn(patches, 1176),
            "video_grid_thw": torch.tensor([video]),
        }
    return inputs


def counted(model: Any, inputs: dict[str, Any]) -> int:
    with torch.inference_mode(), counter() as flops:
        model(**inputs, logits_to_keep=1)
    return products(flops)


def parts(model: Any, inputs: dict[str, Any]) -> dict[str, int]:
    """Torch's count by module."""
    with torch.inference_mode(), counter() as flops:
        model(**inputs, logits_to_keep=1)
    name = type(model).__name__
    modules = {
        key.removeprefix(f"{name}."): sum(ops.values())
        for key, ops in flops.get_flop_counts().items()
    }
    projector = modules["model.visual.merger"]
    modules["model.language_model"] -= modules.get("model.language_model.rotary_emb", 0)
    return {
        "vision": modules["model.visual"] - projector,
        "projector": projector,
        "llm": modules["model.language_model"],
        "head": modules["lm_head"],
    }


SIZES = {
    "one window": prompt([(8, 8)]),
    "ragged windows": prompt([(10, 14)]),
    "one token": prompt([(2, 2)]),
    "two images": prompt([(8, 12), (14, 6)]),
    "video": prompt([], (3, 6, 10)),
    "image and video": prompt([(4, 18)], (2, 8, 8)),
}


@pytest.mark.parametrize("case", SIZES)
def test_every_part_equals_torchs_counter(model: Any, case: str) -> None:
    inputs = SIZES[case]
    layouts = Qwen25VL().layouts(model, inputs)
    visual, layers = len(layouts[0]), model.config.text_config.num_hidden_layers
    text = inputs["input_ids"].shape[1] - visual
    sample = SampleTrace(
        layouts[0], visual, text, (), entering=[visual] * layers, cached=[visual] * layers
    )
    flops = sample_flops(model, Qwen25VL(), inputs, sample)
    assert flops == Flops(**parts(model, inputs), selector=0)
    assert flops.total == counted(model, inputs)


@pytest.mark.parametrize("method", ["none", "fastv", "divprune", "pyramiddrop"])
@pytest.mark.parametrize("case", ["ragged windows", "two images"])
def test_pruned_total_equals_torchs_counter(model: Any, method: str, case: str) -> None:
    inputs = SIZES[case]
    budget = 1.0 if method == "none" else 0.7
    with prune(model, method, budget=budget, count_flops=True) as trace, counter() as seen:
        total = counted(model, inputs)
    if any(name.endswith("rotary_emb") for name in seen.get_flop_counts()):
        pytest.skip(
            "this transformers makes rotary tables by matrix products, which torch counts "
            "and we do not"
        )
    flops = sample_flops(model, Qwen25VL(), inputs, trace.samples[0])
    assert flops.total == total
    if method != "none":
        assert flops.llm < llm_prefill(model.config.text_config, [inputs["input_ids"].shape[1]] * 4)


def test_the_selector_is_counted(model: Any) -> None:
    """FastV reads one query row of every head at all keys: 2 x heads x keys x head dimension."""
    inputs = SIZES["ragged windows"]
    with torch.inference_mode(), prune(model, "fastv", budget=0.7, count_flops=True) as trace:
        model(**inputs)
    assert trace.samples[0].selector_flops == 2 * 4 * inputs["input_ids"].shape[1] * 16


# ---- counted once --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> tuple[TransformersBackend, list[Encoded]]:
    """A trained miniature with crops and newlines, and a few questions; their images have one
    size.
    """
    backend = TransformersBackend.load(setup_of(Grid(), "tiny-llava-next"))
    benchmark = load_task("scenes", limit=3)
    samples = [backend.read(benchmark, [request]) for request in benchmark.requests]
    return backend, [Encoded(sample, sample.inputs) for sample in samples]


def selector_flops(scenes: Any, method: Ready, number: int) -> int:
    backend, encodings = scenes
    budget = Budget(1.0 if method.name == "none" else 0.5)
    conditions = Conditions(budget, seeds=[number], count_flops=True)
    (trace,) = backend.answer(encodings[number], method, conditions).traces
    assert trace.selector_flops is not None
    return int(trace.selector_flops)


def built(name: str) -> Pruner:
    pruner = build(name)
    return replace(pruner, weights=RANDOM) if isinstance(pruner, Trained) else pruner


def marked(name: str) -> Any:
    """A method that declares nothing is always counted: slow, and what could go wrong is less."""
    declares = "work_by_shape" in vars(get(name))
    is_fast = declares and names().index(name) % 3 == 0
    return pytest.param(name, marks=[] if is_fast else pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in names()])
def test_what_is_counted_once_equals_what_is_counted_every_time(scenes: Any, name: str) -> None:
    """Over several samples, for every method, whatever it declares."""
    backend, encodings = scenes
    pruner = built(name)
    try:
        shared = backend.ready(pruner)
        remembered = [selector_flops(scenes, shared, n) for n in range(len(encodings))]
    except (Unsupported, BudgetError) as error:
        pytest.skip(str(error))
    fresh = [selector_flops(scenes, backend.ready(pruner), n) for n in range(len(encodings))]
    assert remembered == fresh


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "pool"])
def test_a_method_that_works_by_shape_is_counted_and_confirmed_and_then_known(
    scenes: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = scenes
    ready, counts = backend.ready(build(name)), []

    def counted() -> Any:
        counts.append(1)
        return counter()

    monkeypatch.setattr(trace_module, "counter", counted)
    counted_per_sample = []
    for _ in range(4):
        counts.clear()
        selector_flops(scenes, ready, 0)
        counted_per_sample.append(len(counts))
    assert counted_per_sample[0] == counted_per_sample[1] > 0
    assert counted_per_sample[2:] == [0, 0]


@dataclass(frozen=True)
class Rounds(Pruner):
    """Multiplies more often the larger a value is, and says that it does not."""

    work_by_shape = True

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        for _ in range(1 + tokens.seed):
            tokens.features @ tokens.features.T
        return Keep(torch.arange(stage.keep))


@dataclass(frozen=True)
class Inheriting(Rounds):
    """One that says nothing of itself."""


@dataclass(frozen=True)
class Holding(Pruner):
    """One that declares, and holds one that does not."""

    work_by_shape = True
    pruner: Pruner = field(default_factory=Inheriting)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return self.pruner.prune(tokens, stage)


def test_a_method_whose_work_depends_on_more_is_named_or_counted_every_time(scenes: Any) -> None:
    backend, _ = scenes
    wrong = backend.ready(Rounds())
    selector_flops(scenes, wrong, 0)
    with pytest.raises(EngineError, match="take work_by_shape out of its class"):
        selector_flops(scenes, wrong, 1)
    for pruner in (Inheriting(), Holding()):
        ready = backend.ready(pruner)
        one, two = (selector_flops(scenes, ready, number) for number in (0, 1))
        assert two == 2 * one > 0


def test_decode_equals_torchs_counter(model: Any) -> None:
    inputs = SIZES["ragged windows"]
    with torch.inference_mode(), prune(model, "fastv", budget=0.7) as trace:
        with counter() as all_steps:
            model.generate(**inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5)
        with counter() as prefill:
            model.generate(**inputs, do_sample=False, max_new_tokens=1)
    sample = trace.samples[0]
    lengths = [cached + sample.text for cached in sample.cached]
    config = model.config.text_config
    expected = decode(config, lengths, steps=4) + head(config, positions=4)
    assert products(all_steps) - products(prefill) == expected


def test_known_answers() -> None:
    """LLaVA-1.5-7B's 576 image tokens: 7.63 TFLOP in the layers; a layer by hand for grouped
    queries.
    """

    class Llama7B:
        hidden_size, intermediate_size, num_hidden_layers = 4096, 11008, 32
        num_attention_heads = num_key_value_heads = 32

    assert llm_prefill(Llama7B, [576] * 32) / 1e12 == pytest.approx(7.63, abs=0.005)
    assert llm_prefill(Llama7B, [64] * 32) / 1e12 == pytest.approx(0.83, abs=0.005)

    class OneLayer:
        hidden_size, intermediate_size, num_hidden_layers, vocab_size = 8, 12, 1, 10
        num_attention_heads, num_key_value_heads, head_dim = 2, 1, 4

    # 3 tokens: q 384, k 192, v 192, o 384, both products 4*9*8 = 288, three MLP matrices 3*576
    assert llm_prefill(OneLayer, [3]) == 384 + 192 + 192 + 384 + 288 + 1728
    # one token behind 3 cached: projections 384, 4 keys 4*4*8 = 128, MLP 576
    assert decode(OneLayer, [3], steps=1) == 384 + 128 + 576
    assert head(OneLayer) == 160


def test_refusals(model: Any) -> None:
    config = model.config.text_config
    with pytest.raises(ValueError, match="got 3 lengths for a language model of 4 layers"):
        llm_prefill(config, [1, 2, 3])
    with pytest.raises(ValueError, match="inputs of 2 samples"):
        sample_flops(
            model,
            Qwen25VL(),
            {"input_ids": torch.ones(2, 3)},
            SampleTrace(Layout((Tile(1, 1),)), 1, 2, ()),
        )
