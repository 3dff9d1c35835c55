"""Conventions: what a request's FLOPs are by formulas that papers print, and what each leaves out.

They are here so that a printed number can be recognised; the bill is what a run costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prunebench.pricing.bill import Lengths

Formula = Callable[[Any, Lengths], int]


@dataclass(frozen=True)
class Convention:
    """A formula by the name of who uses it, as it is written, where it stands, and what it leaves
    out.
    """

    name: str
    formula: Formula
    expression: str
    source: str
    leaves_out: str


def _fastv(text_config: Any, lengths: Lengths) -> int:
    width, inner = text_config.hidden_size, text_config.intermediate_size
    return sum(4 * n * width**2 + 2 * n**2 * width + 2 * n * width * inner for n in lengths.rows)


def _sparsevlm(text_config: Any, lengths: Lengths) -> int:
    width, inner = text_config.hidden_size, text_config.intermediate_size
    return sum(4 * n * width**2 + 2 * n**2 * width + 3 * n * width * inner for n in lengths.rows)


def _glimpseprune(text_config: Any, lengths: Lengths) -> int:
    width, inner = text_config.hidden_size, text_config.intermediate_size
    heads = text_config.num_attention_heads
    keys = text_config.num_key_value_heads * (width // heads)
    total = 0
    for visual in lengths.entering:
        # behind the first pruning its script goes on with the visual tokens alone
        n = visual + lengths.text if visual == lengths.available else visual
        total += 2 * n * (width**2 + 2 * width * keys) + 4 * n**2 * width
        total += 2 * n * width**2 + 6 * n * width * inner
    return total


CONVENTIONS: Mapping[str, Convention] = {
    one.name.lower(): one
    for one in (
        Convention(
            "FastV",
            _fastv,
            "sum over layers of 4nd^2 + 2n^2d + 2ndm",
            "FastV (2403.06764), section on FLOPs; DivPrune's tflops.py",
            "multiply-adds under the name of FLOPs, half of what they are; the third matrix of "
            "SwiGLU; that fewer key heads are projected; vision encoder, projector, selection and "
            "what it reads, LM head, decoding (DivPrune's script also the system prompt)",
        ),
        Convention(
            "SparseVLM",
            _sparsevlm,
            "sum over layers of 4nd^2 + 2n^2d + 3ndm",
            "SparseVLM's modelling_sparse_llama.py",
            "multiply-adds under the name of FLOPs, half of what they are; that fewer key heads "
            "are projected; vision encoder, projector, raters, clustering and what they read, LM "
            "head, decoding",
        ),
        Convention(
            "GlimpsePrune",
            _glimpseprune,
            "sum over layers of 2n(d^2 + 2d d_kv) + 4n^2d + 2nd^2 + 6ndm",
            "GlimpsePrune's cal_flops.py",
            "all text behind the first pruned layer, for n is then the visual tokens alone; vision "
            "encoder, projector, predictor, LM head, decoding",
        ),
    )
}
"""The formulas by their names in small letters."""
