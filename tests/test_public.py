"""Public models and tasks by their ids, through the real program, from a hub of their own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hub import Hub, Server
from hub.hub import PRUNEBENCH

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_public_task_on_a_public_model(hub: Hub, server: Server, tmp_path: Path) -> None:
    hub.provide(QWEN, "lmms-lab-encoder/POPE")
    words = ["model=qwen2.5-vl", "methods=fastv", "tasks=pope", "budgets=0.5", "limit=2"]
    words += ["controls=false", "cost=false", "out=study"]
    process = hub.run([*PRUNEBENCH, "sweep", *words], tmp_path, server)
    assert process.returncode == 0, process.stderr
    board = pd.read_csv(tmp_path / "study" / "leaderboard.csv")
    (row,) = board.to_dict("records")
    assert (row["status"], row["n_asked"]) == ("ok", 2), row["reason"]
    assert row["tokens_mean_share"] == pytest.approx(0.5, abs=0.05)
