"""prune(...) inside lmms-eval's own model class: its loading, its prompts, its generate, our
removal.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from prunebench import prune
from prunebench.benchmarks import load_task
from prunebench.testbed import model_path


@pytest.mark.slow
def test_lmms_evals_own_wrapper_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    if "decord" not in sys.modules:  # a video reader that the wrapper imports and images never use
        monkeypatch.setitem(sys.modules, "decord", ModuleType("decord"))
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.simple.qwen2_5_vl import Qwen2_5_VL

    folder = str(model_path("tiny-qwen2.5-vl"))
    wrapper = Qwen2_5_VL(
        pretrained=folder, device="cpu", device_map="cpu", batch_size=1, attn_implementation="sdpa"
    )
    benchmark = load_task("scenes_text", 4)
    task = benchmark._task
    wrapper.task_dict = {"scenes_text": task.dataset}
    asked = [
        Instance(
            request_type="generate_until",
            arguments=(
                request.question,
                {"max_new_tokens": 4, "until": ["\n"]},
                _visual,
                request.doc_id,
                "scenes_text",
                "test",
            ),
            idx=0,
            metadata={"task": "scenes_text", "doc_id": request.doc_id, "repeats": 1},
        )
        for request in benchmark.requests
    ]
    with prune(wrapper.model, "divprune", 0.25) as trace:
        answers = wrapper.generate_until(asked)
    sample = trace.samples[0]
    assert sample.entering == [round(sample.available / 4)] * 12
    assert sum(a == r.reference for a, r in zip(answers, benchmark.requests, strict=True)) >= 3


def _visual(doc: Any) -> list[Any]:
    return [doc["image"].convert("RGB")]
