"""Measure the miniature CLIP on held-out scenes: which caption belongs to which scene, and what a
lone object is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoProcessor, CLIPModel

from prunebench.testbed.captions import Caption, full_caption, object_words
from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.scenes import COLOURS, DIGITS, Scene, scene

NAMED = {"colour": COLOURS, "shape": SHAPES, "digit": DIGITS}


def evaluate_clip(
    folder: Path, *, samples: int = 1000, seed: int = 1, batch_size: int = 50
) -> dict[str, Any]:
    """Shares (0..1, float32) over the first `samples` scenes of the stream `seed`, each seen whole,
    at 112 px.

    Keys: `samples`, `seed`, `batch_size`; `caption` and `image`: how often the caption of all its
    objects is the most similar of a batch to a scene, and the other way round, captions that are
    true as well not counted; `named`: how often the colour, shape or digit of a scene's only object
    is the most similar of all such words, and `chance` for each.
    """
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    hits: dict[str, list[bool]] = {name: [] for name in ("caption", "image", *NAMED)}
    words = {name: _read(model, processor, list(options)) for name, options in NAMED.items()}
    for first in range(0, samples, batch_size):
        scenes = [scene(seed, index) for index in range(first, min(first + batch_size, samples))]
        captions = [
            full_caption(list(about.objects), np.random.default_rng([seed, about.index, 5]))
            for about in scenes
        ]
        seen, read = (
            _see(model, processor, scenes),
            _read(model, processor, [caption.text for caption in captions]),
        )
        similar = (seen @ read.T).masked_fill(_other_truths(scenes, captions), float("-inf"))
        own = torch.arange(len(scenes))
        hits["caption"] += (similar.argmax(1) == own).tolist()
        hits["image"] += (similar.argmax(0) == own).tolist()
        for row, about in enumerate(scenes):
            if len(about.objects) == 1:
                (thing,) = about.objects
                for name, options in NAMED.items():
                    hits[name].append(
                        options[int((words[name] @ seen[row]).argmax())] == getattr(thing, name)
                    )
    shares = {name: sum(right) / max(1, len(right)) for name, right in hits.items()}
    return {
        "samples": samples,
        "seed": seed,
        "batch_size": batch_size,
        "caption": shares["caption"],
        "image": shares["image"],
        "named": {name: shares[name] for name in NAMED},
        "chance": {name: 1 / len(options) for name, options in NAMED.items()},
    }


def _see(model: Any, processor: Any, scenes: list[Scene]) -> Tensor:
    """[B, D] of length 1."""
    pictures = processor(
        images=[Image.fromarray(about.render()) for about in scenes], return_tensors="pt"
    )
    with torch.inference_mode():
        return normalize(model.get_image_features(**pictures).pooler_output, dim=-1)


def _read(model: Any, processor: Any, texts: list[str]) -> Tensor:
    """[T, D] of length 1."""
    with torch.inference_mode():
        return normalize(
            model.get_text_features(
                **processor(text=texts, padding=True, return_tensors="pt")
            ).pooler_output,
            dim=-1,
        )


def _other_truths(scenes: list[Scene], captions: list[Caption]) -> Tensor:
    """[B, B] True where a caption (column) is true of a scene (row) that it does not belong to."""
    there = [[object_words(thing) for thing in about.objects] for about in scenes]
    return torch.tensor(
        [[caption.true_of(things) for caption in captions] for things in there]
    ).fill_diagonal_(False)
