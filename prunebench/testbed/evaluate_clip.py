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

NAMED = {"colour": COLOURS, "shape": SHAPES, "number": DIGITS}


def evaluate_clip(
    folder: Path, *, samples: int = 1000, seed: int = 1, batch_size: int = 50, device: str = "cpu"
) -> dict[str, Any]:
    """Shares (0..1, float32) over the first `samples` scenes of the stream `seed`, each seen whole,
    at 168 px.

    Keys: `samples`, `seed`, `batch_size`; `caption` and `image`: how often the caption of all its
    objects is the most similar of a batch to a scene, and the other way round, captions that are
    true as well not counted; `named`: how often the colour, shape or digit of a scene's only object
    is the most similar of all such words, and `chance` for each.
    """
    auto_processor: Any = AutoProcessor  # untyped
    processor = auto_processor.from_pretrained(folder, trust_remote_code=False)
    model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    model.to(device)
    hits: dict[str, list[bool]] = {name: [] for name in ("caption", "image", *NAMED)}
    word_vectors = {
        name: _text_vectors(model, processor, list(options)) for name, options in NAMED.items()
    }
    for first in range(0, samples, batch_size):
        scenes = [scene(seed, index) for index in range(first, min(first + batch_size, samples))]
        captions = [_caption(about, seed) for about in scenes]
        scene_vectors = _scene_vectors(model, processor, scenes)
        texts = [caption.text for caption in captions]
        similar = scene_vectors @ _text_vectors(model, processor, texts).T
        similar = similar.masked_fill(_other_truths(scenes, captions), float("-inf"))
        own = torch.arange(len(scenes))
        hits["caption"] += (similar.argmax(1) == own).tolist()
        hits["image"] += (similar.argmax(0) == own).tolist()
        for about, vector in zip(scenes, scene_vectors, strict=True):
            if len(about.objects) > 1:
                continue
            (thing,) = about.objects
            for name, options in NAMED.items():
                if getattr(thing, name) not in options:
                    continue  # a number of two digits, or none
                best = options[int((word_vectors[name] @ vector).argmax())]
                hits[name].append(best == getattr(thing, name))
    shares = {}
    for name, right in hits.items():
        shares[name] = sum(right) / max(1, len(right))
    return {
        "samples": samples,
        "seed": seed,
        "batch_size": batch_size,
        "caption": shares["caption"],
        "image": shares["image"],
        "named": {name: shares[name] for name in NAMED},
        "chance": {name: 1 / len(options) for name, options in NAMED.items()},
    }


def _caption(about: Scene, seed: int) -> Caption:
    """The caption of a scene that lists all its objects."""
    # the last number keeps draws apart, as in a scene and its batches
    rng = np.random.default_rng([seed, about.index, 5])
    return full_caption(list(about.objects), rng)


def _scene_vectors(model: Any, processor: Any, scenes: list[Scene]) -> Tensor:
    """[B, D] what the vision tower says of scenes, of length 1."""
    images = [Image.fromarray(about.render()) for about in scenes]
    pictures = processor(images=images, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        return normalize(model.get_image_features(**pictures).pooler_output, dim=-1).cpu()


def _text_vectors(model: Any, processor: Any, texts: list[str]) -> Tensor:
    """[T, D] what the text tower says of texts, of length 1."""
    words = processor(text=texts, padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        return normalize(model.get_text_features(**words).pooler_output, dim=-1).cpu()


def _other_truths(scenes: list[Scene], captions: list[Caption]) -> Tensor:
    """[B, B] True where a caption (column) is true of a scene (row) that it does not belong to."""
    rows = []
    for about in scenes:
        phrases = [object_words(thing) for thing in about.objects]
        rows.append([caption.true_of(phrases) for caption in captions])
    return torch.tensor(rows).fill_diagonal_(False)
