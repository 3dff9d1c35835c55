"""Visual-CoT: free-form questions over twelve data sets, each with the box of its evidence."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from prunebench.tasks.visual_cot import _judging
from prunebench.tasks.visual_cot._layout import SETS, SPLITS, Layout, Question, layout

from prunebench.border import files
from prunebench.border.text import one_line

JUDGED = "judge_score"
"""The metric that only a judge gives."""


@dataclass(frozen=True)
class Recipe:
    """Which of the twelve sets, and which questions: `val` is the benchmark, `train` what methods
    learn from.
    """

    name: str = SETS[0]
    split: str = SPLITS[0]

    most: ClassVar[int | None] = None
    """There are no more than there are."""

    def __post_init__(self) -> None:
        for key, values in (("name", SETS), ("split", SPLITS)):
            value = getattr(self, key)
            if value not in values:
                text = one_line(repr(value), 60)
                raise ValueError(f"{key} is {text}; it is one of {', '.join(values)}")

    @property
    def samples(self) -> int:
        """All questions of the set."""
        return len(self._questions)

    def file_name(self, count: int) -> str:
        """A name that other questions, or other images behind them, do not have."""
        digest = sha256()
        for question in self._questions:
            facts = (*question.row().values(), self._layout.mark(question.image))
            digest.update(json.dumps(facts).encode())
        return f"visual-cot-{self.name}-{self.split}-{digest.hexdigest()[:16]}.parquet"

    def write(self, path: Path, count: int) -> Path:
        """Write the questions; their images stay where they are."""
        import pyarrow.parquet as parquet
        from datasets import Features, Value
        from pyarrow import Table

        texts = ("question_id", "image", "question", "answer")
        kinds = dict.fromkeys(texts, Value("string"))
        features = Features({**kinds, "evidence_box": [Value("float32")]})
        rows = [question.row() for question in self._questions]
        content = io.BytesIO()
        parquet.write_table(Table.from_pylist(rows, schema=features.arrow_schema), content)
        path.parent.mkdir(parents=True, exist_ok=True)
        return files.write(path, content.getvalue())

    def settled(self, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task's file, without the judge's metric where no judge is configured, and what that
        adds to the task's identity.
        """
        judge = _judging.configured()
        if judge is not None:
            return config, {"judge": judge.model, "prompt": _judging.PROMPT}
        metrics = [one for one in config["metric_list"] if one["metric"] != JUDGED]
        return {**config, "metric_list": metrics}, {}

    @property
    def _layout(self) -> Layout:
        return layout()

    @cached_property
    def _questions(self) -> list[Question]:
        return self._layout.questions(self.name, self.split)
