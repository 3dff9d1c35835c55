"""Options: ways to generate that no seam of the engine serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunebench.engine.stream import EngineError


@dataclass(frozen=True)
class Refusal:
    """An option of `generate`, for which values it is refused, and why.

    `argument_only` means that the option is never read from a generation config.
    """

    option: str
    refused: Callable[[Any], bool]
    reason: str
    argument_only: bool = False


def _is_set(value: Any) -> bool:
    return value is not None


REFUSALS = (
    Refusal(
        "guidance_scale",
        lambda value: value not in (None, 1, 1.0),
        "asks the model a second time without the image (classifier-free guidance)",
    ),
    Refusal("negative_prompt_ids", _is_set, "asks the model a second time"),
    Refusal("prefill_chunk_size", _is_set, "reads the prompt in parts (chunked prefill)"),
    Refusal("custom_generate", _is_set, "decodes in a way of its own"),
    Refusal("penalty_alpha", bool, "searches contrastively, with several answers a step"),
    Refusal("assistant_early_exit", _is_set, "drafts with the pruned model itself"),
    Refusal("use_cache", lambda value: value is False, "would prune anew at every step"),
    Refusal(
        "inputs_embeds",
        _is_set,
        "hides which tokens are visual; pass input_ids",
        argument_only=True,
    ),
)


NOT_IN_A_FURTHER_TURN = ("assistant_model", "prompt_lookup_num_tokens")
"""Options with which `generate` reads a conversation anew from its beginning, whatever the cache
holds.
"""


def check_further_turn(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Raise EngineError for an option that a further turn on a filled cache cannot have."""
    for option in NOT_IN_A_FURTHER_TURN:
        if option_value(model, inputs, option) is not None:
            raise EngineError(
                f"a further turn was given {option}, with which generate reads the whole "
                "conversation again; leave it out there, or past_key_values"
            )


def check_options(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Raise EngineError for an option that is refused, before it fails as something else."""
    for refusal in REFUSALS:
        value = inputs.get(refusal.option)
        if not refusal.argument_only:
            value = option_value(model, inputs, refusal.option)
        if refusal.refused(value):
            plain = not isinstance(value, Tensor) and not callable(value)
            setting = f"{refusal.option}={value!r}" if plain else refusal.option
            raise EngineError(
                f"generate was given {setting}, which {refusal.reason}: not supported inside "
                "prune(...)"
            )


def option_value(model: nn.Module, inputs: Mapping[str, Any], name: str) -> Any:
    """An option as `generate` will read it: argument, its config, or the model's."""
    configs = (inputs.get("generation_config"), getattr(model, "generation_config", None))
    for config in configs:
        value = inputs.get(name, getattr(config, name, None))
        if value is not None:
            return value
    return None


def prompt_of(inputs: Mapping[str, Any]) -> Any:
    """The ids of the prompt, which `generate` takes by two names."""
    ids = inputs.get("input_ids")
    return ids if ids is not None else inputs.get("inputs")
