"""Measure a miniature on held-out scenes: greedy `generate` of the stock model, with the image and
with it blanked.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from prunebench.testbed.scenes import FINE, Question, Scene, sample


def evaluate(
    folder: Path, *, samples: int = 1000, seed: int = 1, batch_size: int = 25
) -> dict[str, Any]:
    """Shares of right answers (0..1, float32) to `samples` questions, types in turn, about scenes
    of the stream `seed`.

    Keys: `samples`, `seed`, `accuracy`, `by_type`, `by_resolution`, `by_complexity`; `blank` and
    `guess` hold `accuracy` and `by_type` for a grey image and for always giving the type's most
    frequent answer; `fine` holds them for a fifth as many questions about fine scenes.
    """
    asked = [sample(seed, index) for index in range(samples)]
    questions = [question for _, question in asked]
    right = [
        said == question.answer
        for said, question in zip(
            answers(folder, asked, batch_size=batch_size), questions, strict=True
        )
    ]
    blind = [
        said == question.answer
        for said, question in zip(
            answers(folder, asked, blank=True, batch_size=batch_size), questions, strict=True
        )
    ]
    kinds = [question.kind for question in questions]
    frequent = {
        kind: Counter(q.answer for q in questions if q.kind == kind).most_common(1)[0][0]
        for kind in set(kinds)
    }
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
        "fine": fine(folder, samples=max(1, samples // 5), seed=seed, batch_size=batch_size),
    }


def fine(
    folder: Path,
    *,
    samples: int = 200,
    seed: int = 1,
    first_tokens: int | None = None,
    batch_size: int = 25,
) -> dict[str, Any]:
    """`accuracy` and `by_type` over questions about fine scenes; with `first_tokens` of
    LLaVA-NeXT's 336 the first 64, for instance, which are its thumbnail, the model sees no other
    visual tokens.
    """
    asked = [sample(seed, index, FINE) for index in range(samples)]
    said = answers(folder, asked, first_tokens=first_tokens, batch_size=batch_size)
    right = [text == question.answer for text, (_, question) in zip(said, asked, strict=True)]
    return {
        "accuracy": sum(right) / samples,
        "by_type": _shares([question.kind for _, question in asked], right),
    }


def answers(
    folder: Path,
    asked: Sequence[tuple[Scene, Question]],
    *,
    blank: bool = False,
    first_tokens: int | None = None,
    batch_size: int = 25,
) -> list[str]:
    """What the model in `folder` says to each question; with `blank` it gets a grey image of the
    same size, and of each prompt's visual tokens it sees the `first_tokens` only, left out: all.
    """
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    said: list[str] = []
    for first in range(0, len(asked), batch_size):
        chunk = asked[first : first + batch_size]
        messages = [
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": question.text}],
                }
            ]
            for _, question in chunk
        ]
        images = [
            Image.new("RGB", (about.width, about.height), (128,) * 3)
            if blank
            else Image.fromarray(about.render())
            for about, _ in chunk
        ]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(
            text=text, images=[[image] for image in images], padding=True, return_tensors="pt"
        )
        if first_tokens is not None:
            image = inputs["input_ids"] == model.config.image_token_id
            inputs["attention_mask"] = inputs["attention_mask"] * ~(
                image & (image.cumsum(1) > first_tokens)
            )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        said += processor.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return said


def _shares(groups: Iterable[Hashable], right: Iterable[bool]) -> dict[Any, float]:
    """Share of True in each group, groups in sorted order."""
    hits: dict[Any, list[bool]] = defaultdict(list)
    for group, hit in zip(groups, right, strict=True):
        hits[group].append(hit)
    return {group: sum(hits[group]) / len(hits[group]) for group in sorted(hits)}
