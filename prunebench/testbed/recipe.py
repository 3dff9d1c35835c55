"""Recipe: what the training of a miniature is made of: its steps, its losses and their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prunebench.border.bounds import check, number, whole
from prunebench.learning.schedule import STEPS, staged_rate
from prunebench.testbed.questions import KINDS, TURN
from prunebench.testbed.tiny_clip import TinyClipConfig
from prunebench.testbed.tiny_llava import TinyLlavaConfig
from prunebench.testbed.tiny_qwen import TinyQwenConfig
from prunebench.testbed.tiny_qwen3 import TinyQwen3Config


@dataclass(frozen=True)
class Recipe:
    """What the recipes of all miniatures have; raises BoundsError for a value that cannot be."""

    learning_rate: float = number(1e-3, 0, open_below=True)
    warmup: int = whole(100, 1, STEPS)  # steps, at the start of each stage
    decay: float = 0.3  # share of the steps, at the end, in which the learning rate falls linearly
    weight_decay: float = 0.05
    # of products; a CPU without AVX-512 is several times faster in float32
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    fine: float = 0.0  # share of the steps whose scenes are fine ones
    background: float = 0.1  # weight of tokens that show nothing in the dense loss
    digits: float = 2.0  # weight of the labels of digits in the dense loss

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

    def rate(self, step: int, time_left: float = 1.0) -> float:
        """Learning rate of a step, with that share of the time left."""
        share = staged_rate(step, self.stages, self.warmup, self.decay, time_left)
        return self.learning_rate * share


PLACES = {"side": 3.0, "cell": 3.0, "color": 1.0, "shape": 1.0, "exist": 1.0}
"""How often each kind of question comes where above all places are learnt."""

ALL = {**dict.fromkeys(KINDS, 1.0), "number": 2.0, "side": 2.0, "cell": 2.0}
"""How often each kind of question comes in the end: what is learnt slowly twice as often."""

FINISH = {
    **dict.fromkeys(KINDS, 0.5),
    **dict.fromkeys(("count", "count_by", "number"), 1.5),
    **{"side": 4.0, "cell": 3.0, "odd": 4.0},
}
"""How often each kind of question comes at last, with the eyes as they are: what is still weak."""

LEVELS = {
    "exist": 3,
    "color": 4,
    "shape": 5,
    "largest": 5,
    "count_by": 5,
    "odd": 6,
    "cell": 6,
    "compare": 6,
    "number": 7,
    "side": 7,
    TURN: 6,
}
"""The layer in which each kind of question is to read its evidence, set by hand: left alone, one
layer reads everything, and in real models information moves gradually.
"""

GATES = {"side": 0.7, "cell": 0.6}
"""What must be reached before all kinds are learnt."""


@dataclass(frozen=True)
class LvlmRecipe(Recipe):
    """Everything that decides what an LVLM learns; the defaults are those of tiny-qwen2.5-vl."""

    vision_steps: int = whole(1500, 0, STEPS)
    place_steps: int = whole(2000, 0, STEPS)
    joint_steps: int = whole(12_000, 0, STEPS)
    finish_steps: int = whole(0, 0, STEPS)
    fine: float = 0.03
    tokens: int = whole(4096, 1, 1_000_000)  # visual tokens in a batch
    questions: int = 16  # behind each image
    dense: float = 0.3  # weight of the dense loss beside the answers
    evidence: float = 0.5  # weight of -log(attention on the evidence)
    early: float = 0.1  # weight of attention on the evidence in earlier layers of LEVELS
    evidence_heads: int = 2
    shares: Mapping[str, float] = field(default_factory=lambda: dict(ALL))
    finish: Mapping[str, float] = field(default_factory=lambda: dict(FINISH))
    levels: Mapping[str, int] = field(default_factory=lambda: dict(LEVELS))
    gates: Mapping[str, float] = field(default_factory=lambda: dict(GATES))
    sizes: Any = field(default_factory=TinyQwenConfig)

    @property
    def stages(self) -> tuple[int, ...]:
        """The eyes alone; places, with the eyes as they are; everything; at last what is weak, with
        the eyes as they are.
        """
        return self.vision_steps, self.place_steps, self.joint_steps, self.finish_steps


FILM_LEVELS = {
    **LEVELS,
    **{
        "glimpse": 5,
        "sight": 6,
        "moment": 5,
        "snapshot": 6,
        "start": 7,
        "motion": 7,
        "heading": 8,
        "order": 8,
    },
    **{"picture": 5, "inside": 6, "addition": 7, "alteration": 7, "bigger": 7},
}
"""The same of clips and pairs; which picture has more is left to itself, as counting is."""


CLIPS = {"glimpse": 0.7, "moment": 1.5, "sight": 3.0, "snapshot": 1.0, "start": 0.3}
PAIRS = {"picture": 0.7, "inside": 0.7, "more": 0.8, "bigger": 1.5}
SCENES = {
    **dict.fromkeys(KINDS, 1.0),
    **{"exist": 1.5, "count": 1.5, "count_by": 1.5, "number": 1.5},
    **{"odd": 1.5, "side": 2.0, "cell": 2.0},
}
"""How often each kind of question about clips, pairs and scenes comes."""


@dataclass(frozen=True)
class FilmRecipe(LvlmRecipe):
    """Everything that decides what an LVLM learns of clips and pairs that knows scenes already; its
    eyes stay as they are.
    """

    learning_rate: float = number(6e-4, 0, open_below=True)
    vision_steps: int = whole(0, 0, STEPS)
    place_steps: int = whole(0, 0, STEPS)
    joint_steps: int = whole(0, 0, STEPS)
    finish_steps: int = whole(20_000, 0, STEPS)
    decay: float = 0.5
    fine: float = 0.02
    tokens: int = whole(1200, 1, 1_000_000)
    questions: int = 8
    film_questions: int = 6  # behind each clip and each pair
    levels: Mapping[str, int] = field(default_factory=lambda: dict(FILM_LEVELS))
    gates: Mapping[str, float] = field(default_factory=dict)
    # share of the steps that are of each
    media: Mapping[str, float] = field(
        default_factory=lambda: {"scenes": 0.5, "clips": 0.35, "pairs": 0.15}
    )
    clips: Mapping[str, float] = field(default_factory=lambda: dict(CLIPS))
    pairs: Mapping[str, float] = field(default_factory=lambda: dict(PAIRS))
    finish: Mapping[str, float] = field(default_factory=lambda: dict(SCENES))


@dataclass(frozen=True)
class ClipRecipe(Recipe):
    """Everything that decides what tiny-clip learns."""

    crowded_steps: int = whole(2500, 0, STEPS)  # with many objects in every scene
    crowded_sizes: int = 7  # how many of the sizes of scenes come in these
    vision_steps: int = whole(1500, 0, STEPS)  # after these
    decay: float = 0.35
    fine: float = 0.15
    images: int = whole(96, 1, 100_000)  # in a batch: thumbnails and tiles of the same scenes
    # after these, of what lies behind the patches alone: the last block and the text tower
    aligned_steps: int = whole(1200, 0, STEPS)
    aligned_images: int = 192  # in a batch of those
    contrast: float = 0.3  # weight of the contrastive loss
    sizes: TinyClipConfig = field(default_factory=TinyClipConfig)

    @property
    def stages(self) -> tuple[int, ...]:
        """Crowded scenes, then those that come; at last what lies behind the patches alone."""
        return self.crowded_steps, self.vision_steps, self.aligned_steps


QWEN3 = LvlmRecipe(place_steps=0, sizes=TinyQwen3Config())
"""tiny-qwen3-vl, whose encoder knows places."""

LLAVA = LvlmRecipe(
    vision_steps=0, place_steps=0, joint_steps=6000, fine=0.0, tokens=6144, sizes=TinyLlavaConfig()
)
"""tiny-llava-1.5, on the tower of tiny-clip."""

LLAVA_NEXT = replace(LLAVA, learning_rate=5e-4, fine=0.25, tokens=8192)
"""tiny-llava-next, from tiny-llava-1.5."""
