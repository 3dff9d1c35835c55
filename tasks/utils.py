"""What the built-in tasks' YAML files refer to."""

from typing import Any


def visual(doc: dict[str, Any]) -> list[Any]:
    """The scene, as the one image of the question."""
    return [doc["image"].convert("RGB")]
