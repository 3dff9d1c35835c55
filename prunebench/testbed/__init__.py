"""The embedded default: miniature models, trained and shipped with the package, and the scenes they
are asked about.
"""

from pathlib import Path
from typing import Literal, get_args

from prunebench.testbed.questions import KINDS, Question, ask, sample
from prunebench.testbed.scenes import Scene, SceneObject, scene

_HERE = Path(__file__).parent

Embedded = Literal[
    "tiny-qwen2.5-vl",
    "tiny-qwen2.5-vl-video",
    "tiny-qwen3-vl",
    "tiny-llava-1.5",
    "tiny-llava-next",
]
"""The names of the miniature LVLMs."""

DEFAULT: Embedded = "tiny-qwen2.5-vl"
"""The model that is meant where none is named."""

MODELS: dict[str, Path] = {name: _HERE / name for name in get_args(Embedded)}
"""Name of each miniature LVLM and its `from_pretrained` folder."""

TOWERS: dict[str, Path] = {"tiny-clip": _HERE / "tiny-clip"}
"""The same for what is no LVLM but part of one: a CLIP, with its text tower."""


def model_path(name: str) -> Path:
    """The folder of a miniature; ValueError naming the known ones otherwise."""
    folders = MODELS | TOWERS
    if name not in folders:
        raise ValueError(f"unknown testbed model {name!r}: known are {', '.join(sorted(folders))}")
    return folders[name]


__all__ = [
    "DEFAULT",
    "KINDS",
    "MODELS",
    "TOWERS",
    "Embedded",
    "Question",
    "Scene",
    "SceneObject",
    "ask",
    "model_path",
    "sample",
    "scene",
]
