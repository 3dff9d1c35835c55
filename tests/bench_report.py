"""What folding and reporting a study costs, by its number of cells: seconds, CPU seconds of all its
processes, and the most memory of the first of them and of the largest other one.

A study of 10^5 cells takes minutes to write: `--benchmark-only -k 100000` asks for it by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic

SIZES = (1_000, 10_000)
LARGEST = 100_000

PROGRAM = """
import json, resource, sys, time
from prunebench.cli import main
start = time.perf_counter()
code = main(["report", sys.argv[1]])
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
readers = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = sum(times.ru_utime + times.ru_stime for times in (used, readers))
print(json.dumps([code, seconds, cpu, used.ru_maxrss / 2**20, readers.ru_maxrss / 2**20]))
"""


@pytest.mark.parametrize("cells", [*SIZES, pytest.param(LARGEST, marks=pytest.mark.slow)])
def test_report(
    benchmark: Any, tmp_path: Path, cells: int, capsys: pytest.CaptureFixture[str]
) -> None:
    written = synthetic.write(tmp_path / "study", synthetic.SHAPES[cells])

    def reported() -> list[float]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "study")]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        numbers: list[float] = json.loads(process.stdout.splitlines()[-1])
        return numbers

    benchmark.group = "report"
    code, seconds, cpu, memory, other = benchmark.pedantic(reported, rounds=1)
    assert code == 0
    assert (tmp_path / "study" / "leaderboard.html").is_file()
    benchmark.extra_info |= {"cells": written, "s": seconds, "cpu_s": cpu, "peak_gib": memory}
    benchmark.extra_info["peak_of_other_gib"] = other
    with capsys.disabled():
        print(
            f"\n{written} cells: {seconds:.1f} s, {cpu:.1f} s of CPU, "
            f"{memory:.2f} GiB, the largest other process {other:.2f} GiB"
        )
