"""Frame: what a decoder's layers are given in place of what was made for the whole sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunebench.models.base import STATEFUL

Kwargs = dict[str, Any]
"""The keyword arguments of a module's call."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The arguments that follow from one thinned stream, the same for all its layers.

    `masks` are, by kind of layer, as the kernel takes them, and `tokens` [B, n] bool what of the
    stream is no padding, None where all is: what layers take that keep a state. `ids` [.., B, n]
    are the stream's position ids, `shift` [.., B, 1] says how far they moved at the end of the
    prompt (None: not at all), `tables` are the rotary tables of `ids` by kind of layer, and `own`
    is the layer's own position_ids argument. Without `ids` the stream has the positions that the
    layers are given anyway.
    """

    masks: Mapping[str, Tensor | None]
    tokens: Tensor | None = None
    ids: Tensor | None = None
    shift: Tensor | None = None
    tables: Mapping[str, Any] | None = None
    own: Tensor | None = None

    def fitted(self, kwargs: Kwargs, kind: str) -> Kwargs:
        """The arguments of a layer of that kind with those that fit the stream.

        Every layer behind the stage needs it: the decoder's loop hands each the full sequence's.
        """
        changed = {
            **kwargs,
            "attention_mask": self.tokens if kind in STATEFUL else self.masks[kind],
        }
        if self.ids is None or self.tables is None:
            return changed
        changed["position_embeddings"] = self.tables[kind]
        if "position_ids" in kwargs:
            changed["position_ids"] = self.own
        return changed
