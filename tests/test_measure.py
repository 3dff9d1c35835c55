"""Evidence, memory and latency: answers known by hand, and a run on a miniature."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from prunebench import Keep, Pruner, Signal, Stage, VisualTokens
from prunebench.engine.cache import live_bytes
from prunebench.engine.readings import READINGS, Reading, received_attention
from prunebench.measure import energy as measured_energy
from prunebench.measure import memory
from prunebench.measure.energy import Counter, energy, processors
from prunebench.measure.evidence import evidence_mask, recall
from prunebench.measure.latency import measure_pairs
from prunebench.measure.memory import peak
from prunebench.measure.pairs import PairRow, PairSettings, itself, summarize
from prunebench.models.qwen2_5_vl import Qwen25VL
from prunebench.study.columns import PHASES
from prunebench.study.statistics import median_interval
from prunebench.tokens import Layout, Tile

ONE_PAIR = PairSettings(new_tokens=2, warmup=0, pairs=1)

GRID = Layout((Tile(2, 3),))
"""Six tokens; on 300 x 200 pixels every cell is 100 x 100."""


def marked(
    layout: Layout,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    image: int = 0,
    frame: int | None = None,
) -> list[int]:
    mask = evidence_mask(layout, box, size, image, frame)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(layout),)
    return mask.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("box", "tokens"),
    [
        ((100, 0, 200, 100), [1]),
        ((100, 0, 300, 200), [1, 2, 4, 5]),
        ((50, 0, 300, 100), [0, 1, 2]),  # exactly half of cell 0
        ((51, 0, 300, 100), [1, 2]),  # a little less
        ((210, 110, 240, 140), [5]),  # small, inside one cell
        ((90, 110, 115, 120), [4]),  # small, across two: the one it covers more
        ((90, 20, 110, 40), [0, 1]),  # small, across two alike
        ((80, 80, 120, 120), [0, 1, 3, 4]),
        ((0, 0, 300, 200), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_evidence_by_hand(box: tuple[float, float, float, float], tokens: list[int]) -> None:
    assert marked(GRID, box, (300, 200)) == tokens


def test_evidence_scales_with_the_image() -> None:
    """The processor stretches the image onto the grid, so cells need not be square in original
    pixels.
    """
    assert marked(GRID, (61, 0, 90, 29), (90, 90)) == [2]
    assert marked(GRID, (0, 45, 90, 90), (90, 90)) == [3, 4, 5]


def test_evidence_on_several_tiles() -> None:
    layout = Layout((Tile(2, 2, newlines=True), Tile(1, 2, "thumbnail"), Tile(1, 1, image=1)))
    # 2x2 with a newline behind every row: places 0 1 n 3 4 n; the thumbnail is 6 7, the other image
    # 8
    assert marked(layout, (50, 0, 100, 100), (100, 100)) == [1, 4, 7]
    assert marked(layout, (0, 0, 10, 10), (100, 100)) == [0, 6]
    assert marked(layout, (0, 0, 10, 10), (100, 100), image=1) == [8]


def test_evidence_in_frames() -> None:
    layout = Layout((Tile(1, 2, "frame", frame=0), Tile(1, 2, "frame", frame=1)))
    assert marked(layout, (0, 0, 5, 10), (10, 10)) == [0, 2]
    assert marked(layout, (0, 0, 5, 10), (10, 10), frame=1) == [2]


def test_evidence_in_a_thumbnail_and_crops() -> None:
    """Crops are one view together: a box on one of them is not looked for on the others; padding
    shows nothing.
    """
    crops = [
        Tile(2, 2, "crop", region=(0, 0, 0.5, 1)),
        Tile(2, 2, "crop", region=(0.5, 0, 1, 1), newlines=True),
    ]
    layout = Layout((Tile(2, 2, "thumbnail"), *crops))
    assert marked(layout, (0, 0, 5, 5), (20, 10)) == [0, 4]
    assert marked(layout, (15, 5, 20, 10), (20, 10)) == [3, 12]
    assert marked(layout, (0, 0, 1, 1), (20, 10)) == [0, 4]
    padded = Layout((Tile(4, 2, "crop", region=(0, -0.5, 1, 1.5)),))
    assert marked(padded, (0, 0, 10, 10), (10, 10)) == [2, 3, 4, 5]


def test_tokens_of_crops_are_read_across() -> None:
    places = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1]])
    layout = Layout((Tile(2, 1, "crop"), Tile(2, 1, "crop", newlines=True)), places)
    assert layout.grid(0).tolist() == [[0], [3]]
    assert layout.grid(1).tolist() == [[1, 2], [4, 5]]
    assert layout.newline.tolist() == [False, False, True, False, False, True]
    with pytest.raises(ValueError, match="5 places for tiles of"):
        Layout(layout.tiles, places[:5])


def test_evidence_that_cannot_be_placed() -> None:
    with pytest.raises(ValueError, match="place of tile 1, a crop, in its image is unknown"):
        evidence_mask(Layout((Tile(1, 1), Tile(1, 1, "crop", region=None))), (0, 0, 1, 1), (2, 2))
    with pytest.raises(ValueError, match=r"box \(0, 0, 3, 1\) does not lie in an image of 2x2"):
        evidence_mask(GRID, (0, 0, 3, 1), (2, 2))
    with pytest.raises(ValueError, match="does not lie"):
        evidence_mask(GRID, (1, 1, 1, 2), (2, 2))
    with pytest.raises(ValueError, match="image 1 has no visual tokens"):
        evidence_mask(GRID, (0, 0, 1, 1), (2, 2), image=1)
    with pytest.raises(ValueError, match="frame 2 of image 0 has no visual tokens"):
        evidence_mask(GRID, (0, 0, 1, 1), (2, 2), frame=2)


def test_recall() -> None:
    mask = torch.tensor([False, True, True, False, True, True])
    assert recall(torch.tensor([0, 1, 3]), mask) == 0.25
    assert recall(torch.tensor([5, 4, 2, 1]), mask) == 1.0
    assert recall(torch.tensor([], dtype=torch.int64), mask) == 0.0
    with pytest.raises(ValueError, match="nothing to recall"):
        recall(torch.tensor([0]), torch.zeros(6, dtype=torch.bool))


def test_live_bytes_count_every_layer_at_its_own_length() -> None:
    cache = DynamicCache()
    assert live_bytes(cache, []) == 0
    cache.update(torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 10, 8), 0)
    half = torch.zeros(2, 3, 4, 8, dtype=torch.float16)
    cache.update(half, half, 1)
    assert live_bytes(cache, [10, 4]) == 2 * (3 * 10 * 8 * 4) + 2 * (3 * 4 * 8 * 2)
    assert live_bytes(cache, [7, 0]) == 2 * (3 * 7 * 8 * 4)


def test_live_bytes_refuse_other_caches() -> None:
    class Odd:
        layers = [object()]

    with pytest.raises(ValueError, match="layer 0 of the cache, a object"):
        live_bytes(Odd(), [1])


@pytest.fixture(params=[True, False])
def kernel_mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel may keep the mark of the process, or a thread has to look."""
    if not (memory.PROCESS / "status").exists():
        pytest.skip("this platform has no /proc")
    may_keep: bool = request.param
    if not may_keep:
        monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
        monkeypatch.setattr(memory, "SAMPLING_SECONDS", 0.0001)
    return may_keep


def use_memory() -> None:
    """Write to 32 MiB of fresh pages, for an allocator may hand out what it kept."""
    with mmap(-1, 32 * memory.MIB) as pages:
        pages.write(bytes([1]) * (32 * memory.MIB))


def test_peak_sees_what_a_block_used_for_a_moment(kernel_mark: bool) -> None:
    with peak() as before:
        pass
    with peak() as during:
        for _ in range(3):
            use_memory()
    with peak() as after:
        pass
    assert before.mib is not None
    assert during.mib is not None
    assert after.mib is not None
    assert during.mib > before.mib + 24
    assert after.mib < during.mib - 24
    marked = kernel_mark and memory._reset_high_water()
    assert during.source == ("resident set, high-water mark" if marked else "resident set, sampled")


@pytest.mark.usefixtures("kernel_mark")
def test_every_phase_has_a_peak_of_its_own() -> None:
    with peak() as used:
        used.note("quiet")
        use_memory()
        used.note("loud")
        used.note("loud")  # its second part is quiet
        used.note("quiet again")
    assert used.phases["loud"] > used.phases["quiet"] + 24
    assert used.phases["loud"] > used.phases["quiet again"] + 24
    assert used.mib == max(used.phases.values())


def test_peak_without_proc_measures_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    with peak() as used:
        used.note("anything")
    assert (used.mib, used.source, used.phases) == (None, "not measurable", {})


def test_the_unpruned_model_beside_itself_by_hand() -> None:
    """Pairs 0 and 1 have one input, 2 and 3 another: runs on different inputs are not compared."""
    rows = []
    for pair, ms in enumerate((10.0, 20.0, 500.0, 2000.0)):
        rows += pair_rows(pair, [1.0] * 5, [1.0, 1.0, 1.0, ms])
    (ratio,) = itself(rows, share=2)
    assert (ratio.metric, ratio.value, ratio.n) == ("latency_itself_ratio", 3.0, 2)
    (ratio,) = itself(rows, share=4)
    assert (ratio.value, ratio.n) == (4.0, 3)
    assert itself(rows, share=1) == []


@pytest.mark.parametrize(
    ("n", "interval"),
    [(1, None), (5, None), (6, (0, 5)), (10, (1, 8)), (20, (5, 14)), (100, (39, 60))],
)
def test_median_interval_is_the_tabled_one(n: int, interval: tuple[int, int] | None) -> None:
    """Order statistics from the usual binomial tables, counted from 0."""
    assert median_interval([float(value) for value in reversed(range(n))]) == interval


def pair_rows(pair: int, method: Sequence[float], baseline: Sequence[float]) -> list[PairRow]:
    """Rows of a pair from (vision, select, prefill, decode, total) and (vision, prefill, decode,
    total).
    """
    ours = [PairRow(pair, 0, "method", p, ms) for p, ms in zip(PHASES, method, strict=True)]
    others = [phase for phase in PHASES if phase != "select"]
    theirs = [PairRow(pair, 1, "baseline", p, ms) for p, ms in zip(others, baseline, strict=True)]
    ours[-1] = PairRow(pair, 0, "method", "total", method[-1], 100.0, 10)
    theirs[-1] = PairRow(pair, 1, "baseline", "total", baseline[-1], 200.0, 40)
    return ours + theirs


def test_summarize_takes_ratios_within_pairs() -> None:
    """A machine that slows down by the pair: the ratio of totals is 0.5 in each, whatever the
    medians of both say.
    """
    rows = [
        r
        for i in range(7)
        for r in pair_rows(i, (1, 2, 3, 4, 5 * (i + 1)), (1, 6, 2, 10 * (i + 1)))
    ]
    metrics = {m.metric: m for m in summarize(rows)}
    total = metrics["latency_total_ratio"]
    assert (total.value, total.ci_low, total.ci_high, total.n, total.higher_is_better) == (
        0.5,
        0.5,
        0.5,
        7,
        False,
    )
    assert metrics["latency_total_ms"].value == 20
    assert (metrics["latency_total_ms"].ci_low, metrics["latency_total_ms"].ci_high) == (5, 35)
    assert metrics["latency_prefill_ratio"].value == 0.5
    assert metrics["latency_decode_ratio"].value == 2
    assert metrics["latency_select_ms"].value == 2
    assert "latency_select_ratio" not in metrics
    assert "latency_select_baseline_ms" not in metrics
    assert (metrics["peak_memory_mib"].value, metrics["peak_memory_baseline_mib"].value) == (
        100,
        200,
    )
    assert (metrics["kv_bytes"].value, metrics["kv_bytes_baseline"].value) == (10, 40)
    with pytest.raises(ValueError, match="pair 0 has no baseline run"):
        summarize([row for row in rows if row.variant == "method"])


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


@pytest.fixture(scope="module")
def model() -> Any:
    """Every token ends the sequence, so that only a run that ignores the end reaches its length."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "bos_token_id": None, "pad_token_id": 0, "rope_parameters": ROPE,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 64,
        },
        image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = list(range(100))
    return model


def image(height: int, width: int) -> dict[str, Any]:
    """The inputs of one image of height x width patches."""
    ids = torch.tensor([[5, 92, *[90] * (height * width // 4), 93, 7, 8]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 90).int(),
        "pixel_values": torch.randn(height * width, 1176),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_pairs_on_a_miniature(model: Any) -> None:
    before = hooks(model)
    inputs = image(16, 16)
    settings = PairSettings(new_tokens=4, warmup=1, pairs=4)
    rows = measure_pairs(model, Qwen25VL(), inputs, "fastv", 0.75, settings)
    assert hooks(model) == before
    assert len(rows) == 4 * (len(PHASES) + len(PHASES) - 1)
    firsts = [row.variant for row in rows if row.phase == "total" and row.order == 0]
    assert firsts == ["method", "baseline", "method", "baseline"]
    assert all(row.ms > 0 for row in rows)
    for pair in range(4):
        for variant in ("method", "baseline"):
            ms = {row.phase: row.ms for row in rows if (row.pair, row.variant) == (pair, variant)}
            parts = ms["vision"] + ms.get("select", 0) + ms["prefill"] + 3 * ms["decode"]
            assert parts <= ms["total"]
    metrics = {m.metric: m for m in summarize(rows)}
    # 64 visual and 5 text tokens; keys and values of 2 heads of 16 in float32, 4 layers; FastV
    # before layer 2 keeps
    # 32 of 64 from there on: a mean of 48
    token = 2 * 2 * 16 * 4
    assert metrics["kv_bytes_baseline"].value == 4 * 69 * token
    assert metrics["kv_bytes"].value == (2 * 69 + 2 * 37) * token
    assert metrics["latency_total_ratio"].ci_low is None


def test_a_method_on_pixels_runs_without_the_engine(model: Any) -> None:
    rows = measure_pairs(
        model,
        Qwen25VL(),
        image(4, 4),
        None,
        None,
        ONE_PAIR,
        baseline_inputs=image(8, 8),
    )
    caches = {row.variant: row.kv_bytes for row in rows if row.phase == "total"}
    assert caches == {"method": 4 * 9 * 256, "baseline": 4 * 21 * 256}
    assert [row.ms for row in rows if row.phase == "select"] == [0.0]


def test_pairs_go_on_for_the_time_asked(model: Any) -> None:
    settings = replace(ONE_PAIR, min_seconds=0.3)
    rows = measure_pairs(model, Qwen25VL(), image(4, 4), "none", 1.0, settings)
    assert len({row.pair for row in rows}) > 1


def test_pairs_refuse_what_cannot_be_timed() -> None:
    with pytest.raises(ValueError, match="new_tokens is 1"):
        PairSettings(new_tokens=1)
    with pytest.raises(ValueError, match="pairs is 0"):
        PairSettings(pairs=0)
    with pytest.raises(ValueError, match="warmup -1"):
        PairSettings(warmup=-1)


def test_a_model_that_stops_early_is_not_timed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = model.generate

    def short(**options: Any) -> Any:
        return generate(**{**options, "max_new_tokens": 1, "min_new_tokens": 1})

    monkeypatch.setattr(model, "generate", short)
    with pytest.raises(ValueError, match="made 1 tokens where 2 were asked for"):
        measure_pairs(model, Qwen25VL(), image(4, 4), "none", 1.0, ONE_PAIR)


def test_what_is_observed_in_the_encoder_counts_once(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that takes long to look into the encoder makes neither vision longer nor prefill
    shorter than nothing.
    """

    @dataclass(frozen=True)
    class Slow(Pruner):
        needs = frozenset({Signal.RECEIVED_ATTENTION})

        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.arange(stage.keep))

    def slow(heads: Any) -> Any:
        time.sleep(0.3)
        return received_attention(heads)

    monkeypatch.setitem(READINGS, Signal.RECEIVED_ATTENTION, Reading(axis=2, from_heads=slow))
    rows = measure_pairs(model, Qwen25VL(), image(4, 4), Slow(), 0.5, ONE_PAIR)
    spent = {row.phase: row.ms for row in rows if row.variant == "method"}
    assert spent["select"] >= 300
    assert min(spent.values()) > 0
    assert spent["vision"] + spent["select"] + spent["prefill"] + spent["decode"] <= spent["total"]


def test_a_slow_and_hungry_selector_shows_in_select_and_in_the_prefill_s_memory(
    model: Any,
) -> None:
    @dataclass(frozen=True)
    class Slow(Pruner):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            with mmap(-1, 64 * memory.MIB) as pages:
                pages.write(bytes([1]) * (64 * memory.MIB))
                time.sleep(0.3)
            return Keep(torch.arange(stage.keep))

    rows = measure_pairs(model, Qwen25VL(), image(4, 4), Slow(), 0.5, ONE_PAIR)
    spent = {(row.variant, row.phase): row for row in rows}
    assert spent["method", "select"].ms >= 300
    for phase in ("vision", "prefill", "decode"):
        assert spent["method", phase].ms < 300
    if not (memory.PROCESS / "status").exists():
        return  # this platform tells nothing of memory
    peaks = {place: row.peak_memory_mib or 0.0 for place, row in spent.items()}
    assert peaks["method", "prefill"] == peaks["method", "total"]
    assert peaks["method", "prefill"] > peaks["baseline", "prefill"] + 48
    assert peaks["method", "vision"] < peaks["method", "prefill"] - 48
    names = {metric.metric for metric in summarize(rows)}
    assert {"peak_memory_prefill_mib", "peak_memory_prefill_baseline_mib"} <= names


def zone(folder: Path, name: str, microjoules: int, size: int = 999_999) -> Path:
    """A counter of Linux's power caps that stands at so many microjoules."""
    counter = folder / name
    counter.mkdir(parents=True)
    (counter / "energy_uj").write_text(f"{microjoules}\n")
    (counter / "max_energy_range_uj").write_text(f"{size}\n")
    return counter / "energy_uj"


def test_energy_is_that_of_all_packages_and_goes_on_where_a_counter_starts_anew(
    tmp_path: Path,
) -> None:
    first = zone(tmp_path, "intel-rapl:0", 100_000)
    second = zone(tmp_path, "intel-rapl:1", 900_000)
    part = zone(tmp_path, "intel-rapl:0:0", 0)
    counter = processors(tmp_path)
    assert counter is not None
    joules = counter.joules
    start = joules()
    first.write_text("350000")
    second.write_text("50000")  # past its largest value and on
    part.write_text("777777")  # lies inside the first package
    assert joules() - start == pytest.approx(0.25 + 0.15)
    assert joules() - start == pytest.approx(0.25 + 0.15)


def test_without_a_counter_no_energy_is_made_up(tmp_path: Path) -> None:
    assert processors(tmp_path) is None
    zone(tmp_path, "intel-rapl:0", 1).write_text("no number")
    assert processors(tmp_path) is None
    with energy("meta") as used:
        pass
    assert used.joules is None
    with energy("cpu") as used:
        torch.ones(200, 200) @ torch.ones(200, 200)
    assert used.joules is None or used.joules >= 0


@pytest.mark.parametrize(("lag_s", "joules"), [(0.001, 2.0), (60.0, None)])
def test_a_block_that_is_short_beside_the_counters_lag_has_no_energy(
    monkeypatch: pytest.MonkeyPatch, lag_s: float, joules: float | None
) -> None:
    """What such a counter says there is of the block before it."""
    readings = iter([3.0, 5.0])
    counter = Counter(lambda: next(readings), lag_s)
    monkeypatch.setattr(measured_energy, "counter_of", lambda device: counter)
    with energy("cpu") as used:
        sleep(0.02)
    assert used.joules == joules


def test_energy_of_some_runs_alone_is_none() -> None:
    rows = []
    times = (1, 2, 3, 4, 5), (1, 6, 2, 10)
    timed = [*pair_rows(0, *times), *pair_rows(1, *times)]
    for row in timed:
        has = row.phase == "total" and row.pair > 0
        rows.append(replace(row, joules=3.0 if has else None))
    names = {metric.metric for metric in summarize(rows)}
    assert not any(name.startswith("energy") for name in names)


def test_energy_of_pairs_is_compared_within_them() -> None:
    rows = pair_rows(0, (1, 2, 3, 4, 5), (1, 6, 2, 10))
    names = {metric.metric for metric in summarize(rows)}
    assert not any(name.startswith("energy") for name in names)
    spent = {"method": 3.0, "baseline": 4.0}
    metered = []
    for row in rows:
        joules = spent[row.variant] if row.phase == "total" else None
        metered.append(replace(row, joules=joules))
    metrics = {metric.metric: metric for metric in summarize(metered)}
    assert metrics["energy_j"].value == 3
    assert metrics["energy_baseline_j"].value == 4
    assert metrics["energy_ratio"].value == 0.75
    assert metrics["energy_ratio"].higher_is_better is False
