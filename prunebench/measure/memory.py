"""Memory: the peak while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import torch

MIB = 2**20
SAMPLING_SECONDS = 0.005

PROCESS = Path("/proc/self")

Source = Literal[
    "cuda allocator", "resident set, high-water mark", "resident set, sampled", "not measurable"
]


class _Mark(Protocol):
    """A high-water mark."""

    source: Source

    def take(self) -> float:
        """The most in MiB since the mark was last taken, from where it starts anew."""


class Peak:
    """Filled when the block ends; `mib` stays None where the platform tells nothing, and `source`
    says what it is. `phases` has the peak of every phase whose end was noted.
    """

    def __init__(self, mark: _Mark | None) -> None:
        self._mark = mark
        self._high = 0.0
        self.mib: float | None = None
        self.source: Source = "not measurable" if mark is None else mark.source
        self.phases: dict[str, float] = {}

    def note(self, phase: str) -> None:
        """What was in use since the last note was that of this phase, which may come in parts."""
        if self._mark is not None:
            high = self._mark.take()
            self.phases[phase] = max(high, self.phases.get(phase, 0.0))
            self._high = max(high, self._high)

    def _end(self) -> None:
        """The block is over."""
        if self._mark is not None:
            self.mib = max(self._mark.take(), self._high)


@contextmanager
def peak(device: torch.device | str = "cpu") -> Iterator[Peak]:
    """The most memory in use while the block runs, in MiB, weights and everything else that was
    there before included.

    On a GPU: what torch's allocator had handed out at its highest, exact. On the CPU: the resident
    set of the *whole process*, which also holds the interpreter and pages that the allocator freed
    but kept, so that a smaller peak may stay invisible after a larger one; read as a high-water
    mark that the kernel resets before the block where it lets us, else sampled every few
    milliseconds by a thread (short spikes escape). Elsewhere nothing is measured.
    """
    with _mark(torch.device(device)) as mark:
        result = Peak(mark)
        yield result
        result._end()


@contextmanager
def _mark(device: torch.device) -> Iterator[_Mark | None]:
    """The mark of a device, started."""
    if device.type == "cuda":
        yield _Allocator(device)
    elif _reset_high_water():
        yield _HighWater()
    elif (PROCESS / "status").exists():
        with _sampled() as mark:
            yield mark
    else:
        yield None


class _Allocator:
    """What torch's allocator has handed out on a GPU."""

    source: Source = "cuda allocator"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.take()

    def take(self) -> float:
        torch.cuda.synchronize(self.device)
        high = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return high / MIB


class _HighWater:
    """The kernel's mark of the process."""

    source: Source = "resident set, high-water mark"

    def take(self) -> float:
        high = _status_mib("VmHWM")
        _reset_high_water()
        return high


def _reset_high_water() -> bool:
    """Ask Linux to start the process's high-water mark anew; False where it does not let us."""
    try:
        # 5 resets the high-water mark and nothing else
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


class _Samples:
    """Resident sets read again and again."""

    source: Source = "resident set, sampled"

    def __init__(self) -> None:
        self.high = 0.0

    def read(self) -> None:
        self.high = max(self.high, _status_mib("VmRSS"))

    def take(self) -> float:
        self.read()
        high, self.high = self.high, 0.0
        return high


@contextmanager
def _sampled() -> Iterator[_Samples]:
    """Resident sets read by a thread while the block runs, and whenever they are taken."""
    samples, over = _Samples(), threading.Event()
    samples.read()

    def watch() -> None:
        # no sleep: this ends at once when the block does
        while not over.wait(SAMPLING_SECONDS):
            samples.read()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _status_mib(field: str) -> float:
    """A field of the process's status, which Linux gives in KiB."""
    for line in (PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise OSError(f"{PROCESS / 'status'} has no field {field}")
