"""What selection costs where it hurts: 320 of 2,880 tokens of width 4,096 on one thread, for every
method, beside the arithmetic of its authors and beside the matrix product that it rests on.

Targets: no selection above 1.0 of the official arithmetic, a greedy one at most 1.1 of half a
product of all tokens with each other and its loop. The last tests compare, on a GPU, where greedy
loops run fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import Any

import pytest
import torch
from official_arithmetic import OFFICIAL, Official
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Budget,
    BudgetError,
    Layout,
    Part,
    ProductRows,
    Pruner,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    gram,
    greedy,
    greedy_apart,
    greedy_cover,
    greedy_map,
    greedy_marginal,
    registry,
)
from prunebench.signals import CLIP_TEXTS
from prunebench.sizes import Sizes
from prunebench.testing.samples import QUESTION, facts
from prunebench.trained import RANDOM, Trained

ROWS, COLUMNS, KEEP = 48, 60, 320
TOKENS = ROWS * COLUMNS
WIDTH, ENCODER_WIDTH, HEADS, HEAD_WIDTH, LAYERS = 4096, 1024, 16, 128, 32
ROUNDS = 3
NARROW = 8
"""Channels of tokens whose products cost nothing: what is left of a selection is its loop."""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]

Work = Callable[[], object]


@dataclass(frozen=True)
class Selection:
    """A method at its first stage that drops something, and what it is shown there."""

    pruner: Pruner
    stage: Stage
    tokens: VisualTokens

    def run(self) -> Tensor:
        """The places that stay."""
        return self.pruner.prune(replace(self.tokens, memo={}), self.stage).index


def selection(
    name: str, device: str, width: int = WIDTH, encoder: int = ENCODER_WIDTH
) -> Selection:
    """The method with the settings of its official arithmetic, and random tokens of one image.

    Dynamic methods run at their own operating point, as their authors' code does, all others under
    the budget. Skips methods that select nothing, or nothing by themselves.
    """
    official = OFFICIAL.get(name)
    pruner = registry.build(name, dict(official.settings) if official else {})
    if isinstance(pruner, Trained) and not pruner.weights:
        pruner = replace(pruner, weights=RANDOM)
    model = replace(
        facts(layers=LAYERS, dim=width),
        heads=HEADS,
        kv_heads=HEADS // 2,
        head_width=HEAD_WIDTH,
        frequencies=tuple(1e4 ** (-2 * pair / HEAD_WIDTH) for pair in range(HEAD_WIDTH // 2)),
        vision_blocks=24,
        vision_width=encoder,
        feature_block=22,
    )
    pruner = pruner.prepared(model)
    stage = first_stage(pruner)
    tokens = shown(pruner, stage, encoder if stage.site.part is Part.VISION else width, encoder)
    return Selection(pruner, stage, moved(tokens, device))


def first_stage(pruner: Pruner) -> Stage:
    """The first that drops something."""
    name = registry.name_of(pruner)
    budget = None if pruner.dynamic else Budget(KEEP)
    for candidate in (budget, Budget(0.75), Budget(0.75, "kv")):
        try:
            stages = pruner.plan(candidate, TOKENS, LAYERS)
            break
        except BudgetError:
            continue
    else:
        pytest.skip(f"{name} is out of reach of every budget tried")
    drops = [stage for stage in stages if stage.keep < TOKENS or pruner.dynamic]
    if not drops or drops[0].keep == 0 or drops[0].site.part is Part.PIXELS:
        pytest.skip(f"{name} selects no token by what it is shown")
    return drops[0]


def shown(pruner: Pruner, stage: Stage, width: int, encoder: int) -> VisualTokens:
    """Random tokens with the signals of the method, at the stage's site."""
    sizes = Sizes(
        tokens=TOKENS,
        tiles=1,
        images=1,
        image=(1, 8 * ROWS, 8 * COLUMNS, 3),
        width=width,
        heads=HEADS,
        kv_heads=HEADS // 2,
        head_width=HEAD_WIDTH,
        text=40,
        encoder_width=encoder,
        clip_width=768,
        question=QUESTION,
    )
    reads = pruner.reads
    blocks = {signal: len(some) for signal, some in {**reads.blocks, **reads.layers}.items()}
    blocks |= dict.fromkeys(CLIP_TEXTS, len(reads.texts(QUESTION)))
    values: dict[Signal, Any] = {}
    for signal in sorted(pruner.needs - {Signal.TILES}):
        count = blocks.get(signal) or 1
        values[signal] = signal.row.example(replace(sizes, blocks=count, texts=count))
    features = sizes.normal("features", TOKENS, width)
    layout = Layout((Tile(ROWS, COLUMNS),))
    return VisualTokens(
        features,
        layout,
        torch.arange(TOKENS),
        site=stage.site,
        question=QUESTION,
        signals=values,
    )


def moved(tokens: VisualTokens, device: str) -> VisualTokens:
    """The tokens as a model on that device shows them."""
    places = {Signal.VISUAL_PLACES, Signal.TEXT_PLACES, Signal.POSITION_IDS}
    signals: dict[Signal, Any] = {}
    for signal, value in tokens.signals.items():
        stays = signal in places or not isinstance(value, Tensor)
        signals[signal] = value if stays else value.to(device)
    return replace(tokens, features=tokens.features.to(device), signals=signals)


def vectors(choice: Selection) -> Tensor:
    """[N, D] those whose products a method looks at: the encoder's features where it reads them."""
    if Signal.ENCODER_FEATURES in choice.tokens.signals:
        return choice.tokens.encoder_features[0].float()
    return choice.tokens.features.float()


def seconds(work: Work, device: str) -> float:
    """CPU time, for others may use the machine; on a GPU the time until it is done."""
    if device == "cpu":
        start = process_time()
        work()
        return process_time() - start
    torch.cuda.synchronize()
    start = perf_counter()
    work()
    torch.cuda.synchronize()
    return perf_counter() - start


def least(works: dict[str, Work], device: str) -> dict[str, float]:
    """By name the least time of several rounds, in each of which all take their turn."""
    times = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name] = min(times[name], seconds(work, device))
    return times


def note(benchmark: Any, capsys: Any, name: str, times: dict[str, float], device: str) -> None:
    """Times and ratios into the benchmark's extra_info and onto the terminal."""
    ours = times["ours"]
    others = {part: time for part, time in times.items() if part not in ("ours", "loop")}
    ratios = {f"of {part}": ours / time for part, time in others.items()}
    if {"half product", "loop"} <= set(times):
        ratios["of half product + loop"] = ours / (times["half product"] + times["loop"])
    benchmark.extra_info |= {
        "tokens": TOKENS,
        "keep": KEEP,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "seconds": times,
        "ratios": ratios,
    }
    parts = [f"{part} {1e3 * time:.1f} ms" for part, time in times.items()]
    parts += [f"{ratio:.2f} {part}" for part, ratio in ratios.items()]
    with capsys.disabled():
        print(f"\n{name} on {device}: {', '.join(parts)}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", registry.names())
def test_selection(
    benchmark: Any, name: str, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours, the official arithmetic where `official_arithmetic.py` has it, half a product of all
    tokens with each other, and the loop alone: the selection among narrow tokens.
    """
    choice = selection(name, device)
    rows = vectors(choice)
    works: dict[str, Work] = {"ours": choice.run, "product": lambda: rows @ rows.T}
    official: Official | None = OFFICIAL.get(name)
    if official is not None and device == "cpu":
        keep = choice.stage.keep
        works["official"] = lambda: official.select(choice.tokens, keep)
    if getattr(choice.pruner, "weights", "") != RANDOM:  # which fit no narrow tokens
        works["loop"] = selection(name, device, NARROW, NARROW).run
    benchmark.group = "select"
    with torch.inference_mode():
        benchmark.pedantic(choice.run, rounds=1, warmup_rounds=1)
        times = least(works, device)
    times["half product"] = times.pop("product") / 2
    note(benchmark, capsys, name, times, device)


LOOPS: dict[str, Callable[[Tensor], Tensor]] = {
    "apart": lambda unit: greedy_apart(gram(unit), KEEP),
    "map": lambda unit: greedy_map(torch.ones_like(unit[:, 0]), ProductRows(unit, KEEP), KEEP),
    "marginal": lambda unit: greedy_marginal(unit[:, 0], ProductRows(unit, KEEP), KEEP),
    "cover": lambda unit: greedy_cover(gram(unit), torch.ones_like(unit[:, 0]), KEEP),
}


@contextmanager
def loops_on_cpu(is_on_cpu: bool) -> Iterator[None]:
    """Greedy loops over a GPU's tokens run on the CPU, or do not."""
    before = greedy.LOOP_ON_CPU
    greedy.LOOP_ON_CPU = is_on_cpu
    try:
        yield
    finally:
        greedy.LOOP_ON_CPU = before


def units(tokens: int) -> Tensor:
    """[tokens, WIDTH] random directions on a GPU."""
    draw = torch.Generator("cuda").manual_seed(0)
    return normalize(torch.randn(tokens, WIDTH, generator=draw, device="cuda"), dim=-1)


@needs_gpu
@pytest.mark.parametrize("tokens", [576, TOKENS, 8192])
@pytest.mark.parametrize("loop", LOOPS)
def test_greedy_loop_on_a_gpu(
    benchmark: Any, loop: str, tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A greedy search over a GPU's tokens whose loop runs there, launch by launch, or on the CPU,
    to which the products are brought.
    """
    search, unit = LOOPS[loop], units(tokens)

    def on_cpu() -> Tensor:
        with loops_on_cpu(True):
            return search(unit)

    benchmark.group = f"greedy on a GPU, {tokens} tokens"
    with torch.inference_mode():
        order = benchmark.pedantic(lambda: search(unit), rounds=1, warmup_rounds=1)
        same = len(set(order.tolist()) & set(on_cpu().tolist())) / KEEP
        works: dict[str, Work] = {
            "ours": lambda: search(unit),
            "loop on the CPU": on_cpu,
            "product": lambda: gram(unit),
        }
        times = least(works, "cuda")
    benchmark.extra_info["same picks"] = same
    note(benchmark, capsys, f"{loop}, {tokens} tokens, {same:.3f} of picks the same", times, "cuda")


@needs_gpu
@pytest.mark.parametrize("tokens", [576, TOKENS])
# coverage asks how many rows have changed, and so waits
@pytest.mark.parametrize("loop", [name for name in LOOPS if name != "cover"])
def test_greedy_loop_as_a_graph(
    benchmark: Any, loop: str, tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same search captured as one graph: its replay alone, and with its capture, which every
    other number of tokens needs anew.
    """
    search, unit = LOOPS[loop], units(tokens)

    def captured() -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            search(unit)
        return graph

    benchmark.group = f"greedy on a GPU, {tokens} tokens"
    with torch.inference_mode():
        search(unit)
        graph = captured()
        benchmark.pedantic(graph.replay, rounds=1, warmup_rounds=1)
        works: dict[str, Work] = {
            "ours": lambda: search(unit),
            "replay": graph.replay,
            "capture and replay": lambda: captured().replay(),
        }
        times = least(works, "cuda")
    note(benchmark, capsys, f"{loop} as a graph, {tokens} tokens", times, "cuda")
