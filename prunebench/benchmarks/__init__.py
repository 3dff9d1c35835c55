"""Benchmarks: tasks through lmms-eval's API, which asks the questions and scores the answers."""

from prunebench.benchmarks.benchmark import Benchmark
from prunebench.benchmarks.catalogue import Listed, expand, listed, load_task
from prunebench.benchmarks.request import MediaError, Request, TaskError

__all__ = [
    "Benchmark",
    "Listed",
    "MediaError",
    "Request",
    "TaskError",
    "expand",
    "listed",
    "load_task",
]
