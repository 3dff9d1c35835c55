"""Loaded: a model ready to run, with its processor and its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunebench.border.text import one_line
from prunebench.models.base import Family
from prunebench.models.harness import OWN, Manner
from prunebench.models.inputs import Message, new_texts, process, user_message
from prunebench.models.placement import devices_of, entry_of

if TYPE_CHECKING:
    from prunebench.border.images import Source


@dataclass(frozen=True, repr=False)
class Loaded:
    """A model ready to run.

    `name` is what it was asked for by, `id` the hub's or a local folder's name; `revision` the
    hub's commit, or the weights' hash. `model` and `processor` are stock objects of transformers.
    `trust_remote_code` says whether code that came with the model was allowed to run; `manner` how
    it is asked.
    """

    name: str
    id: str
    model: Any
    processor: Any
    family: Family
    revision: str
    trust_remote_code: bool = False
    manner: Manner = OWN

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return entry_of(self.model)

    def inputs(self, image: Source, question: str) -> dict[str, Any]:
        """A question about an image as what `model.generate` takes, in the model's own chat format.

        The image is one that is open already, or a file. Raises ImageError where it cannot be read.
        """
        from prunebench.border import images

        return self.process([user_message(images.load(image), question)])

    def process(
        self, conversations: Sequence[list[Message]], *, fitted: bool = False
    ) -> dict[str, Any]:
        """Whole conversations as what `model.generate` takes, a row each, padded on the left and on
        the model's device; images that are `fitted` are of their final size. Raises VideoError
        where a video cannot be read.
        """
        from prunebench.models.clips import with_clips  # late, for it knows what is loaded

        chats = [with_clips(self, conversation) for conversation in conversations]
        side = self.family.token_pixels(self.model)
        batch = process(self.processor, chats, self.manner, side, fitted)
        inputs = dict(batch.to(self.device))
        for name, value in inputs.items():
            # one processor makes bfloat16, whatever its model computes in
            if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
                inputs[name] = value.to(self.model.dtype)
        return inputs

    def text(self, output: Any, inputs: Mapping[str, Any]) -> str:
        """What `model.generate` answered to `inputs`, without the prompt that its output repeats.

        Raises ValueError where `output` holds several answers.
        """
        texts = new_texts(self.processor, inputs, output)
        if len(texts) != 1:
            raise ValueError(f"the output holds {len(texts)} answers; text() reads one")
        return texts[0]

    def __repr__(self) -> str:
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"<Loaded {one_line(self.name, 80)}: {self.family.name}, {millions:,.1f} M parameters, "
            f"{dtype} on {' and '.join(devices_of(self.model))}, revision {self.revision}>"
        )
