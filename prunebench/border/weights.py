"""Weights: whether stored tensors are those a module is made of, and whether all are finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISREG

import torch
from torch import Tensor

from prunebench.border.text import one_line

Shape = tuple[int, ...]

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, length and inode of every file, by which a folder is known to be as it was.
"""

NAMED = 2
"""How many tensors a message names of each kind."""


def misfit(
    missing: Iterable[str], unexpected: Iterable[str], resized: Mapping[str, tuple[Shape, Shape]]
) -> str | None:
    """What is wrong with stored tensors, in words that follow "the weights"; None where nothing is.

    `missing` are the names that the module has and the file has not, `unexpected` the other way
    round; `resized` are the shapes of the rest that differ, as stored and as due.
    """
    changed = []
    for name, (stored, due) in sorted(resized.items()):
        changed.append(f"{name} {list(stored)} for {list(due)}")
    parts = [
        _some("lack {} tensor{}", sorted(missing)),
        _some("hold {} unexpected tensor{}", sorted(unexpected)),
        _some("hold {} tensor{} of another size", changed),
    ]
    return "; ".join(part for part in parts if part) or None


def compared(due: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str | None:
    """The same of a state dict and what a file holds; whole numbers where floats are due are wrong,
    too.
    """
    shared = due.keys() & stored.keys()
    resized: dict[str, tuple[Shape, Shape]] = {}
    for name in shared:
        shapes = tuple(stored[name].shape), tuple(due[name].shape)
        if shapes[0] != shapes[1]:
            resized[name] = shapes
    wrong = misfit(due.keys() - shared, stored.keys() - shared, resized)
    if wrong is not None:
        return wrong
    whole = sorted(name for name in shared if _rounded(due[name], stored[name]))
    return _some("hold {} tensor{} of whole numbers", whole)


def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite; None where there is none.

    Reads every value once and allocates nothing. Tensors without data and those of whole numbers
    are passed over.
    """
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
            continue
        values = tensor.detach()
        if values.element_size() == 1:  # torch has no extremes of eight-bit floats
            values = values.float()
        low, high = torch.aminmax(values)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            return name
    return None


def stamp(folder: Path) -> Stamp:
    """The state of a folder's files and of those in its folders; raises OSError, also for a pipe or
    device among them.
    """
    paths = list(folder.iterdir())
    for inner in list(paths):
        if inner.is_dir():
            paths += inner.iterdir()
    entries = []
    for path in paths:
        if path.is_dir() or not path.exists():  # a link may lead nowhere
            continue
        state = path.stat()
        if not S_ISREG(state.st_mode):
            raise OSError(f"{one_line(path.name, 80)} is no file but a pipe or device")
        entries.append((str(path), state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(sorted(entries))


def _rounded(due: Tensor, stored: Tensor) -> bool:
    return due.is_floating_point() and not stored.is_floating_point()


def _some(what: str, names: list[str]) -> str | None:
    """`what` with the count in it, and the first names; None for none."""
    if not names:
        return None
    count = len(names)
    listed = ", ".join(one_line(name, 90) for name in names[:NAMED])
    if count > NAMED:
        listed += f" and {count - NAMED} more"
    plural = "s" if count > 1 else ""
    return f"{what.format(count, plural)} ({listed})"
