"""Encode once: run the vision tower and projector apart, so that every method and budget shares the
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.engine.encoder import observed_encoding
from prunebench.engine.ready import Ready, make_ready
from prunebench.models import family_of
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
    known: Any = model
    if not getattr(known, "_supports_mm_encoder_outputs", lambda: False)():
        return dict(inputs)
    kept = {name: value for name, value in inputs.items() if name not in family.vision_inputs}
    methods = [one if isinstance(one, Ready) else make_ready(family, model, one) for one in pruners]
    encoded = observed_encoding(family, model, inputs, methods)
    return {**kept, "mm_encoder_outputs": encoded} if encoded else kept
