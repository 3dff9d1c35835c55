"""Memory: the peak while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

MIB = 2**20
SAMPLING_SECONDS = 0.005

PROCESS = Path("/proc/self")

Source = Literal[
    "cuda allocator", "resident set, high-water mark", "resident set, sampled", "not measurable"
]


@dataclass
class Peak:
    """Filled when the block ends; `mib` stays None where the platform tells nothing, and `source`
    says what it is.
    """

    mib: float | None = None
    source: Source = "not measurable"


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
    result = Peak()
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield result
        torch.cuda.synchronize(device)
        result.mib, result.source = torch.cuda.max_memory_allocated(device) / MIB, "cuda allocator"
    elif _reset_high_water():
        yield result
        result.mib, result.source = _status_mib("VmHWM"), "resident set, high-water mark"
    elif (PROCESS / "status").exists():
        with _sampled() as resident_mib:
            yield result
        result.mib, result.source = max(resident_mib), "resident set, sampled"
    else:
        yield result


def _reset_high_water() -> bool:
    """Ask Linux to start the process's high-water mark anew; False where it does not let us."""
    try:
        # 5 resets the high-water mark and nothing else
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def _sampled() -> Iterator[list[float]]:
    """Resident sets in MiB, read by a thread while the block runs and once more at each end."""
    resident_mib = [_status_mib("VmRSS")]
    over = threading.Event()

    def watch() -> None:
        # no sleep: this ends at once when the block does
        while not over.wait(SAMPLING_SECONDS):
            resident_mib.append(_status_mib("VmRSS"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield resident_mib
    finally:
        over.set()
        thread.join()
        resident_mib.append(_status_mib("VmRSS"))


def _status_mib(field: str) -> float:
    """A field of the process's status, which Linux gives in KiB."""
    for line in (PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise OSError(f"{PROCESS / 'status'} has no field {field}")
