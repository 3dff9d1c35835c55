"""The embedded default: miniature LVLMs, trained and shipped with the package, and the scenes they are asked about."""

from pathlib import Path

from prunebench.testbed.scenes import KINDS, Question, Scene, SceneObject, ask, sample, scene

MODELS: dict[str, Path] = {"tiny-qwen2.5-vl": Path(__file__).parent / "tiny-qwen2.5-vl"}
"""Name of each miniature and its `from_pretrained` folder."""


def model_path(name: str) -> Path:
    """The folder of a miniature; ValueError naming the known ones otherwise."""
    if name not in MODELS:
        raise ValueError(f"unknown testbed model {name!r}: known are {', '.join(sorted(MODELS))}")
    return MODELS[name]


__all__ = ["KINDS", "MODELS", "Question", "Scene", "SceneObject", "ask", "model_path", "sample", "scene"]
