"""Benchmarks: tasks through lmms-eval's API, which asks the questions and scores the answers."""

from prunebench.benchmarks import judge
from prunebench.benchmarks.benchmark import Benchmark
from prunebench.benchmarks.catalogue import (
    Listed,
    check_access,
    expand,
    listed,
    load_task,
    needs_blind,
    prepare,
)
from prunebench.benchmarks.request import MediaError, Request, TaskError
from prunebench.benchmarks.served import PublicTask, public_tasks

__all__ = [
    "Benchmark",
    "Listed",
    "MediaError",
    "PublicTask",
    "Request",
    "TaskError",
    "check_access",
    "expand",
    "judge",
    "listed",
    "load_task",
    "needs_blind",
    "prepare",
    "public_tasks",
]
