"""Fingerprint: a hash over all that changes what a cell measures; a finished cell with another one
is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prunebench.run import provenance
from prunebench.run.backend import Backend, batch_of
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid

MACHINE = ("hardware", "threads")
"""What provenance says of the machine that times depend on."""


def fingerprint(
    cell: Cell,
    grid: Grid,
    backend: Backend,
    task: str,
    method: Sequence[Any],
    machine: Mapping[str, Any],
) -> str:
    """The fingerprint of one cell: `task` is that of its questions, `method` what decides the
    method's answers, and `machine` the provenance, on whose hardware times depend.
    """
    setup = backend.setup
    versions = provenance.versions()
    content: dict[str, Any] = {
        "kind": cell.kind,
        "model": [backend.revision, setup.weights],
        "running": [
            setup.device,
            setup.dtype,
            setup.attention,
            batch_of(grid, backend),
            setup.trust_remote_code,
        ],
        "code": [
            provenance.sources(),
            {name: versions.get(name) for name in provenance.DECIDING},
        ],
        "method": [*method, cell.amount, cell.budget_kind],
        "manner": backend.manner.facts(),
        "task": task,
        "seed": grid.seed,
    }
    # beside the others only where it is not what every cell had before there was a choice
    if cell.budget is not None and cell.budget.nearest:
        content["reach"] = "nearest"
    if setup.quantization != "none":
        content["quantization"] = setup.quantization
    if setup.device_map != "none":
        content["device_map"] = setup.device_map
    if cell.kind == "cost":
        content["cost"] = [asdict(grid.cost), *(machine[name] for name in MACHINE)]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
