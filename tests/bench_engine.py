"""What the engine costs: `generate` in a session that prunes nothing, over plain `generate`, in
CPU time (target: at most 1.01 at 64 visual tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import pytest
import torch
from conftest import picture

from prunebench import models, prune
from prunebench.registry import build
from prunebench.study.statistics import median_interval

PAIRS = 30
NEW_TOKENS = 18
"""The prefill gives the first of them, and every other takes a step."""


@pytest.fixture(scope="module")
def tiny() -> Any:
    return models.load("tiny-qwen2.5-vl").model


@pytest.fixture(scope="module", params=[(224, 224), (448, 448)], ids=["64-tokens", "256-tokens"])
def inputs(
    request: pytest.FixtureRequest, inputs_of: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    return inputs_of(([picture(*request.param)], "color of 5"))


def seconds(work: Callable[[], object]) -> float:
    start = process_time()
    work()
    return process_time() - start


@pytest.mark.parametrize("method", ["none", "fastv", "pyramiddrop"])
def test_engine_over_plain_generate(
    benchmark: Any,
    tiny: Any,
    inputs: dict[str, Any],
    method: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pairs in alternating order, sessions opened inside the clock; the ratio lands in extra_info
    and on the terminal.

    Methods beside `none` keep as good as all tokens, so that their ratio shows what signals,
    selection and hooks cost.
    """

    def plain() -> None:
        tiny.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
        )

    pruner = build(method)

    def engine() -> None:
        with prune(tiny, pruner, budget=1.0 if method == "none" else 0.99):
            plain()

    with torch.inference_mode():
        for _ in range(3):
            plain()
            engine()
        ratios = []
        for pair in range(PAIRS):
            if pair % 2:
                ours, theirs = seconds(engine), seconds(plain)
            else:
                theirs, ours = seconds(plain), seconds(engine)
            ratios.append(ours / theirs)
        benchmark.group = "engine"
        benchmark.pedantic(engine, rounds=5)
    low, high = median_interval(ratios) or (None, None)
    benchmark.extra_info |= {
        "ratio": median(ratios),
        "ci_low": low,
        "ci_high": high,
        "pairs": PAIRS,
    }
    line = (
        f"\n{request.node.name}: {median(ratios):.3f} of plain generate, "
        f"95 % [{low:.3f}, {high:.3f}], {PAIRS} pairs"
    )
    with capsys.disabled():
        print(line)
