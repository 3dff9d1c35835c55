"""Ray's cluster: one of this machine's own, started and ended with a sweep, or one that is there;
and how many workers it has room for.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prunebench.border.text import message
from prunebench.run.question import Grid

T = TypeVar("T")

QUIET = {
    # nothing goes out, and nothing is printed between our own lines: what becomes of a worker is
    # told by whoever lost it
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # else it replaces `print` once a worker is lost, which looks like a method's doing
    "RAY_TQDM_PATCH_PRINT": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # as quick as this process, or times would say how busy the machine is otherwise
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray reads from the environment when it is imported; a user's own values win."""

STORE_BYTES = 100 * 2**20
"""Ray's store of objects: rows are small, and models are not sent."""

LONGEST_FOLDER = 40
"""Characters of a folder in which Ray can open its sockets, whose names the system bounds."""

HANDLED = (signal.SIGINT, signal.SIGTERM)
"""Signals whose handlers Ray replaces when it starts."""

PATIENCE = 60.0
"""Seconds that a question to the cluster may take, before it is asked without an answer."""

GIB = 2**30

ROOM = 1.2
BESIDE = 4 * GIB
"""How much more than a model's weights a worker takes of a GPU: a share of them, and a sum."""

MODEL_ROOM = 1 * GIB
"""What a worker on a CPU takes beside the weights of its model, for libraries and activations."""


class ExecutorError(ValueError):
    """Workers that cannot be had."""


@dataclass(frozen=True)
class Need:
    """What one worker takes of its machine: cores, a share of a GPU, and bytes of main memory."""

    cores: int
    gpus: float = 0.0
    memory: int = 0

    def options(self) -> dict[str, Any]:
        """The same in Ray's words."""
        return {"num_cpus": self.cores, "num_gpus": self.gpus, "memory": self.memory}

    def places(self, machine: Mapping[str, float]) -> int:
        """How many such workers a machine with those resources has room for."""
        places = int(machine.get("CPU", 0) // self.cores)
        if self.gpus:
            # of each GPU on its own, for a worker is on one
            places = min(places, int(machine.get("GPU", 0)) * int(1 / self.gpus + 1e-6))
        if self.memory:
            places = min(places, int(machine.get("memory", 0) // self.memory))
        return places

    def covers(self, other: Need) -> bool:
        """Whether a worker that takes this has room for what takes the other."""
        return (
            self.cores == other.cores
            and self.gpus >= other.gpus
            and bool(self.gpus) == bool(other.gpus)
            and self.memory >= other.memory
        )

    def __str__(self) -> str:
        words = ["1 core" if self.cores == 1 else f"{self.cores} cores"]
        if self.gpus:
            words.append(f"{self.gpus:.2g} of a GPU")
        if self.memory:
            words.append(f"{self.memory / GIB:.1f} GiB of memory")
        return ", ".join(words)


def need_of(ray: Any, grid: Grid, device: str, model_bytes: int) -> Need:
    """What a worker of a grid takes of its machine, with a model of that size on that device."""
    cores = grid.threads or 1
    if device == "cpu":
        return Need(cores, memory=int(ROOM * model_bytes + MODEL_ROOM))
    gpus = sum(one.get("GPU", 0) for one in machines(ray))
    on_one = -(-(grid.workers or 1) // max(1, int(gpus)))
    if on_one == 1:
        return Need(cores, gpus=1.0)
    gib = grid.worker_gpu_memory
    worker_bytes = ROOM * model_bytes + BESIDE if gib is None else gib * GIB
    return Need(cores, gpu_share(worker_bytes, gpu_bytes(ray), on_one))


def gpu_share(worker_bytes: float, gpu_bytes: float, workers_on_one: int) -> float:
    """The share of a GPU for each of so many workers, or of as many as there is room for."""
    fitting = max(1, int(gpu_bytes // worker_bytes))
    return 1 / max(1, min(fitting, workers_on_one))


def ray_package() -> Any:
    """Ray; raises ExecutorError where it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ExecutorError(
            "executor is ray, and the package ray is missing; "
            "pip install 'prunebench[ray]' brings it, executor=local does without"
        ) from None


@contextmanager
def connected(address: str | None, cores: int) -> Iterator[Any]:
    """Ray, connected to the cluster at that address; without one, to a cluster of this machine's
    own with at least so many `cores`, which is gone behind the block. Raises ExecutorError.

    Where this process is connected already, that cluster is taken, and stays.
    """
    ray = ray_package()
    if ray.is_initialized():
        yield ray
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in HANDLED}
    folder = None if address is not None else _folder()
    try:
        options = _own(cores, folder) if address is None else {"address": address}
        try:
            # errors alone: who starts a sweep asked for a study, not for a cluster
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise _unreachable(address, error) from None
        finally:
            _put_back(handlers)
        yield ray
    finally:
        ray.shutdown()
        _put_back(handlers)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def machines(ray: Any) -> list[Mapping[str, float]]:
    """The resources of every machine that is there, in Ray's words."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpu_bytes(ray: Any) -> float:
    """The memory of a GPU of the cluster, as the process that has it sees it; raises ExecutorError
    where none answers.
    """
    try:
        size: float = ray.get(ray.remote(_own_gpu).options(num_gpus=0.01).remote(), timeout=120)
    except Exception as error:
        raise ExecutorError(
            f"no GPU of the cluster says how large it is: {message(error)}"
        ) from None
    return size


def answer_of(ray: Any, question: Callable[..., T], device: str, cores: int) -> T | None:
    """What a process with so many cores answers, on a machine of the cluster that has the device;
    None where there is no room for one now.
    """
    gpus = 0.0 if device == "cpu" else 0.01
    process = ray.remote(question).options(num_cpus=cores, num_gpus=gpus)
    try:
        answer: T = ray.get(process.remote(device, cores), timeout=PATIENCE)
    except ray.exceptions.GetTimeoutError:
        return None
    return answer


def room(machines: Sequence[Mapping[str, float]], need: Need) -> int:
    """How many workers the machines have room for; raises ExecutorError where it is none."""
    places = sum(need.places(machine) for machine in machines)
    if not places:
        largest = max(machines, key=lambda one: one.get("CPU", 0), default={})
        has = f"{largest.get('CPU', 0):.0f} cores, {largest.get('GPU', 0):.0f} GPUs"
        has += f", {largest.get('memory', 0) / GIB:.1f} GiB of memory"
        raise ExecutorError(
            f"no machine has room for a worker, which takes {need}; the largest has {has}"
        )
    return places


def _own(cores: int, folder: Path | None) -> dict[str, Any]:
    """Options of a cluster of this machine's own."""
    options: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(cores, len(os.sched_getaffinity(0))),
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
    }
    if folder is not None:
        options["_temp_dir"] = str(folder)
    return options


def _folder() -> Path | None:
    """A folder for Ray's logs and sockets that goes with the cluster; None where Ray is to choose.

    In it is what workers wrote, so that it is nobody else's to read.
    """
    if "RAY_TMPDIR" in os.environ or len(tempfile.gettempdir()) > LONGEST_FOLDER - len(
        "/ray-12345678"
    ):
        return None
    return Path(tempfile.mkdtemp(prefix="ray-"))


def _unreachable(address: str | None, error: Exception) -> ExecutorError:
    if address is None:
        return ExecutorError(f"Ray cannot be started here: {message(error)}")
    return ExecutorError(
        f"no Ray cluster at ray_address={address}: {message(error)}; "
        "start one with `ray start --head`, or leave ray_address out for this machine alone"
    )


def _put_back(handlers: Mapping[int, Any]) -> None:
    # outside the main thread neither Ray nor we can set any
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _own_gpu() -> float:
    """Bytes of the GPU that this process has."""
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory)
