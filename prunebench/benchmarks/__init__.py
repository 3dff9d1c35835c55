"""Benchmarks: tasks through lmms-eval's API, which asks the questions and scores the answers."""

from prunebench.benchmarks.benchmark import Benchmark
from prunebench.benchmarks.catalogue import Listed, expand, listed, load_task, needs_blind
from prunebench.benchmarks.request import MediaError, Request, TaskError
from prunebench.benchmarks.served import PublicTask, judge_configured, public_tasks

__all__ = [
    "Benchmark",
    "Listed",
    "MediaError",
    "PublicTask",
    "Request",
    "TaskError",
    "expand",
    "judge_configured",
    "listed",
    "load_task",
    "needs_blind",
    "public_tasks",
]
