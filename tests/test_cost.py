"""Costs at real size: equal to torch's counter on every family, and to the engine for methods."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import counted as products
from families.llava import clip as clip_folder
from PIL import Image
from transformers import CLIPConfig

from prunebench import Budget, BudgetError, Unsupported, prune
from prunebench.engine.counter import counter
from prunebench.models import family_of
from prunebench.pricing.bill import Bill, Lengths, pruned, unpruned
from prunebench.pricing.clips import Clip
from prunebench.pricing.conventions import CONVENTIONS
from prunebench.pricing.counting import counted, stock_model
from prunebench.pricing.memory import Footprint, footprint
from prunebench.pricing.outline import Outline
from prunebench.pricing.public import Parameters, record, records
from prunebench.pricing.roofline import ACCELERATORS, Accelerator, Roofline, experts_met
from prunebench.pricing.selection import QUESTION
from prunebench.pricing.settings import Settings
from prunebench.pricing.subject import Scene, Subject
from prunebench.registry import build, get, names
from prunebench.run.estimate import load
from prunebench.run.keys import GridError
from prunebench.trained import RANDOM, Trained

UNKNOWN = {"gemma4", "qwen3_5_vl", "qwen3_5_moe"}
"""Families whose layers differ from each other, of which no public model is known here."""

EXACT = [name for name in families.names() if name not in UNKNOWN]

QUICK = ("fastv", "divprune", "duet_vlm", "tome")
"""Methods that between them read what comes from every part of a model."""


def subject_of(miniature: Any, images: dict[str, Any] | None = None) -> Subject:
    model = miniature.model
    family = family_of(model)
    outline = Outline(family, model.config, "", lambda: model)
    return Subject(miniature.name, family, outline, images or {}, Parameters(**counted(model)))


@pytest.fixture(scope="module", params=EXACT)
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any], Image.Image, Scene]:
    """A family's miniature, the inputs of one image, and the same as a scene with a price."""
    miniature = families.build(request.param)
    size = miniature.sizes[0]
    image = Image.effect_noise(size, 50).convert("RGB")
    inputs = miniature.inputs(([image], "what digit is on that red square"))
    return miniature, inputs, image, Scene(subject_of(miniature), size, inputs)


def test_the_unpruned_bill_equals_torchs_counter(case: Any) -> None:
    miniature, inputs, _, scene = case
    bill = unpruned(scene, new_tokens=4)
    with torch.inference_mode(), counter() as prefill:
        miniature.model(**inputs, logits_to_keep=1)
    assert bill.prefill == products(prefill)
    assert (bill.signals, bill.selection) == (0, 0)
    with torch.inference_mode(), counter() as whole:
        miniature.model.generate(**inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4)
    with torch.inference_mode(), counter() as first:
        miniature.model.generate(**inputs, do_sample=False, max_new_tokens=1)
    assert bill.decode == products(whole) - products(first)


def bill_of(scene: Scene, name: str) -> Bill:
    pruner = build(name)
    if isinstance(pruner, Trained):
        pruner = replace(pruner, weights=RANDOM)
    clip = Clip.of(CLIPConfig.from_pretrained(clip_folder()))
    return pruned(scene, pruner, budget_of(name), 4, clip)


def budget_of(name: str) -> Budget:
    return Budget(1.0) if name == "none" else Budget(0.5, nearest=True)


def traced(miniature: Any, inputs: dict[str, Any], image: Image.Image, name: str) -> Any:
    """What the engine counts of the same."""
    pruner = build(name)
    if isinstance(pruner, Trained):
        pruner = replace(pruner, weights=RANDOM)
    given = {"processor": miniature.processor, "questions": [QUESTION]}
    pixels = torch.from_numpy(np.array(image))[None]
    options = {**given, "pictures": [[pixels]], "count_flops": True}
    with (
        torch.inference_mode(),
        prune(miniature.model, pruner, budget=budget_of(name), **options) as trace,
    ):
        miniature.model(**inputs, logits_to_keep=1)
    return trace.samples[0]


def by_shape(name: str) -> bool:
    return "work_by_shape" in vars(get(name))


def marked(name: str) -> Any:
    return pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in names()])
def test_the_bill_of_a_method_equals_what_the_engine_counts(case: Any, name: str) -> None:
    miniature, inputs, image, scene = case
    try:
        sample = traced(miniature, inputs, image, name)
    except (Unsupported, BudgetError) as error:
        pytest.skip(str(error))
    bill = bill_of(scene, name)
    if not build(name).dynamic:
        assert list(bill.lengths.entering) == sample.entering
        assert list(bill.lengths.cached) == sample.cached
    if any("CLIP" in note for note in bill.notes):
        # texts count as long as CLIP reads, which is more than there is
        assert bill.signals + bill.selection >= sample.selector_flops
    elif by_shape(name):
        assert bill.signals + bill.selection == sample.selector_flops


@pytest.mark.parametrize("name", ["llava-1.5-7b", "internvl3-8b", "qwen2.5-vl-7b"])
def test_at_full_size_the_bill_equals_the_counter_on_the_meta_device(name: str) -> None:
    known = record(name)
    model = stock_model(known.config).eval()
    subject = Subject.of(known)
    scene = subject.scene((1000, 700), 64)
    bill = unpruned(scene, 1)
    rows, text = scene.visual + scene.text, model.config.get_text_config()
    kind = next(model.parameters()).dtype
    axes = (3, 1) if subject.images["cut"] == "grid" else (1,)
    with torch.no_grad(), torch.device("meta"), counter() as seen:
        states = model.model.language_model(
            inputs_embeds=torch.empty(1, rows, text.hidden_size, dtype=kind),
            position_ids=torch.empty(*axes, rows, dtype=torch.int64),
            attention_mask=torch.empty(1, 1, rows, rows, dtype=torch.bool),
            use_cache=False,
        )
        model.lm_head(states.last_hidden_state[:, -1:])
    assert products(seen) == bill.language + bill.head
    if subject.images["cut"] == "grid":
        return  # its encoder asks tensors for values, which those without data have not
    size = scene.subject.family.crops(subject.config, scene.inputs)  # type: ignore[attr-defined]
    side = subject.config.vision_config.image_size
    side = side if isinstance(side, int) else side[0]
    with torch.no_grad(), torch.device("meta"), counter() as seen:
        model.model.get_image_features(pixel_values=torch.empty(size, 3, side, side, dtype=kind))
    assert products(seen) == bill.vision + bill.projector


# ---- public models -------------------------------------------------------------------------------


def test_every_public_model_says_where_its_numbers_come_from() -> None:
    for name, known in records().items():
        assert known.source, name
        assert Subject.of(known).scene((640, 480), 8).visual > 0


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in records()])
def test_parameters_are_those_of_the_stock_class(name: str) -> None:
    known = records()[name]
    model = stock_model(known.config)
    assert known.parameters == Parameters(**counted(model))
    assert known.parameters.total == sum(part.numel() for part in model.parameters())


def test_parameters_that_are_printed_on_cards() -> None:
    """As public repositories show them, in billions."""
    printed = {"qwen2.5-vl-7b": 8.29, "qwen3-vl-8b": 8.77, "llava-1.5-7b": 7.06}
    for name, billions in printed.items():
        assert record(name).parameters.total / 1e9 == pytest.approx(billions, abs=0.006)


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Unsupported, match=r"qwen2.5-vl-7"):
        record("qwen2.5-vl-7")


# ---- pictures ------------------------------------------------------------------------------------

SIZES = ((112, 84), (300, 120), (90, 311), (640, 480), (56, 60), (64, 150))


def cuts(name: str, processor: Any) -> dict[str, Any]:
    """How a miniature's processor cuts images, as a record says it."""
    images = processor.image_processor
    if name.startswith("qwen"):
        size = images.size
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        return {"cut": "grid", **limits}
    if name == "smolvlm":
        tile = images.max_image_size["longest_edge"]
        return {"cut": "split", "tile": tile, "longest_edge": images.size["longest_edge"]}
    if name == "internvl":
        limits = {"min_patches": images.min_patches, "max_patches": images.max_patches}
        return {"cut": "tiles", **limits}
    return {"cut": "square" if name == "llava" else "anyres"}


@pytest.mark.parametrize(
    "name",
    [
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "llava",
        "llava_next",
        "llava_onevision",
        "internvl",
        "smolvlm",
    ],
)
def test_a_pictured_prompt_has_the_shapes_that_the_processor_makes(name: str) -> None:
    miniature = families.build(name)
    subject = subject_of(miniature, cuts(name, miniature.processor))
    for size in SIZES:
        try:
            inputs = miniature.inputs(([Image.new("RGB", size)], "any"))
        except ValueError:
            continue  # the processor refuses the shape
        real, drawn = Scene(subject, size, inputs), subject.scene(size, 1)
        assert drawn.visual == real.visual, size
        assert [len(tile) for tile in drawn.layout.tiles] == [
            len(tile) for tile in real.layout.tiles
        ], size
        family = subject.family
        assert family.vision_flops(subject.config, drawn.inputs) == family.vision_flops(
            subject.config, real.inputs
        )


def test_a_size_in_whole_tokens_is_the_processors() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    from prunebench.pricing.pictures import whole_tokens

    generator = torch.Generator().manual_seed(0)
    for width, height in torch.randint(5, 6000, (500, 2), generator=generator).tolist():
        for side, low, high in ((28, 3136, 12845056), (32, 65536, 16777216), (28, 3136, 200_000)):
            if max(width, height) > 200 * min(width, height):
                continue
            due = smart_resize(height, width, side, low, high)
            assert whole_tokens((width, height), side, low, high) == due[::-1]
    with pytest.raises(Unsupported, match="more than 200 times"):
        whole_tokens((5000, 10), 28, 3136, 12845056)


# ---- conventions, memory, time -------------------------------------------------------------------


def vicuna() -> Settings:
    return Settings(
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        }
    )


def lengths(visual: int, text: int = 0, available: int | None = None) -> Lengths:
    return Lengths(available or visual, (visual,) * 32, (visual,) * 32, text)


@pytest.mark.parametrize(
    ("name", "whole", "pruned_to"),
    [("fastv", 2.99, 0.32), ("sparsevlm", 3.82, 0.42), ("glimpseprune", 7.63, 0.83)],
)
def test_conventions_give_the_numbers_that_papers_print(
    name: str, whole: float, pruned_to: float
) -> None:
    """LLaVA-1.5-7B's image tokens alone, 576 and 64 of them, in "TFLOPs"."""
    formula = CONVENTIONS[name].formula
    assert formula(vicuna(), lengths(576)) / 1e12 == pytest.approx(whole, abs=0.005)
    assert formula(vicuna(), lengths(64)) / 1e12 == pytest.approx(pruned_to, abs=0.005)


def test_glimpseprunes_script_forgets_the_text_behind_the_first_pruned_layer() -> None:
    formula = CONVENTIONS["glimpseprune"].formula
    assert formula(vicuna(), lengths(64, text=50, available=576)) == formula(vicuna(), lengths(64))
    assert formula(vicuna(), lengths(576, text=50)) > formula(vicuna(), lengths(576))


def test_memory_by_hand() -> None:
    """LLaVA-1.5-7B keeps 512 KiB a token: 32 layers, a key and a value of 4,096 16-bit numbers."""
    subject = Subject.of(record("llava-1.5-7b"))
    room = footprint(subject, lengths(576, text=24), 8, "bfloat16")
    assert room.prompt_cache == 600 * 2**19
    assert room.cache == 608 * 2**19
    assert room.weights == 2 * 7_063_427_072
    assert footprint(subject, lengths(576, text=24), 8, "float32").cache == 2 * room.cache
    small = Footprint(weights=10 * 10**9, prompt_cache=0, cache=10**9)
    assert [small.fits(20, 0.9), small.fits(20, 0.5), small.fits(10, 1.0)] == [8, 0, 0]


def test_a_roofline_by_hand() -> None:
    """A card that is slow at arithmetic needs FLOPs over its peak, one with slow memory what its
    weights take.
    """
    subject = Subject.of(record("llava-1.5-7b"))
    scene = subject.scene((336, 336), 24)
    bill = unpruned(scene, 9)
    slow = Accelerator("slow", 1e12, 1e30, 80, "")
    times = Roofline(slow, subject, 4, "bfloat16").times(bill)
    assert times.vision == pytest.approx(4 * bill.vision / 1e12)
    assert times.prefill == pytest.approx(4 * (bill.causal_language + bill.head) / 1e12)
    assert times.decode == pytest.approx(4 * bill.decode / 1e12)
    assert times.later_token == pytest.approx(times.decode / 8)
    narrow = Roofline(Accelerator("narrow", 1e30, 1e9, 80, ""), subject, 4, "bfloat16")
    times = narrow.times(bill)
    parameters = subject.parameters
    caches = 4 * 2**19 * sum(range(601, 609))
    weights = 8 * 2 * (parameters.layers + parameters.head)
    assert times.decode == pytest.approx((weights + caches) / 1e9)
    assert times.vision == pytest.approx(2 * parameters.vision / 1e9)


def test_experts_are_read_as_far_as_a_batch_meets_them() -> None:
    text = Settings({"num_experts": 128, "num_experts_per_tok": 8})
    assert experts_met(text, 1) == pytest.approx(8 / 128)
    assert experts_met(text, 1000) == pytest.approx(1)
    assert experts_met(vicuna(), 1) == 1
    subject = Subject.of(record("qwen3-vl-30b-a3b"))
    card = ACCELERATORS["h100"]
    bill = unpruned(subject.scene((448, 448), 8), 2)
    alone, many = (Roofline(card, subject, batch, "bfloat16").times(bill) for batch in (1, 64))
    # some 3 of 30 billion parameters are active
    assert 2 * 2.5e9 / card.bandwidth < alone.decode < 2 * 4.5e9 / card.bandwidth
    assert many.decode > 4 * alone.decode


def test_causal_layers_lose_half_of_attentions_products() -> None:
    scene = Subject.of(record("llava-1.5-7b")).scene((336, 336), 24)
    bill = unpruned(scene, 1)
    assert bill.layers[0] - bill.causal_layers[0] == 2 * 600**2 * 4096


# ---- the command ---------------------------------------------------------------------------------


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prunebench.cli", "cost", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **environment},
        check=False,
    )


def test_the_command_prints_tables_and_writes_the_same_numbers(tmp_path: Path) -> None:
    out = tmp_path / "cost.csv"
    before = os.times()
    done = run(
        "model=qwen2.5-vl-7b",
        "methods=divprune,fastv",
        "budgets=0.5,0.25",
        "image=1344x1344",
        "batch=1,8,32",
        "new_tokens=64",
        "accelerator=h100",
        "convention=fastv",
        f"out={out}",
    )
    after = os.times()
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "an estimate, no measurement" in printed
    assert "it leaves out multiply-adds under the name of FLOPs" in printed
    rows = list(csv.DictReader(out.open()))
    assert [(row["method"], row["budget"]) for row in rows[::3]] == [
        ("none", "1.0"),
        ("divprune", "0.5"),
        ("divprune", "0.25"),
        ("fastv", "0.5"),
        ("fastv", "0.25"),
    ]
    full, half = rows[0], rows[3]
    assert int(full["tokens_available"]) == 2304
    assert full["rows_by_layer"] == "2368x28"
    assert int(half["requests_fit"]) > int(full["requests_fit"]) > 100
    assert float(half["flops_prefill_ratio"]) < 1
    parts = ("vision", "projector", "signals", "selection", "llm", "head")
    assert sum(int(half[f"flops_{part}"]) for part in parts) == int(half["flops_prefill"])
    # a run is seconds: on a busy machine a CPU's second holds less
    spent = after.children_user - before.children_user
    assert spent < 15


def test_the_command_says_what_it_cannot_do() -> None:
    done = run("model=llava-1.5-7b", "methods=resize,pyramiddrop", "budgets=0.1")
    assert done.returncode == 0, done.stderr
    assert "resize 0.1: unsupported" in done.stdout
    assert "pyramiddrop 0.1: infeasible" in done.stdout
    done = run("model=llava-1.5-7c")
    assert done.returncode == 2
    assert "llava-1.5-7b" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["accelerator=tpu"], "accelerator is 'tpu'; known are h100"),
        (["peak_tflops=100"], "give both"),
        (["convention=mine"], "convention has 'mine'"),
        (["accelerator=h100", "dtype=float32"], "give peak_tflops"),
        (["batch=0"], "batch has 0"),
        (["image=big"], "images has 'big'"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(GridError, match=message):
        load(["methods=none", *words])


def test_a_context_is_filled_with_text() -> None:
    estimate = load(["model=llava-1.5-7b", "methods=none", "context=2048", "new_tokens=48"])
    assert estimate.scene.visual + estimate.scene.text + 48 == 2048
    with pytest.raises(GridError, match="context is 600; image and answer alone take 625"):
        load(["model=llava-1.5-7b", "methods=none", "context=600", "new_tokens=48"]).scene  # noqa: B018


def test_a_long_context_draws_no_attention_of_all_its_text() -> None:
    """28 heads of 5,824 queries and 8,128 keys would be five gigabytes; one query is read."""
    words = ["model=qwen2.5-vl-7b", "methods=fastv", "budgets=0.25", "context=8192"]
    estimate = load(words)
    bill = estimate.lines[1].bill
    assert bill is not None
    assert bill.signals == 2 * 3584 * 8128


def test_a_given_card_needs_no_name() -> None:
    estimate = load(["methods=none", "peak_tflops=100", "bandwidth_gb_s=500", "memory=24"])
    assert estimate.card is not None
    assert (estimate.card.peak, estimate.card.bandwidth) == (1e14, 5e11)
    assert estimate.fits(estimate.baseline) == 0 or estimate.memory == 24
