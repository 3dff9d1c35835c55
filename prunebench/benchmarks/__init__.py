"""Benchmarks: tasks through lmms-eval's API, which asks the questions and scores the answers."""

from prunebench.benchmarks.benchmark import Benchmark
from prunebench.benchmarks.catalogue import Listed, check_access, expand, listed, load_task
from prunebench.benchmarks.request import MediaError, Request, TaskError

__all__ = [
    "Benchmark",
    "Listed",
    "MediaError",
    "Request",
    "TaskError",
    "check_access",
    "expand",
    "listed",
    "load_task",
]
