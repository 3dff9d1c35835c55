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
from typing import Any

import torch

import prunebench

DECIDING = ("torch", "transformers", "torchvision", "pillow", "lmms-eval")
"""Packages whose version belongs to what a cell is: models, preprocessing, scoring."""

BESIDE = ("report", "testbed", "cli.py", "methods", "tasks")
"""Parts of the package that read cells, make models, or are hashed by themselves."""

PACKAGES = ("torch", "transformers", "torchvision", "lmms-eval", "datasets", "pillow", "numpy", "pandas", "pyarrow")


def collect(loaded: Any, device: str, dtype: str, attention: str, seeds: Mapping[str, int]) -> dict[str, Any]:
    """Everything but the result; `loaded` is what `models.load` returned."""
    commit, dirty = git()
    return {
        "prunebench": prunebench.__version__,
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **versions()},
        "hardware": hardware(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "model_id": loaded.id,
        "model_revision": loaded.revision,
        "resolution": resolution(loaded.processor),
        "seeds": dict(seeds),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that outputs can depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def sources() -> str:
    """A hash of the package's own code that decides what is written into a cell: all but the report, the testbed and the CLI."""
    folder = Path(prunebench.__file__).resolve().parent
    files = [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).parts[0] not in BESIDE]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def git() -> tuple[str | None, bool | None]:
    """The commit of the code that runs, and whether it differs from it; (None, None) outside a checkout."""
    folder = Path(prunebench.__file__).resolve().parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None  # installed, perhaps inside somebody else's repository
    commit = ask("rev-parse", "HEAD")
    # results are what the code writes, not the code
    changed = ask("status", "--porcelain", "--", ":/", ":(top,exclude)results")
    return commit, None if changed is None else bool(changed)


def hardware(device: str) -> str:
    """The GPU's name, or the CPU's with the number of its cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{_cpu()} ({os.cpu_count()} cores)"


def resolution(processor: Any) -> dict[str, int]:
    """Between how many pixels the processor scales images; empty where it does not say."""
    images = getattr(processor, "image_processor", None)
    size = getattr(images, "size", None) or {}
    found = {key: size[key] for key in ("shortest_edge", "longest_edge", "height", "width") if key in size}
    return {key: int(value) for key, value in found.items() if value is not None}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
