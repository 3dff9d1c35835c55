"""Encode once: run the vision tower and projector apart, so that every method and budget shares the
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from prunebench.engine.encoder import Encodings, Observer
from prunebench.engine.ready import Ready, make_ready, union
from prunebench.models import family_of
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import Pruner


@torch.no_grad()
def encode(
    model: nn.Module, inputs: Mapping[str, Any], pruners: Sequence[Pruner | Ready] = ()
) -> dict[str, Any]:
    """`inputs` with the pixels replaced by their encoding, for any number of
    `model.generate(**encoded)` calls.

    What `pruners` read in the vision encoder is kept beside it. On transformers before 5.20, which
    cannot take encodings, the inputs come back as they are and every call encodes. Raises
    Unsupported where the model cannot serve one of them.
    """
    family = family_of(model)
    parts: Any = model
    if not getattr(parts, "_supports_mm_encoder_outputs", lambda: False)():
        return dict(inputs)
    methods = [_ready(family, model, pruner) for pruner in pruners]
    for method in methods:
        if method.inside_encoder():
            raise Unsupported(
                f"{method.name} prunes inside the vision encoder: give its images as they are"
            )
    rest = {name: value for name, value in inputs.items() if name not in family.vision_inputs}
    encodings = _encodings(family, model, inputs, methods)
    return {**rest, "mm_encoder_outputs": encodings} if encodings else rest


def _ready(family: Family, model: nn.Module, pruner: Pruner | Ready) -> Ready:
    return pruner if isinstance(pruner, Ready) else make_ready(family, model, pruner)


def _encodings(
    family: Family, model: nn.Module, inputs: Mapping[str, Any], methods: Sequence[Ready]
) -> Encodings:
    """What the family's encoder makes of the inputs, with what the methods read in it."""
    wants = union(methods)
    observer = Observer(family, model, wants)
    with observer.attached() if wants else nullcontext():
        outputs = family.encode(model, inputs)
    return Encodings(outputs, observer.read() if wants else None)
