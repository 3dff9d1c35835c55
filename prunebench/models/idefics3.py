"""Idefics3 and the first SmolVLM: SmolVLM2's tiles and markers, without videos."""

from __future__ import annotations

from prunebench.models.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    """`Idefics3ForConditionalGeneration`."""

    name = "Idefics3"
    model_types = frozenset({"idefics3"})
    aliases = {
        "idefics3": "HuggingFaceM4/Idefics3-8B-Llama3",
        "idefics3-8b": "HuggingFaceM4/Idefics3-8B-Llama3",
        "smolvlm": "HuggingFaceTB/SmolVLM-Instruct",
        "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
        "smolvlm-500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
        "smolvlm-2.2b": "HuggingFaceTB/SmolVLM-Instruct",
    }
