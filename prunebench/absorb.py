"""Absorb: what leaves is taken into what stays."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def nearest(features: Tensor, leaving: Tensor, staying: Tensor) -> Tensor:
    """[n] for every place in `leaving`, the place in `staying` whose row of `features` [N, D] has
    the largest cosine with its own; ties go to the first.
    """
    unit = normalize(features.float(), dim=-1)
    return staying[(unit[leaving] @ unit[staying].T).argmax(1)]


def absorbed(features: Tensor, leaving: Tensor, hosts: Tensor) -> Tensor:
    """[N, D] `features` in float32, those of `hosts` averaged with what joined them: the plain mean
    of a host and all of `leaving` [n] whose entry of `hosts` [n] it is.
    """
    rows = features.float()
    sums = rows.index_add(0, hosts, rows[leaving])
    members = torch.ones_like(rows[:, 0]).index_add(0, hosts, torch.ones_like(rows[leaving, 0]))
    return sums / members[:, None]
