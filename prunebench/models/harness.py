"""Harness: how a model is asked, as lmms-eval's wrapper of its family asks it, or as its own
processor does.

What a wrapper decides beside the model is here a fact of the family: the prompt that tasks have for
it, the settings of generation, the resolution of images, the frames of a video. Facts are those of
lmms-eval 0.7.3, of the wrapper that its own command takes: the chat one where there are two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from prunebench.models.inputs import Message

Name = Literal["lmms-eval", "processor"]

MAX_NEW_TOKENS = 128
"""Where neither the task nor a wrapper says."""

MAX_FRAMES = 32
"""Frames of a video where neither a wrapper nor the model's own processor says."""


@dataclass(frozen=True)
class Harness:
    """What lmms-eval's wrapper of a family does where the user says nothing.

    `wrapper` is its name there, by which tasks know their prompts for it. `system_prompt` is put
    before every conversation; None leaves that to the chat template. `fetches` says that images and
    videos are scaled before the processor sees them, by the rules of qwen-vl-utils; `min_pixels`
    and `max_pixels` are the limits of the processor behind that, None where it scales nothing
    further, and `frame_pixels` those of a frame.
    """

    wrapper: str
    max_new_tokens: int = MAX_NEW_TOKENS
    system_prompt: str | None = None
    fetches: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    frame_pixels: tuple[int, int] | None = None
    max_frames: int = MAX_FRAMES
    fps: float | None = None


@dataclass(frozen=True)
class Wish:
    """What a grid says of it, as plain data; None leaves a setting to the harness."""

    harness: str = "lmms-eval"
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    system_prompt: str | None = None


@dataclass(frozen=True)
class Manner:
    """How one loaded model is asked: a harness and a wish, made out.

    `lacking` says why it is the processor's own manner although lmms-eval's was wished for.
    `max_frames` is None where the processor says how many frames a video has.
    """

    harness: Name = "processor"
    wrapper: str | None = None
    lacking: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    system_prompt: str | None = None
    fetches: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    frame_pixels: tuple[int, int] | None = None
    max_frames: int | None = None
    fps: float | None = None

    @property
    def is_wrapper(self) -> bool:
        """Whether lmms-eval's wrapper is followed."""
        return self.harness == "lmms-eval"

    def facts(self) -> dict[str, Any]:
        """Everything that decides answers, as plain data."""
        facts = asdict(self)
        if self.frame_pixels is not None:
            facts["frame_pixels"] = list(self.frame_pixels)
        return facts

    def introduced(self, conversation: list[Message]) -> list[Message]:
        """The conversation with the system prompt before it."""
        if self.system_prompt is None:
            return conversation
        content = [{"type": "text", "text": self.system_prompt}]
        return [{"role": "system", "content": content}, *conversation]


OWN = Manner()
"""The processor's own, as a model is asked outside a study."""
