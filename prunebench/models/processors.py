"""Processors: whether a loaded one is the model's own and can put a question about an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunebench.border import weights
from prunebench.border.text import message, one_line
from prunebench.models.base import Family, Originals, stock
from prunebench.models.errors import LoadError

SAMPLE = (224, 224)
"""Width and height of the image that is asked about to see whether a processor works."""


def check_processor(processor: Any, model: nn.Module, placeholders: tuple[int, ...]) -> None:
    """Raises LoadError for a processor that lacks a part, or that marks images by another token
    than the model.
    """
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise LoadError(
                f"its processor has no {part.replace('_', ' ')}; "
                "its files belong into the folder, too"
            )
    if getattr(processor, "chat_template", None) is None:
        raise LoadError(
            "its processor has no chat template, so no question can be put; "
            "add its chat_template.jinja"
        )
    marker = _image_token(processor)
    if marker is not None and marker not in placeholders:
        raise LoadError(
            f"its processor marks images with token {marker}, its model with {placeholders[0]}; "
            "one of the two is another model's"
        )
    embeddings = stock(model).get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    if rows is not None and max(placeholders) >= rows:
        raise LoadError(
            f"its config.json marks images with token {max(placeholders)}, "
            f"and there are embeddings for {rows}"
        )


def check_prompt(processor: Any, model: nn.Module, family: Family) -> None:
    """Ask about a grey image and look at what the processor makes of it; the model does not run.

    Sizes, grids and templates that do not fit fail here once, not at every sample. Raises
    LoadError.
    """
    from PIL import Image

    image = Image.new("RGB", SAMPLE, "grey")
    try:
        inputs = _question(processor, image)
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        odd = weights.non_finite(tensors.items())
        layouts = family.layouts(model, inputs, Originals(((SAMPLE,),), processor))
        tokens = sum(len(layout) for layout in layouts)
        marked = int(family.visual(model, inputs["input_ids"]).sum())
    except Exception as error:  # templates and processors raise what they like
        detail = f"{type(error).__name__}: {one_line(message(error), 120)}"
        raise LoadError(f"its processor cannot put a question about an image: {detail}") from error
    if odd is not None:
        raise LoadError(
            f"its processor makes {odd} of an image that are not finite; "
            "look at its mean, std and factor"
        )
    if marked != tokens:
        raise LoadError(
            f"its processor makes room for {marked} visual tokens of an image, "
            f"and its model makes {tokens}"
        )
    if not tokens:
        raise LoadError(
            "its chat template leaves the image out, so the model would be asked without it"
        )


def _image_token(processor: Any) -> int | None:
    """The id by which a processor marks images; None where it does not say."""
    marker: int | None = getattr(processor, "image_token_id", None)
    if marker is None and isinstance(getattr(processor, "image_token", None), str):
        marker = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return marker


def _question(processor: Any, image: Any) -> Mapping[str, Any]:
    """The inputs of a question about an image."""
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return dict(processor(text=[text], images=[[image]], padding=True, return_tensors="pt"))
