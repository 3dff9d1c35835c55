"""Profile: what `prunebench profile` can be asked; the profiler measures it."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.run.keys import key
from prunebench.run.question import DEFAULT_MODEL, DEFAULT_TASK


@dataclass
class ProfileKeys:
    """What `prunebench profile` asks which model."""

    model: str = key(
        DEFAULT_MODEL, "The model: an alias, a hub id or a local folder.", "model=qwen2.5-vl-3b"
    )
    task: str = key(DEFAULT_TASK, "The task that is asked.", "task=scenes_text")
    limit: int = key(200, "How many of its questions are asked.", "limit=500")
    batch: int | None = key(None, "Samples that run together; null: as many as suit it.", "batch=1")
    device: str = key("cpu", "Where the model runs: cpu or cuda.", "device=cuda")
    dtype: str = key("float32", "In what numbers it computes.", "dtype=bfloat16")
    out: str = key("profile", "The folder of the table and the figure.", "out=runs/profile")
    trust_remote_code: bool = key(
        False, "Whether code in the model's own folder may run.", "trust_remote_code=true"
    )
