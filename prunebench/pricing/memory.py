"""Memory: bytes of weights and of keys and values, and how many requests have room for theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunebench.pricing.bill import Lengths
from prunebench.pricing.public import Parameters
from prunebench.pricing.subject import Subject

GIGABYTE = 10**9

WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number, by its type."""


@dataclass(frozen=True)
class Footprint:
    """What a request and the model take, in bytes.

    `cache` are the keys and values of one request when its answer is complete, `prompt_cache` those
    right behind the prefill.
    """

    weights: int
    prompt_cache: int
    cache: int

    def fits(self, gigabytes: float, usable: float) -> int:
        """How many requests have room for their keys and values beside the weights, in that share
        of the memory; 0 where the weights alone do not fit.
        """
        room = gigabytes * GIGABYTE * usable - self.weights
        return max(0, int(room // self.cache)) if room > 0 else 0


def footprint(subject: Subject, lengths: Lengths, steps: int, dtype: str) -> Footprint:
    """What a request of these lengths takes, whose answer has `steps` tokens behind its first."""
    width, entry = WIDTHS[dtype], entry_bytes(subject.text_config, WIDTHS[dtype])
    prompt = sum(rows * entry for rows in lengths.kept_rows)
    # the last token of an answer is never read again, so that it leaves nothing
    answer = steps * entry * len(lengths.kept_rows)
    return Footprint(weight_bytes(subject.parameters, width), prompt, prompt + answer)


def weight_bytes(parameters: Parameters, width: int) -> int:
    """Bytes of all weights, each number so many wide."""
    return parameters.total * width


def entry_bytes(text_config: Any, width: int) -> int:
    """Bytes that one token leaves in one layer's cache: a key and a value of every key head."""
    heads = text_config.num_attention_heads
    head_width = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return int(2 * text_config.num_key_value_heads * head_width * width)
