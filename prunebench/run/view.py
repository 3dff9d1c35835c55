"""View: what `prunebench show` draws, as the keys that can be set."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.border import images
from prunebench.run.keys import key
from prunebench.run.question import DEFAULT_MODEL, DEFAULT_TASK


@dataclass
class View:
    """One picture: what a method keeps of an `image` file, or of a sample of a task."""

    model: str = key(
        DEFAULT_MODEL, "The model: an alias, a hub id or a local folder.", "model=qwen2.5-vl-3b"
    )
    method: str = key(
        "random", "The method, or several with commas between.", "method=fastv,divprune"
    )
    budget: str = key("0.5", "Visual tokens that a run may spend, as in a grid.", "budget=0.25")
    image: str | None = key(None, "An image file; null draws a sample.", "image=photo.jpg")
    question: str = key(
        "", "What is asked about the image file.", "question='What is on the table?'"
    )
    task: str = key(DEFAULT_TASK, "The task that the sample is of.", "task=scenes_fine")
    sample: int = key(0, "The sample's number in the task.", "sample=3")
    out: str = key("show.png", "The file to draw into.", "out=kept.png")
    seed: int = key(0, "The number that whatever is random starts from.", "seed=1")
    max_image_pixels: int = key(
        images.MAX_PIXELS,
        "Images with more pixels are not decoded.",
        "max_image_pixels=50000000",
    )
    trust_remote_code: bool = key(
        False, "Whether code in the model's own folder may run.", "trust_remote_code=true"
    )
