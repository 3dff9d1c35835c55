"""Encoders: what methods made for vision encoders with a CLS token read where there is none."""

from __future__ import annotations

from prunebench.pruner import Facts

CHOICES = ("auto", "cls", "received")
"""The attention by which a method ranks: what the CLS token pays, or what all patches pay; "auto"
is the CLS token's where the encoder has one.
"""

RECEIVED = "attention that patches receive, in place of what a CLS token pays"
"""What a method says of itself where it reads the latter."""


def check_attention(choice: str) -> None:
    """Raises ValueError for another choice."""
    if choice not in CHOICES:
        raise ValueError(f"attention is {choice!r}; it is 'auto', 'cls' or 'received'")


def attention_of(choice: str, facts: Facts) -> str:
    """The choice for a model, "cls" or "received"."""
    if choice != "auto":
        return choice
    # None: nobody has said, and the paper's is the first guess
    return "received" if facts.cls is False else "cls"
