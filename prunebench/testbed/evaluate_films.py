"""Measure a miniature on held-out clips and pairs: greedy `generate` of the stock model, with what
it is shown and with that blanked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prunebench.testbed.clip_questions import (
    CLIP_KINDS,
    PAIR_KINDS,
    FilmQuestion,
    sample_clip,
    sample_pair,
)
from prunebench.testbed.clips import FPS, FRAMES, Clip, Pair
from prunebench.testbed.evaluate import (
    accuracy,
    evaluate,
    frequent_answers,
    generated,
    right_answers,
)

Sample = tuple[Clip | Pair, FilmQuestion]

GREY = 128


def evaluate_films(
    folder: Path, *, samples: int = 1000, seed: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """What `evaluate` says of scenes; under `clips` and `pairs` the `accuracy`, `by_type`, `blank`
    and `guess` of half as many questions about each.
    """
    count = max(1, samples // 2)
    clips = [sample_clip(seed, index, CLIP_KINDS) for index in range(count)]
    pairs = [sample_pair(seed, index, PAIR_KINDS) for index in range(count)]
    return {
        **evaluate(folder, samples=samples, seed=seed, device=device),
        "clips": measure(folder, clips, device=device),
        "pairs": measure(folder, pairs, device=device),
    }


def measure(folder: Path, samples: Sequence[Sample], device: str = "cpu") -> dict[str, Any]:
    """`accuracy` and `by_type` of the samples; under `blank` those of grey pictures, under `guess`
    those of always giving the type's most frequent answer.
    """
    questions = [question for _, question in samples]
    kinds = [question.kind for question in questions]
    hits = right_answers(film_answers(folder, samples, device=device), questions)
    texts = film_answers(folder, samples, blank=True, device=device)
    return {
        "samples": len(samples),
        **accuracy(kinds, hits),
        "blank": accuracy(kinds, right_answers(texts, questions)),
        "guess": accuracy(kinds, right_answers(frequent_answers(questions), questions)),
    }


def film_answers(
    folder: Path,
    samples: Sequence[Sample],
    *,
    blank: bool = False,
    batch_size: int = 25,
    device: str = "cpu",
) -> list[str]:
    """What the model in `folder` says to each question; `blank`: about grey pictures."""

    def inputs_of(processor: Any, _: Any, part: Sequence[Sample]) -> Any:
        return film_inputs(processor, part, blank)

    return generated(folder, samples, inputs_of, batch_size, device)


def film_inputs(processor: Any, samples: Sequence[Sample], blank: bool = False) -> Any:
    """The model's inputs: every film and its question as the user's one message."""
    messages, images, videos = [], [], []
    for film, question in samples:
        frames = film.render()
        if blank:
            frames = np.full_like(frames, GREY)
        if isinstance(film, Clip):
            media = [{"type": "video"}]
            videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())
        else:
            media = [{"type": "image"}, {"type": "image"}]
            images.append([Image.fromarray(frame) for frame in frames])
        content = [*media, {"type": "text", "text": question.text}]
        messages.append([{"role": "user", "content": content}])
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    if images:
        options["images"] = images
    if videos:
        times = {"fps": FPS, "frames_indices": list(range(FRAMES)), "total_num_frames": FRAMES}
        metadata = [{**times, "duration": FRAMES / FPS}] * len(videos)
        options |= {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
    return processor(text=text, **options)
