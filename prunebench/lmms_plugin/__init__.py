"""Inside lmms-eval: `--model prunebench` runs a pruned model under lmms-eval's own command.

lmms-eval finds it by the entry point group `lmms_eval.models`; nothing is imported before it asks.
"""

from __future__ import annotations

from typing import Any

MODEL = "prunebench"
"""What the model is called there."""


def manifest() -> Any:
    """What lmms-eval registers: the model's name, and where its class lies."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, chat_class_path=f"{__name__}.model.PrunedModel")
