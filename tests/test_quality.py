"""Quality: how answers are generated, cut, judged and summed up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunebench.benchmarks import Request
from prunebench.budget import BudgetError
from prunebench.models.base import Unsupported
from prunebench.models.harness import OWN
from prunebench.run.fault import judged
from prunebench.run.samples import Samples, seed_of
from prunebench.run.transformers_backend import cut, options_of
from prunebench.study.statistics import bootstrap, mean_interval

TOKENIZER = SimpleNamespace(pad_token_id=None, eos_token_id=7)
LOADED: Any = SimpleNamespace(processor=SimpleNamespace(tokenizer=TOKENIZER), manner=OWN)


def request(sample: str = "a", **generation: Any) -> Request:
    return Request(sample, 0, "what", "that", generation, ())


@pytest.mark.parametrize(
    ("text", "until", "left"),
    [
        (" red. Yes.", ["."], "red"),
        ("red\nblue.", [".", "\n"], "red"),
        ("red ", [], "red"),
        ("red", [""], "red"),
    ],
)
def test_an_answer_ends_where_the_task_says(text: str, until: list[str], left: str) -> None:
    assert cut(text, until) == left


def test_temperature_zero_is_greedy() -> None:
    options = options_of(request(temperature=0.0, top_p=1.0, max_new_tokens=4), LOADED)
    assert (options["do_sample"], options["temperature"], options["top_p"]) == (False, None, None)
    assert options["max_new_tokens"] == 4
    assert options["pad_token_id"] == 7
    assert options_of(request(), LOADED)["max_new_tokens"] == 128


def test_a_temperature_samples() -> None:
    options = options_of(request(temperature=0.7, top_p=0.9), LOADED)
    assert (options["do_sample"], options["temperature"], options["top_p"]) == (True, 0.7, 0.9)


def test_a_sample_has_its_number_whatever_is_beside_it() -> None:
    assert seed_of(request("a"), 0) == seed_of(request("a", temperature=1), 0)
    assert len({seed_of(request(name), seed) for name in "abc" for seed in range(3)}) == 9


def shown(*images: Any) -> Samples:
    """A sample that shows these."""
    chat = [{"role": "user", "content": [{"type": "image", "url": image} for image in images]}]
    return Samples((request(),), (chat,), {}, (), ())


def test_questions_of_one_image_are_told_by_its_digest() -> None:
    red, blue = Image.new("RGB", (8, 4), "red"), Image.new("RGB", (8, 4), "blue")
    assert shown(red).digest(0) == shown(red.copy()).digest(0)
    others = [shown(blue), shown(red, blue), shown(red.resize((4, 8))), shown(red, red)]
    assert len({shown(red).digest(0), *(one.digest(0) for one in others)}) == 5
    assert shown().digest(0) is None


def test_the_frames_of_a_video_are_its_digest() -> None:
    frames = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    chats = []
    for video in (frames, frames.copy(), frames + 1):
        clip = SimpleNamespace(frames=video)
        chats.append([{"role": "user", "content": [{"type": "video", "video": clip}]}])
    samples = Samples((request(),) * 3, tuple(chats), {}, (), ())
    first, same, other = (samples.digest(row) for row in range(3))
    assert first == same != other


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BudgetError("out of reach"), "infeasible"),
        (Unsupported("no grid"), "unsupported"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
        (MemoryError(), "oom"),
        (ValueError("a bug"), "failed"),
    ],
)
def test_what_was_raised_is_the_status(error: Exception, status: str) -> None:
    fault = judged(error)
    assert fault.status == status
    assert fault.reason.splitlines()[0]


def test_wilson_interval_of_shares() -> None:
    stderr, low, high = mean_interval([1.0] * 9 + [0.0])
    assert stderr == pytest.approx(0.1)
    assert low == pytest.approx(0.5958, abs=1e-3)
    assert high == pytest.approx(0.9821, abs=1e-3)
    assert mean_interval([1.0]) == (None, None, None)


def test_student_interval_of_numbers() -> None:
    stderr, low, high = mean_interval([1.0, 2.0, 3.0])
    assert stderr == pytest.approx(3**-0.5)
    # the mean of what is never negative is not, either
    assert low == 0.0
    stderr, low, high = mean_interval([-1.0, 2.0, 3.0, 4.0])
    assert low == pytest.approx(2 - 3.182 * (14 / 3) ** 0.5 / 2, abs=1e-3)
    stderr, low, high = mean_interval([1.0, 2.0, 3.0])
    assert high == pytest.approx(2 + 4.303 * 3**-0.5, abs=1e-3)
    assert mean_interval([0.2, 0.9, 1.0])[2] == 1.0


def test_bootstrap_is_the_same_twice_and_close_to_the_mean() -> None:
    values = [0.0, 1.0] * 100
    first = bootstrap(values, lambda drawn: sum(drawn) / len(drawn))
    assert first == bootstrap(values, lambda drawn: sum(drawn) / len(drawn))
    assert first[0] == pytest.approx(0.035, abs=0.005)
