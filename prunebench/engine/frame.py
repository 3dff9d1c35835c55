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

    `mask` is as the kernel takes it. `ids` [.., B, n] are the stream's position ids, `shift`
    [.., B, 1] says how far they moved at the end of the prompt (None: not at all), `tables` are the
    rotary tables of `ids`, and `own` is the layer's own position_ids argument. Without `ids` the
    stream has the positions that the layers are given anyway.
    """

    mask: Tensor | None
    ids: Tensor | None = None
    shift: Tensor | None = None
    tables: Any = None
    own: Tensor | None = None

    def fitted(self, kwargs: Kwargs) -> Kwargs:
        """A layer's arguments with those that fit the stream.

        Every layer behind the stage needs it: the decoder's loop hands each the full sequence's.
        """
        changed = {**kwargs, "attention_mask": self.mask}
        if self.ids is None:
            return changed
        changed["position_embeddings"] = self.tables
        if "position_ids" in kwargs:
            changed["position_ids"] = self.own
        return changed
