"""Turns: a conversation that `generate` takes on from the cache that earlier turns have filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.cache import checked
from prunebench.engine.options import prompt_of
from prunebench.engine.stream import EngineError

IDS = ("input_ids", "inputs")
"""The names by which `generate` takes a prompt."""


def is_filled(cache: Any) -> bool:
    """Whether a conversation is to go on from something."""
    return cache is not None and checked(cache).get_seq_length() > 0


def further_turn(
    inputs: Mapping[str, Any], context: Tensor, vision: Sequence[str]
) -> dict[str, Any]:
    """The arguments of a call of `generate` that goes on behind the tokens `context` [B, n], which
    the cache holds, without the images among them; `vision` are the names of those.

    `inputs` are the whole conversation, or what is new in it with a mask over all of it. Raises
    EngineError where that is no further turn of what the cache holds.
    """
    ids, mask = prompt_of(inputs), inputs.get("attention_mask")
    if not isinstance(ids, Tensor):
        raise EngineError("a further turn needs input_ids: the conversation so far and what is new")
    whole = ids.shape[1]
    if isinstance(mask, Tensor) and mask.shape[1] > whole:
        whole = mask.shape[1]  # only what is new was given
    else:
        _check_known(ids, context)
    length = context.shape[1]
    if whole <= length:
        raise EngineError(
            f"the conversation has {whole} tokens and the cache holds {length}; give what came "
            "before and the further turn behind it"
        )
    if ids.shape[1] not in (whole, whole - length):
        raise EngineError(
            f"the cache holds {length} tokens of a conversation of {whole}, and {ids.shape[1]} "
            f"were given; give all of them, or the {whole - length} that are new"
        )
    if isinstance(mask, Tensor) and not bool(mask[:, length:].all()):
        raise EngineError(
            "a further turn is padded in some samples; continue one conversation at a time"
        )
    arguments = {}
    for name, value in inputs.items():
        # whatever is context of every token is cut like the ids; other tensors are of images
        of_tokens = not isinstance(value, Tensor) or value.shape == (len(ids), whole)
        of_images = name in vision or name == "mm_encoder_outputs"
        if name in IDS or (of_tokens and not of_images):
            arguments[name] = value
    return arguments


def new_in(inputs: Mapping[str, Any], context: Tensor) -> Tensor:
    """[B, k] the tokens of a further turn, of arguments that `further_turn` has checked."""
    ids, mask = prompt_of(inputs), inputs.get("attention_mask")
    alone = isinstance(mask, Tensor) and mask.shape[1] > ids.shape[1]
    new: Tensor = ids if alone else ids[:, context.shape[1] :]
    return new


@contextmanager
def said_to_hold(cache: Any, length: int) -> Iterator[None]:
    """Let a cache say that it holds so many tokens; `generate` cuts a conversation to what is new
    by that, and a pruned cache holds fewer than were read.
    """
    cache.get_seq_length = lambda layer_idx=0: length
    try:
        yield
    finally:
        del cache.get_seq_length


def _check_known(ids: Tensor, context: Tensor) -> None:
    """Raise EngineError where a conversation does not begin with the tokens that were read."""
    count = min(ids.shape[1], context.shape[1])
    if len(ids) != len(context):
        raise EngineError(
            f"the cache holds {len(context)} conversations, and {len(ids)} were given"
        )
    differ = (ids[:, :count] != context[:, :count].to(ids)).any(0).nonzero()[:, 0]
    if len(differ):
        raise EngineError(
            f"the conversation differs at position {int(differ[0])} from the one that the cache "
            "holds (a chat template may rewrite an answer); append the further turn to the "
            "sequences that generate put out"
        )


def joined(parts: Sequence[Tensor]) -> Tensor:
    """[B, n] tokens that were read one after the other."""
    return torch.cat(list(parts), dim=1)
