"""The embedded default: miniature models, trained and shipped with the package, and the scenes they
are asked about.
"""

from pathlib import Path

from prunebench.testbed.scenes import KINDS, Question, Scene, SceneObject, ask, sample, scene

_HERE = Path(__file__).parent

DEFAULT = "tiny-qwen2.5-vl"
"""The miniature that is taken where no model is named."""

MODELS: dict[str, Path] = {
    name: _HERE / name for name in (DEFAULT, "tiny-llava-1.5", "tiny-llava-next")
}
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
    "Question",
    "Scene",
    "SceneObject",
    "ask",
    "model_path",
    "sample",
    "scene",
]
