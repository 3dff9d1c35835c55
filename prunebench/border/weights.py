"""Weights: whether stored tensors are those that a module is made of, and whether they are numbers."""

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
    changed = [
        f"{name} {list(stored)} for {list(due)}" for name, (stored, due) in sorted(resized.items())
    ]
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
    shapes = {name: (tuple(stored[name].shape), tuple(due[name].shape)) for name in shared}
    resized = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    wrong = misfit(due.keys() - shared, stored.keys() - shared, resized)
    if wrong is not None:
        return wrong
    return _some(
        "hold {} tensor{} of whole numbers",
        sorted(name for name in shared if _rounded(due[name], stored[name])),
    )


def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite; None where there is none.

    Reads every value once and allocates nothing. Tensors without data and those of whole numbers
    are passed over.
    """
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
            continue
        values = tensor.detach()
        low, high = torch.aminmax(values if values.element_size() > 1 else values.float())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            return name
    return None


def stamp(folder: Path) -> Stamp:
    """The state of a folder's files and of those in its folders; raises OSError, also for a pipe or
    device among them.
    """
    paths = [path for path in folder.iterdir() if path.exists()]
    paths += [
        inner for path in paths if path.is_dir() for inner in path.iterdir() if inner.exists()
    ]
    states = [(path, path.stat()) for path in paths if not path.is_dir()]
    odd = next((path for path, state in states if not S_ISREG(state.st_mode)), None)
    if odd is not None:
        raise OSError(f"{one_line(odd.name, 80)} is no file but a pipe or device")
    return tuple(
        sorted(
            (str(path), state.st_mtime_ns, state.st_size, state.st_ino) for path, state in states
        )
    )


def _rounded(due: Tensor, stored: Tensor) -> bool:
    return due.is_floating_point() and not stored.is_floating_point()


def _some(what: str, names: list[str]) -> str | None:
    """`what` with the count in it, and the first names; None for none."""
    if not names:
        return None
    shown = ", ".join(one_line(name, 90) for name in names[:NAMED])
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what.format(len(names), 's' if len(names) > 1 else '')} ({shown}{rest})"
