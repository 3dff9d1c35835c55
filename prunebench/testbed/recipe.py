"""Recipe: what the training of a miniature is made of: its steps, its losses and their weights."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prunebench.border.bounds import check, number, whole
from prunebench.learning.schedule import STEPS, staged_rate
from prunebench.testbed.tiny_clip import TinyClipConfig
from prunebench.testbed.tiny_llava import TinyLlavaConfig
from prunebench.testbed.tiny_qwen import TinyQwenConfig


@dataclass(frozen=True)
class Recipe:
    """What the recipes of all miniatures have; raises BoundsError for a value that cannot be."""

    learning_rate: float = number(1e-3, 0, open_below=True)
    warmup: int = whole(100, 1, STEPS)  # steps, at the start of each stage
    decay: float = 0.3  # share of the steps, at the end, in which the learning rate falls linearly
    weight_decay: float = 0.05
    # of products; a CPU without AVX-512 is faster in float32
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    fine: float = 0.0  # share of the steps whose scenes are fine ones
    background: float = 0.1  # weight of tokens that show nothing in the dense loss
    digit: float = 2.0  # weight of the digit labels in the dense loss

    sizes: Any = None  # of the model

    def __post_init__(self) -> None:
        check(self)

    @property
    def stages(self) -> tuple[int, ...]:
        """Steps of each stage."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """All stages together."""
        return sum(self.stages)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * staged_rate(step, self.stages, self.warmup, self.decay)


@dataclass(frozen=True)
class LvlmRecipe(Recipe):
    """Everything that decides what an LVLM learns; the defaults are those tiny-qwen2.5-vl ended
    with (see its card).
    """

    vision_steps: int = whole(3000, 0, STEPS)
    joint_steps: int = whole(5500, 0, STEPS)
    tokens: int = 1024  # visual tokens in a batch
    questions: int = 8  # behind each image
    colour_keyed: int = 2  # of these name a colour alone
    dense: float = 0.5  # weight of the dense loss beside the answers
    evidence: float = 1.0  # weight of -log(attention on the evidence)
    evidence_heads: int = 3
    sizes: Any = field(default_factory=TinyQwenConfig)

    @property
    def stages(self) -> tuple[int, ...]:
        """The eyes alone, then the whole model."""
        return self.vision_steps, self.joint_steps


@dataclass(frozen=True)
class ClipRecipe(Recipe):
    """Everything that decides what tiny-clip learns."""

    crowded_steps: int = whole(4600, 0, STEPS)  # with many objects in every scene
    crowded_sizes: int = 5  # how many of the sizes of scenes come in these
    vision_steps: int = whole(350, 0, STEPS)  # after these
    decay: float = 0.35
    precision: Literal["bfloat16", "float32"] = "float32"
    fine: float = 0.15
    images: int = 24  # in a batch: thumbnails and tiles of the same scenes
    # after these, of what lies behind the patches alone: the last block and the text tower
    aligned_steps: int = whole(2000, 0, STEPS)
    aligned_images: int = 96  # in a batch of those
    contrast: float = 0.3  # weight of the contrastive loss
    sizes: TinyClipConfig = field(default_factory=TinyClipConfig)

    @property
    def stages(self) -> tuple[int, ...]:
        """Crowded scenes, then those that come; at last what lies behind the patches alone."""
        return self.crowded_steps, self.vision_steps, self.aligned_steps


LLAVA = LvlmRecipe(
    vision_steps=0,
    joint_steps=900,
    decay=0.5,
    tokens=1024,
    questions=10,
    precision="float32",
    sizes=TinyLlavaConfig(),
)
"""tiny-llava-1.5, on the tower of tiny-clip."""

LLAVA_NEXT = replace(
    LLAVA, joint_steps=1200, decay=0.6, learning_rate=5e-4, tokens=1350, questions=12, fine=0.25
)
"""tiny-llava-next, from tiny-llava-1.5."""
