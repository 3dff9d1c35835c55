"""DART's vectors: keys and states of a whole prompt, and for the form on embeddings these alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector

SETS = ("dart", "dart_edgellm")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Of a prompt's rows the method sees the image's and the text's apart."""
    meta, image = vector.meta, vector.image()
    on_embeddings = vector.name.startswith("dart_edgellm")
    rows = vector.tensors["input_embeds" if on_embeddings else "hidden_states"]
    is_text = torch.ones(len(rows), dtype=torch.bool)
    is_text[image] = False
    text = is_text.nonzero()[:, 0]
    signals: dict[Signal, Tensor] = {
        Signal.TEXT_FEATURES: rows[text],
        Signal.TEXT_PLACES: text,
        Signal.VISUAL_PLACES: image,
    }
    if on_embeddings:
        pruner = method(
            states="embeddings",
            image_pivots=meta["pivot_image_tokens"],
            text_pivots=meta["pivot_text_tokens"],
        )
        tiles = [Tile(1, last - first) for first, last in meta["spans"]]
    else:
        # the vector's states are behind the final norm
        pruner = method(layer=meta.get("K", 2), set_order=True)
        signals[Signal.PROMPT_KEYS] = vector.tensors["keys"]
        tiles = vector.tiles()
    tokens = vector.tokens(tiles)
    tokens = replace(tokens, features=rows[image], signals=signals)
    stage = Stage(pruner.site(), int(meta["expected_count"]))

    def prompt(keep: Tensor) -> Mapping[str, Tensor]:
        return {"position_ids": torch.cat([text, image[keep]]).sort().values}

    def retold(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The port hands out pivots by place, the engine by norm."""
        if on_embeddings:
            return answers
        pivots = ("image_pivots", "text_pivots")
        return {**answers, **{name: answers[name].sort().values for name in pivots}}

    decoder = None if on_embeddings else Decoder.read(vector)
    yield Case(pruner, (stage,), tokens, decoder=decoder, prompt=prompt, renamed=retold)
