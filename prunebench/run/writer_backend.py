"""Writer's backend: a model as the process has it that writes a study while others answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from prunebench.run.backend import ModelSetup
from prunebench.run.transformers_backend import TransformersBackend


class WriterBackend(TransformersBackend):
    """A model on the CPU, for here it answers nothing."""

    @classmethod
    def load(cls, setup: ModelSetup) -> Self:
        """Load the model where it is in no worker's way, under the setup that workers have."""
        if setup.device == "cpu":
            return super().load(setup)
        plain = replace(
            setup, device="cpu", attention="sdpa", quantization="none", device_map="none"
        )
        return replace(super().load(plain), setup=setup)
