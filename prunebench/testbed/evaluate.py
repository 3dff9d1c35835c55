"""Measure a miniature on held-out scenes: greedy `generate` of the stock model, with the image and
with it blanked.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from prunebench.testbed.questions import FINE, Question, sample
from prunebench.testbed.scenes import Scene

Sample = tuple[Scene, Question]

T = TypeVar("T")


class Asked(Protocol):
    """What is known of a question."""

    @property
    def kind(self) -> str: ...
    @property
    def answer(self) -> str: ...


def evaluate(
    folder: Path, *, samples: int = 1000, seed: int = 1, batch_size: int = 25, device: str = "cpu"
) -> dict[str, Any]:
    """Shares of right answers (0..1, float32) to `samples` questions, types in turn, about scenes
    of the stream `seed`.

    Keys: `samples`, `seed`, `accuracy`, `by_type`, `by_resolution`, `by_complexity`; `blank` and
    `guess` hold `accuracy` and `by_type` for a grey image and for always giving the type's most
    frequent answer; `fine` holds them for a fifth as many questions about fine scenes.
    """
    pairs = [sample(seed, index) for index in range(samples)]
    scenes = [about for about, _ in pairs]
    questions = [question for _, question in pairs]
    kinds = [question.kind for question in questions]
    sizes = [f"{about.width}x{about.height}" for about in scenes]
    right = right_answers(answers(folder, pairs, batch_size=batch_size, device=device), questions)
    texts = answers(folder, pairs, blank=True, batch_size=batch_size, device=device)
    blind = right_answers(texts, questions)
    lucky = right_answers(frequent_answers(questions), questions)
    levels = [about.complexity for about in scenes]
    return {
        "samples": samples,
        "seed": seed,
        **accuracy(kinds, right),
        "by_resolution": _shares(sizes, right),
        "by_complexity": _shares(levels, right),
        "blank": accuracy(kinds, blind),
        "guess": accuracy(kinds, lucky),
        "fine": fine(
            folder,
            samples=max(1, samples // 5),
            seed=seed,
            batch_size=batch_size,
            device=device,
        ),
    }


def fine(
    folder: Path,
    *,
    samples: int = 200,
    seed: int = 1,
    first_tokens: int | None = None,
    batch_size: int = 25,
    device: str = "cpu",
) -> dict[str, Any]:
    """`accuracy` and `by_type` over questions about fine scenes.

    With `first_tokens` the model sees no other visual tokens: the first 64 of LLaVA-NeXT's 336, for
    instance, are its thumbnail.
    """
    pairs = [sample(seed, index, FINE) for index in range(samples)]
    questions = [question for _, question in pairs]
    texts = answers(folder, pairs, first_tokens=first_tokens, batch_size=batch_size, device=device)
    right = right_answers(texts, questions)
    return accuracy([question.kind for question in questions], right)


def answers(
    folder: Path,
    pairs: Sequence[Sample],
    *,
    blank: bool = False,
    first_tokens: int | None = None,
    batch_size: int = 25,
    device: str = "cpu",
) -> list[str]:
    """What the model in `folder` says to each question.

    With `blank` it gets a grey image of the same size. Of each prompt's visual tokens it sees the
    `first_tokens`, all of them where that is None.
    """

    def inputs_of(processor: Any, config: Any, part: Sequence[Sample]) -> Any:
        inputs = _inputs(processor, part, blank)
        if first_tokens is not None:
            later = _later_tokens(inputs["input_ids"], config.image_token_id, first_tokens)
            # masked, not cut out: the model wants as many image tokens as it has features
            inputs["attention_mask"] = inputs["attention_mask"] * ~later
        return inputs

    return generated(folder, pairs, inputs_of, batch_size, device)


def generated(
    folder: Path,
    samples: Sequence[T],
    inputs_of: Callable[[Any, Any, Sequence[T]], Any],
    batch_size: int,
    device: str,
) -> list[str]:
    """What the model in `folder` says greedily to each sample; `inputs_of` makes the inputs of a
    few, given the processor and the model's configuration.
    """
    auto_processor: Any = AutoProcessor  # untyped
    processor = auto_processor.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    model.to(device)
    texts: list[str] = []
    for first in range(0, len(samples), batch_size):
        inputs = inputs_of(processor, model.config, samples[first : first + batch_size]).to(device)
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        texts += processor.batch_decode(new_tokens, skip_special_tokens=True)
    return texts


def _inputs(processor: Any, pairs: Sequence[Sample], blank: bool) -> Any:
    """The model's inputs: every scene and its question as the user's one message."""
    messages, images = [], []
    for about, question in pairs:
        content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
        messages.append([{"role": "user", "content": content}])
        if blank:
            image = Image.new("RGB", (about.width, about.height), (128,) * 3)
        else:
            image = Image.fromarray(about.render())
        images.append([image])
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return processor(text=text, images=images, padding=True, return_tensors="pt")


def _later_tokens(ids: Tensor, image_token: int, count: int) -> Tensor:
    """[B, L] True at the visual tokens behind the first `count` of each row of ids [B, L]."""
    image = ids == image_token
    return image & (image.cumsum(1) > count)


def frequent_answers(questions: Sequence[Asked]) -> list[str]:
    """The most frequent answer to the type of each question."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[question.kind][question.answer] += 1
    return [counts[question.kind].most_common(1)[0][0] for question in questions]


def right_answers(texts: Sequence[str], questions: Sequence[Asked]) -> list[bool]:
    """Which answers are those of their questions."""
    pairs = zip(texts, questions, strict=True)
    return [text == question.answer for text, question in pairs]


def accuracy(kinds: Sequence[str], right: Sequence[bool]) -> dict[str, Any]:
    """The share of right answers, over all questions and by type."""
    return {"accuracy": sum(right) / len(right), "by_type": _shares(kinds, right)}


def _shares(groups: Iterable[Hashable], right: Iterable[bool]) -> dict[Any, float]:
    """Share of True in each group, groups in sorted order."""
    hits: dict[Any, list[bool]] = defaultdict(list)
    for group, hit in zip(groups, right, strict=True):
        hits[group].append(hit)
    shares = {}
    for group in sorted(hits):
        shares[group] = sum(hits[group]) / len(hits[group])
    return shares
