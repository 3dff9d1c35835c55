"""Question: what a study asks, as the keys of a grid, and the cells that it comes to.

Whatever knows methods is imported late: the keys are listed without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border.bounds import Bound
from prunebench.budget import Budget
from prunebench.run import plain
from prunebench.run.keys import Key, key, keys_of
from prunebench.run.lists import CONTROLS
from prunebench.run.names import expanded
from prunebench.study.record import BASELINE, BLIND, OWN, Kind
from prunebench.testbed import DEFAULT

if TYPE_CHECKING:
    from prunebench.run.cell import Cell, Variant

DEFAULT_MODEL = DEFAULT
DEFAULT_TASK = "scenes"

WEIGHTS = ("pretrained", "random")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "8bit", "4bit")
HARNESSES = ("lmms-eval", "processor")

REACHES = ("exact", "nearest")

EXECUTORS = ("local", "ray")

HOW = ("out", "executor", "workers", "ray_address", "worker_gpu_memory")
"""Keys that say where a study is stored and who works at it, and are no part of what it asks."""

MOST_SECONDS = 10**7
MOST_FPS = 1000


@dataclass
class Cost:
    """The cost pass: a method and the unpruned baseline, run in turn on the first samples of the
    first task.
    """

    enabled: bool = key(
        True,
        "Whether time and memory are measured, on the first task; cost=false leaves them out.",
        "cost=false",
    )
    inputs: int = key(
        1, "Samples of the first task that are timed.", "cost.inputs=4", Bound(least=1, most=10_000)
    )
    pairs: int = key(
        10,
        "Timed runs of the method and of the unpruned model, in pairs, over all inputs.",
        "cost.pairs=30",
        Bound(least=1, most=100_000),
    )
    warmup: int = key(
        2,
        "Pairs on each input before these, which are thrown away.",
        "cost.warmup=5",
        Bound(least=0, most=10_000),
    )
    new_tokens: int = key(
        8,
        "Tokens that every timed run generates.",
        "cost.new_tokens=32",
        Bound(least=2, most=10_000),
    )


@dataclass
class Grid:
    """One study: every key that a grid can have."""

    models: list[Any] = key(
        [DEFAULT_MODEL],
        "Models: aliases, hub ids or local folders; they run one after the other, and methods are "
        "compared within a model.",
        "models=qwen2.5-vl-7b,qwen3-vl-8b",
    )
    methods: list[Any] = key(
        ["founding"],
        "Methods: names, groups of them (founding: a few that the field began with; all: every "
        "one), files of your own, or mappings with a name, a label and settings.",
        "methods=fastv,./mine.py",
    )
    tasks: list[Any] = key(
        [DEFAULT_TASK],
        "Tasks and suites: built-in ones, any of lmms-eval's, or YAML files of your own.",
        "tasks=gqa,pope",
    )
    budgets: list[Any] = key(
        [OWN, "0.5", "0.25", "0.1"],
        "Visual tokens that a run may spend, a share or a count, averaged over the layers; input: "
        "counts those that enter the first layer, kv: those in the cache; own: each method as its "
        "paper runs it, if it has such an operating point.",
        "budgets=own,0.5,kv:0.25,64",
    )
    reach: str = key(
        "exact",
        "What becomes of a method that cannot spend a budget: it is infeasible, or runs at the "
        "nearest that it can, is marked, and is not compared with what keeps to the budget.",
        "reach=nearest",
        Bound(choices=REACHES),
    )
    limit: int | None = key(
        None,
        "Samples a task, counted from its first; null asks all.",
        "limit=500",
        Bound(least=1, most=10**9),
    )
    seed: int = key(
        0,
        "The number that whatever is random starts from.",
        "seed=1",
        Bound(least=0, most=plain.MOST),
    )
    controls: bool = key(
        True,
        "Whether the controls stand beside the methods: no pruning, random, uniform, pooled, a "
        "smaller image, and no image where a task is mostly answered without.",
        "controls=false",
    )
    batch: int | None = key(
        None,
        "Samples that run together, fewer where memory runs out; null is eight for a miniature or "
        "on a GPU, and one for anything larger on a CPU.",
        "batch=8",
        Bound(least=1, most=4096),
    )
    weights: str = key(
        "pretrained",
        "Whether the model has its own weights, or random ones, with which costs are the same.",
        "weights=random",
        Bound(choices=WEIGHTS),
    )
    revision: str | None = key(
        None,
        "A branch, a tag or a commit of the model on the hub; null is its latest.",
        "revision=main",
    )
    trust_remote_code: bool = key(
        False, "Whether code in the model's own folder may run.", "trust_remote_code=true"
    )
    device: str = key(
        "auto",
        "Where the model runs; auto is a GPU where there is one.",
        "device=cpu",
        Bound(choices=DEVICES),
    )
    dtype: str = key(
        "auto",
        "The numbers that the model computes with; auto is float32 on a CPU and bfloat16 on a GPU.",
        "dtype=float16",
        Bound(choices=DTYPES),
    )
    attention: str = key(
        "sdpa", "The attention kernel, by its name in transformers.", "attention=flash_attention_2"
    )
    threads: int | None = key(
        None,
        "Threads of the CPU; null is one for a miniature on the CPU, and torch's own choice for "
        "anything larger.",
        "threads=8",
        Bound(least=1, most=1024),
    )
    timeout: float | None = key(
        None, "Seconds that a sample may take; null is as long as it takes.", "timeout=60"
    )
    max_image_pixels: int | None = key(
        None,
        "Images with more pixels are not decoded; null is the built-in limit.",
        "max_image_pixels=50000000",
        Bound(least=1, most=10**12),
    )
    quantization: str = key(
        "none",
        "Bits of the linear layers' weights, made by bitsandbytes while a model is loaded.",
        "quantization=4bit",
        Bound(choices=QUANTIZATIONS),
    )
    device_map: str = key(
        "none",
        "How layers are spread over GPUs, memory and disk, by accelerate: auto, balanced, "
        "balanced_low_0, sequential, or all on one device; none is `device`.",
        "device_map=auto",
    )
    harness: str = key(
        "lmms-eval",
        "Whose prompts, generation settings, resolution and frames a model is asked with: those of "
        "lmms-eval's wrapper of its family, or of its own processor.",
        "harness=processor",
        Bound(choices=HARNESSES),
    )
    min_pixels: int | None = key(
        None,
        "Images with fewer pixels are scaled up, where a model keeps their resolution; null is "
        "what the harness says.",
        "min_pixels=3136",
        Bound(least=1, most=10**12),
    )
    max_pixels: int | None = key(
        None,
        "Images with more pixels are scaled down, where a model keeps their resolution; null is "
        "what the harness says.",
        "max_pixels=1003520",
        Bound(least=1, most=10**12),
    )
    fps: float | None = key(
        None,
        "Frames a second that a video is shown with, up to max_frames; null is what the harness "
        "says.",
        "fps=1",
    )
    max_frames: int | None = key(
        None,
        "Frames of a video that are shown at most; null is what the harness says.",
        "max_frames=64",
        Bound(least=2, most=768),
    )
    system_prompt: str | None = key(
        None,
        "What is said before every question; null is what the harness says.",
        "system_prompt='Answer in one word.'",
    )
    executor: str = key(
        "local",
        "Who works at the samples: this process, or workers that Ray starts here or on a cluster.",
        "executor=ray",
        Bound(choices=EXECUTORS),
    )
    workers: int | None = key(
        None,
        "Ray's workers, each with a model of its own; null is one a core, or one a GPU where "
        "models run on GPUs.",
        "workers=2",
        Bound(least=1, most=10_000),
    )
    ray_address: str | None = key(
        None,
        "The cluster that Ray's workers are on: its address, or auto for the one of this machine; "
        "null is this machine alone.",
        "ray_address=auto",
    )
    worker_gpu_memory: float | None = key(
        None,
        "GiB of a GPU that one of Ray's workers takes, where they share GPUs; null is computed "
        "from the size of the model.",
        "worker_gpu_memory=20",
    )
    cost: Cost = field(default_factory=Cost)
    out: str | None = key(
        None,
        "The study's folder; null is one under results/scratch, named after what the grid asks.",
        "out=results/mine",
    )

    def variants(self) -> list[Variant]:
        """The methods with their settings, controls first; raises GridError.

        They are built once: a method's file that changes or goes while a sweep runs changes
        nothing.
        """
        from prunebench.run.variants import variants_of

        wish = (list(self.methods), self.controls)
        # beside the fields, which are what a user can set
        kept: tuple[Any, list[Variant]] | None = vars(self).get("_variants")
        if kept is None or kept[0] != wish:
            kept = wish, variants_of(self.methods, self.controls)
            vars(self)["_variants"] = kept
        return list(kept[1])

    def cells(self, tasks: Sequence[str]) -> list[Cell]:
        """For one model after the other the quality cells of every task, then the cost cells,
        which stand on the first task.
        """
        cells: list[Cell] = []
        for model in self.models:
            for task in tasks:
                cells += self._cells("quality", model, task)
            if self.cost.enabled:
                for task in tasks[:1]:
                    cells += self._cells("cost", model, task)
        return cells

    def _cells(self, kind: Kind, model: str, task: str) -> list[Cell]:
        """Every method at every budget; what ignores budgets, once. Where a task needs it, the
        model's blind value stands beside.
        """
        from prunebench.benchmarks import needs_blind
        from prunebench.run.cell import Cell
        from prunebench.run.variants import variants_of

        variants = self.variants()
        has_blind = any(variant.name == BLIND for variant in variants)
        if kind == "quality" and self.controls and not has_blind and needs_blind(task):
            variants += variants_of([BLIND], controls=False)
        cells = []
        for variant in variants:
            for budget in self._budgets(variant):
                cells.append(Cell(kind, model, variant, budget, task, self.seed))
        return cells

    def _budgets(self, variant: Variant) -> list[Budget | None]:
        """The budgets at which a method is asked; None is its own."""
        if variant.name in (BASELINE, BLIND):
            return [None]
        budgets: list[Budget | None] = []
        for text in self.budgets:
            if text != OWN:
                nearest = self.reach == "nearest"
                budgets.append(replace(Budget.parse(text), nearest=nearest))
            elif variant.has_own:
                budgets.append(None)
        return budgets

    def without_own(self) -> list[str]:
        """The labels of methods that the budget "own" asks for in vain, for they have none."""
        if OWN not in self.budgets:
            return []
        # of the controls nobody expects one
        methods = [one for one in self.variants() if one.name not in (*CONTROLS, BLIND)]
        return [one.label for one in methods if not one.has_own]

    def folder(self) -> Path:
        """The study's folder."""
        from prunebench.run.cell import slug

        if self.out is not None:
            return Path(expanded(self.out))
        first = slug(self.models[0])
        others = f"-and-{len(self.models) - 1}-more" if len(self.models) > 1 else ""
        return Path("results") / "scratch" / f"{first}{others}-{self.digest()[:8]}"

    def question(self) -> dict[str, Any]:
        """Everything that makes a study this one, as plain data: all but where it is stored and
        who works at it.
        """
        content = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in HOW}
        content["cost"] = asdict(self.cost)
        content["methods"] = [variant.entry() for variant in self.variants()]
        return {name: plain.storable(value) for name, value in content.items()}

    def digest(self) -> str:
        """A hash of the question; what is at its default is left out, so that a new key leaves old
        studies their names.
        """
        usual = usual_question()
        question = self.question()
        content = {name: value for name, value in question.items() if usual[name] != value}
        # studies of one model are older than lists of models, and keep their names as well
        if len(self.models) == 1 and "models" in content:
            (content["model"],) = content.pop("models")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def keys() -> list[Key]:
    """Every key of a grid with its type, default, meaning and an example."""
    return keys_of(Grid)


def usual_question() -> dict[str, Any]:
    """The keys of a question at their defaults."""
    grid = Grid()
    usual = {one.name: getattr(grid, one.name) for one in fields(grid) if one.name not in HOW}
    return {**usual, "cost": asdict(grid.cost)}
