"""Energy: what the device says that it has used, where it says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the processors' counters."""

GPU_LAG_S = 0.1
"""NVML means power over some tens of milliseconds and adds it up in steps: a call that follows a
busier one is charged for a part of that.
"""

PACKAGE_LAG_S = 0.001
"""RAPL adds up every millisecond."""

SHORTEST = 10
"""Lags that a block lasts at least, so that nine tenths of what is counted are its own."""


@dataclass(frozen=True)
class Counter:
    """`joules` gives those used since some moment in the past, up to `lag_s` seconds ago."""

    joules: Callable[[], float]
    lag_s: float


@dataclass
class Used:
    """Filled when the block ends; `joules` stays None where the device tells nothing, or tells it
    too late for a block as short.
    """

    joules: float | None = None


@contextmanager
def energy(device: torch.device | str = "cpu") -> Iterator[Used]:
    """What is used while the block runs, by the device's own counter.

    On a GPU that of NVML (Volta or newer, with the package nvidia-ml-py): the whole board, idle
    power included. On the CPU that of the processors' packages (RAPL): the *whole machine's*, which
    Linux shows to root alone. Elsewhere nothing is measured, nor in a block that lasts less than
    ten times as long as the counter lags: a second on a GPU.
    """
    result, counter = Used(), counter_of(str(torch.device(device)))
    if counter is None:
        yield result
        return
    joules, start = counter.joules(), perf_counter()
    yield result
    if perf_counter() - start >= SHORTEST * counter.lag_s:
        result.joules = counter.joules() - joules


@lru_cache
def counter_of(device: str) -> Counter | None:
    """The counter of a device, None where it has none that may be read."""
    place = torch.device(device)
    if place.type == "cuda":
        return _of_gpu(place)
    return processors(POWERCAP) if place.type == "cpu" else None


def processors(folder: Path) -> Counter | None:
    """The sum over the packages' counters below a folder of Linux's power caps, each of which
    starts from 0 again when it is full.
    """
    # intel-rapl:0 is a package, intel-rapl:0:1 a part of it
    zones = [zone for zone in sorted(folder.glob("*-rapl:*")) if zone.name.count(":") == 1]
    try:
        packages = [_Package(zone) for zone in zones]
        for package in packages:
            package.joules()
    except (OSError, ValueError):
        return None
    if not packages:
        return None
    return Counter(lambda: sum(package.joules() for package in packages), PACKAGE_LAG_S)


class _Package:
    """A processor's counter, counted on where it has started anew."""

    def __init__(self, zone: Path) -> None:
        self.file = zone / "energy_uj"
        self.size = int((zone / "max_energy_range_uj").read_text())
        self.last = int(self.file.read_text())
        self.total = 0

    def joules(self) -> float:
        now = int(self.file.read_text())
        self.total += (now - self.last) % (self.size + 1)
        self.last = now
        return self.total / 1e6


def _of_gpu(device: torch.device) -> Counter | None:
    """NVML's counter of a GPU, found by its UUID: visible devices have numbers of their own."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(name)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # an older card, or one whose host does not let us
        return None
    return Counter(lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3, GPU_LAG_S)
