"""Products of tokens with each other are those of the plain matrix product."""

from __future__ import annotations

import pytest
import torch

from prunebench import ProductRows, gram


@pytest.mark.parametrize("count", [1, 255, 256, 600])
def test_gram_is_the_product(count: int) -> None:
    vectors = torch.randn(count, 7, dtype=torch.float64)
    torch.testing.assert_close(gram(vectors), vectors @ vectors.T)


def test_rows_are_those_of_the_product_whatever_was_promised() -> None:
    vectors = torch.randn(100, 7, dtype=torch.float64)
    products, rows = vectors @ vectors.T, ProductRows(vectors, 1)
    for pick in [99, 3, 50, 51, 0, 3]:
        promise = torch.arange(100.0) if pick % 2 else -torch.arange(100.0)
        row = rows.row(torch.tensor([pick]), promise)
        torch.testing.assert_close(row, products[pick])
