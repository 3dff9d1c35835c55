"""Fixtures shared by the tests: a randomly initialised miniature of the stock class, its processor,
and inputs for it.
"""

from __future__ import annotations

# isort: off
import own_environment
# isort: on

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from hub import Hub, Server
from PIL import Image

from prunebench.testbed.processor import build_processor
from prunebench.testbed.tiny_qwen import TinyQwenConfig, build_model

torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    """Leave nothing of the tests' own cache."""
    shutil.rmtree(own_environment.HOME, ignore_errors=True)


SIZES = TinyQwenConfig(
    vision_depth=2, vision_width=32, full_attention=(1,), layers=6, width=80, heads=4, kv_heads=2
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A noisy picture of that size."""
    noise = torch.randint(
        0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(noise.numpy())


def miniature(attention: str = "sdpa", seed: int = 0) -> Any:
    """Weights large enough that attention is not uniform and position errors show."""
    model = build_model(SIZES, seed).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(4)
            elif "embed_tokens" in name:
                weight.mul_(30)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    # random weights would answer with a visual placeholder now and then, and no oracle can re-read
    # such an answer
    model.generation_config.suppress_tokens = [
        model.config.image_token_id,
        model.config.video_token_id,
    ]
    return model


def counted(flops: Any) -> int:
    """What torch's counter saw, but for rotary tables: some versions of transformers make them by a
    matrix product.
    """
    tables = sum(
        sum(ops.values())
        for name, ops in flops.get_flop_counts().items()
        if name.split(".")[-1].startswith("rotary")
    )
    return int(flops.get_total_flops() - tables)


@pytest.fixture(scope="session")
def processor() -> Any:
    return build_processor()


@pytest.fixture(scope="session")
def model() -> Any:
    return miniature()


@pytest.fixture(scope="session")
def eager_model() -> Any:
    return miniature("eager")


Prompt = tuple[list[Image.Image], str]


@pytest.fixture(scope="session")
def inputs_of(processor: Any) -> Callable[..., dict[str, Any]]:
    """Processed inputs of prompts, each a list of images and a question; padded on the left."""

    def build(*prompts: Prompt, video: list[Image.Image] | None = None) -> dict[str, Any]:
        texts = []
        for images, question in prompts:
            parts: list[dict[str, Any]] = [{"type": "image"} for _ in images]
            parts += [{"type": "video"}] if video else []
            message = {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
            texts.append(processor.apply_chat_template([message], add_generation_prompt=True))
        images = list(chain.from_iterable(images for images, _ in prompts))
        options: dict[str, Any] = {"videos": [video], "do_sample_frames": False} if video else {}
        return dict(
            processor(
                text=texts, images=images or None, padding=True, return_tensors="pt", **options
            )
        )

    return build


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """As a terminal gives them, also where the tests themselves run under nohup."""
    usual: dict[str, Any] = {
        "SIGINT": signal.default_int_handler,
        "SIGTERM": signal.SIG_DFL,
        "SIGHUP": signal.SIG_DFL,
    }
    before = {
        name: signal.signal(getattr(signal, name), handler) for name, handler in usual.items()
    }
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """Models of eight layers and data sets of eight rows under public ids; all workers share it."""
    folder = tmp_path_factory.getbasetemp()
    # a worker's folder lies in that of the run
    return Hub((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "hub")


@pytest.fixture(scope="session")
def server(hub: Hub) -> Iterator[Server]:
    """The hub as long as it is well; tests of faults start their own."""
    with Server(hub.root) as one:
        yield one
