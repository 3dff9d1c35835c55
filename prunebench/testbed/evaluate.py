"""Measure a miniature on held-out scenes: greedy `generate` of the stock model, with the image and with it blanked."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from prunebench.testbed.scenes import Question, Scene, sample


def evaluate(folder: Path, *, samples: int = 1000, seed: int = 1, batch_size: int = 25) -> dict[str, Any]:
    """Shares of right answers (0..1, float32) to `samples` questions, types in turn, about scenes of the stream `seed`.

    Keys: `samples`, `seed`, `accuracy`, `by_type`, `by_resolution`, `by_complexity`; `blank` and `guess` hold `accuracy`
    and `by_type` for a grey image and for always giving the type's most frequent answer.
    """
    asked = [sample(seed, index) for index in range(samples)]
    questions = [question for _, question in asked]
    right = [
        said == question.answer for said, question in zip(answers(folder, asked, batch_size=batch_size), questions, strict=True)
    ]
    blind = [
        said == question.answer
        for said, question in zip(answers(folder, asked, blank=True, batch_size=batch_size), questions, strict=True)
    ]
    kinds = [question.kind for question in questions]
    frequent = {kind: Counter(q.answer for q in questions if q.kind == kind).most_common(1)[0][0] for kind in set(kinds)}
    guessed = [frequent[question.kind] == question.answer for question in questions]
    return {
        "samples": samples,
        "seed": seed,
        "accuracy": sum(right) / samples,
        "by_type": _shares(kinds, right),
        "by_resolution": _shares([f"{about.width}x{about.height}" for about, _ in asked], right),
        "by_complexity": _shares([about.complexity for about, _ in asked], right),
        "blank": {"accuracy": sum(blind) / samples, "by_type": _shares(kinds, blind)},
        "guess": {"accuracy": sum(guessed) / samples, "by_type": _shares(kinds, guessed)},
    }


def answers(folder: Path, asked: Sequence[tuple[Scene, Question]], *, blank: bool = False, batch_size: int = 25) -> list[str]:
    """What the model in `folder` says to each question; with `blank` it gets a grey image of the same size."""
    processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    said: list[str] = []
    for first in range(0, len(asked), batch_size):
        chunk = asked[first : first + batch_size]
        messages = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}] for _, question in chunk
        ]
        images = [
            Image.new("RGB", (about.width, about.height), (128,) * 3) if blank else Image.fromarray(about.render())
            for about, _ in chunk
        ]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=text, images=[[image] for image in images], padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        said += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def _shares(groups: Iterable[Hashable], right: Iterable[bool]) -> dict[Any, float]:
    """Share of True in each group, groups in sorted order."""
    hits: dict[Any, list[bool]] = defaultdict(list)
    for group, hit in zip(groups, right, strict=True):
        hits[group].append(hit)
    return {group: sum(hits[group]) / len(hits[group]) for group in sorted(hits)}
