"""Provenance: under which code, versions, hardware and settings a cell was computed."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import prunebench

if TYPE_CHECKING:
    from prunebench.run.backend import ModelSetup

DECIDING = ("torch", "transformers", "torchvision", "pillow", "lmms-eval")
"""Packages whose version belongs to what a cell is: models, preprocessing, scoring."""

COUNTED = (
    "absorb.py",
    "attention_kinds.py",
    "benchmarks",
    "border/images.py",
    "border/videos.py",
    "border/weights.py",
    "budget.py",
    "cluster.py",
    "composition.py",
    "contract.py",
    "course.py",
    "depth.py",
    "engine",
    "greedy.py",
    "matching.py",
    "measure",
    "models",
    "observations.py",
    "products.py",
    "pruner.py",
    "reads.py",
    "recycling.py",
    "relevance.py",
    "run/active.py",
    "run/backend.py",
    "run/ceiling.py",
    "run/cost.py",
    "run/cost_cells.py",
    "run/fault.py",
    "run/layers.py",
    "run/ledger.py",
    "run/parts.py",
    "run/quality.py",
    "run/quality_cells.py",
    "run/runner.py",
    "run/samples.py",
    "run/short_run.py",
    "run/summary.py",
    "run/transformers_backend.py",
    "run/work.py",
    "select.py",
    "signals.py",
    "sites.py",
    "sizes.py",
    "staircase.py",
    "steps.py",
    "study/columns.py",
    "study/draws.py",
    "study/statistics.py",
    "tilewise.py",
    "tokens.py",
    "trained.py",
    "videos.py",
    "words.py",
)
"""The parts of the package that decide what stands in a cell: a change there makes every cell
another cell.
"""

UNCOUNTED = (
    "__init__.py",
    "border/__init__.py",
    "border/bounds.py",
    "border/files.py",
    "border/functions.py",
    "border/guard.py",
    "border/hooks.py",
    "border/hub.py",
    "border/interruption.py",
    "border/late.py",
    "border/model_state.py",
    "border/process.py",
    "border/text.py",
    "cli",
    "display.py",
    "identity.py",
    "learning",
    "lmms_plugin",
    "methods",
    "page",
    "pricing",
    "published",
    "regions.py",
    "registry.py",
    "report",
    "run/__init__.py",
    "run/bench.py",
    "run/bench_table.py",
    "run/bencher.py",
    "run/cell.py",
    "run/clients.py",
    "run/difference.py",
    "run/estimate.py",
    "run/fingerprint.py",
    "run/grid.py",
    "run/kept.py",
    "run/keys.py",
    "run/limits.py",
    "run/lists.py",
    "run/local.py",
    "run/merge.py",
    "run/names.py",
    "run/options.py",
    "run/pictures.py",
    "run/plain.py",
    "run/profile.py",
    "run/profiler.py",
    "run/progress.py",
    "run/provenance.py",
    "run/question.py",
    "run/ray_cluster.py",
    "run/ray_executor.py",
    "run/ray_worker.py",
    "run/report_keys.py",
    "run/schedule.py",
    "run/show.py",
    "run/store.py",
    "run/trial.py",
    "run/variants.py",
    "run/view.py",
    "run/writer_backend.py",
    "start.py",
    "study/__init__.py",
    "study/cells.py",
    "study/contrasts.py",
    "study/facts.py",
    "study/folder.py",
    "study/journal.py",
    "study/lines.py",
    "study/machine.py",
    "study/noninferiority.py",
    "study/pairwise.py",
    "study/profile.py",
    "study/readers.py",
    "study/record.py",
    "study/samples.py",
    "study/schema.py",
    "study/seal.py",
    "study/tables.py",
    "tasks",
    "testbed",
    "testing",
    "training",
)
"""The parts that do not: they read cells, store them, make models or help authors; methods and
tasks have hashes of their own.
"""

PACKAGES = (
    "torch",
    "transformers",
    "torchvision",
    "lmms-eval",
    "datasets",
    "pillow",
    "numpy",
    "pandas",
    "pyarrow",
)


def collect(
    setup: ModelSetup, model_facts: Mapping[str, Any], seeds: Mapping[str, int]
) -> dict[str, Any]:
    """Everything but the result; `model_facts` are what the backend says of its model."""
    commit, dirty = git()
    return {
        "prunebench": prunebench.__version__,
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **versions()},
        "hardware": hardware(setup.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": setup.device,
        "dtype": setup.dtype,
        "attention": setup.attention,
        "quantization": setup.quantization,
        "device_map": setup.device_map,
        **model_facts,
        "seeds": dict(seeds),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that outputs can depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


@cache
def sources() -> str:
    """A hash of the package's own code that decides what stands in a cell."""
    folder = Path(prunebench.__file__).resolve().parent
    digest = sha256()
    for part in COUNTED:
        path = folder / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            content = file.read_bytes()
            # name and length ahead, so that no code can move between files unnoticed
            digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def git() -> tuple[str | None, bool | None]:
    """The commit of the code that runs, and whether it differs from it; (None, None) outside a
    checkout.
    """
    folder = Path(prunebench.__file__).resolve().parent

    def ask(*words: str) -> str | None:
        try:
            process = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return process.stdout.strip() if process.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None  # installed, perhaps inside somebody else's repository
    commit = ask("rev-parse", "HEAD")
    # results are what the code writes, not the code
    changed = ask("status", "--porcelain", "--", ":/", ":(top,exclude)results")
    return commit, None if changed is None else bool(changed)


def hardware(device: str) -> str:
    """The GPU's name, or the CPU's with the number of its cores."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return f"{_cpu()} ({os.cpu_count()} cores)"


def resolution(processor: Any) -> dict[str, int]:
    """Between how many pixels the processor scales images; empty where it does not say."""
    images = getattr(processor, "image_processor", None)
    size = getattr(images, "size", None) or {}
    edges = ("shortest_edge", "longest_edge", "height", "width")
    values = {key: size[key] for key in edges if key in size}
    return {key: int(value) for key, value in values.items() if value is not None}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
