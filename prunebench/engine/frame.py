"""Frame: what a decoder's layers are given in place of what was made for the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Kwargs = dict[str, Any]
"""The keyword arguments of a module's call."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The arguments that follow from one thinned stream, the same for all its layers.

    `ids` [.., B, n] are its position ids, `shift` [.., B, 1] says how far they moved at the end of
    the prompt (None: not at all), `tables` are the rotary tables of `ids`, `own` is the layer's own
    position_ids argument, `mask` as the kernel takes it.
    """

    ids: Tensor
    shift: Tensor | None
    tables: Any
    own: Tensor | None
    mask: Tensor | None

    def fitted(self, kwargs: Kwargs) -> Kwargs:
        """A layer's arguments with those that fit the stream.

        Every layer behind the stage needs it: the decoder's loop hands each the full sequence's.
        """
        changed = {**kwargs, "position_embeddings": self.tables, "attention_mask": self.mask}
        if "position_ids" in kwargs:
            changed["position_ids"] = self.own
        return changed
