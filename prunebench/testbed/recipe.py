"""What a training run is made of: its steps, its losses and their weights."""

from dataclasses import dataclass, field

from prunebench.testbed.tiny_qwen import TinyQwenConfig

TRAINING_STREAM = 10_000_000
"""Training draws its scenes from the stream TRAINING_STREAM + seed; smaller seeds are free for held-out scenes."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learnt; the defaults are those the shipped run ended with (see its card)."""

    vision_steps: int = 3000
    joint_steps: int = 5500
    tokens: int = 1024  # visual tokens in a batch
    questions: int = 8  # behind each image
    colour_keyed: int = 2  # of these name a colour alone
    learning_rate: float = 1e-3
    warmup: int = 100  # steps, at the start of each stage
    decay: float = 0.3  # share of the steps, at the end, in which the learning rate falls linearly
    weight_decay: float = 0.05
    background: float = 0.1  # weight of tokens that show nothing in the dense loss
    digit: float = 2.0  # weight of the digit labels in the dense loss
    dense: float = 0.5  # weight of the dense loss beside the answers
    evidence: float = 1.0  # weight of -log(attention on the evidence)
    evidence_heads: int = 3
    sizes: TinyQwenConfig = field(default_factory=TinyQwenConfig)

    @property
    def steps(self) -> int:
        """Both stages together."""
        return self.vision_steps + self.joint_steps

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        since = step if step < self.vision_steps else step - self.vision_steps
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (since + 1) / self.warmup, 0.02 + 0.98 * left)
