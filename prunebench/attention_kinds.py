"""Attention kinds: what the vision encoder looks at, for methods that were made for its CLS
token.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prunebench.reads import Reads
from prunebench.signals import Signal
from prunebench.tokens import VisualTokens

KINDS = ("auto", "cls", "received")


def check_attention(kind: str) -> None:
    """Raise ValueError for a setting `attention` that is none of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"attention is {kind!r}; it is 'auto', 'cls' or 'received'")


def attention_reads(kind: str, blocks: Sequence[int] = ()) -> Reads:
    """What a method reads for its setting `attention`, in these encoder blocks or in the one that
    the projector reads.

    "cls" is the attention that the CLS token pays, "received" what a token's patches receive from
    all queries, and "auto" the first where the encoder has a CLS token, else the second.
    """
    signal = Signal.RECEIVED_ATTENTION if kind == "received" else Signal.CLS_ATTENTION
    return Reads(frozenset({signal}), blocks={signal: tuple(blocks)} if blocks else {})


def attention_stand_ins(kind: str) -> dict[Signal, Signal]:
    """What `Pruner.stand_ins` says for the setting `attention`."""
    return {Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION} if kind == "auto" else {}


def encoder_attention(tokens: VisualTokens) -> Tensor:
    """[B, H, N] what `attention_reads` asked for, in float32: of the two the one that is shown."""
    of_cls = Signal.CLS_ATTENTION in tokens.signals
    attention = tokens.cls_attention if of_cls else tokens.received_attention
    return attention.float()
