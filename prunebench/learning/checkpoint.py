"""Checkpoint: the sealed file from which a training run goes on.

`checkpoint.pt` alone decides how a run goes on. It says which run it belongs to, and carries a
digest of all its content; `log.csv` is written anew from it whenever a run goes on, so that a
damaged, edited or missing log changes nothing.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.border.text import message, one_line
from prunebench.learning.folder import RunError, short
from prunebench.learning.log import Row

NAME = "checkpoint.pt"

VERSION = 1

FORMAT, IDENTITY, SEAL = "format", "identity", "seal"
"""What the file holds beside the parts of a State."""


@dataclass
class State:
    """Where a run stands.

    `log` holds the lines so far and `totals` the figures of the steps since the last one, so that a
    run that goes on writes the very lines of one that never stopped. `facts` are plain data that
    the caller wants back.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    log: list[Row] = field(default_factory=list)
    totals: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def sealed(identity: Mapping[str, Any], state: State) -> bytes:
    """The content of a checkpoint file."""
    content: dict[str, Any] = {FORMAT: VERSION, IDENTITY: dict(identity)}
    for part in fields(State):
        content[part.name] = getattr(state, part.name)
    content = _on_cpu({**content, SEAL: digest(content)})
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def unsealed(path: Path, remedy: str) -> tuple[dict[str, Any], State]:
    """The identity and the state of a checkpoint file.

    Raises RunError, which ends with the `remedy`, where the file is not what `sealed` gave.
    """
    if not path.is_file():  # reading a pipe would never end
        raise RunError(f"{short(path)} is no file: {remedy}")
    try:
        with warnings.catch_warnings():
            # what torch wonders about a damaged file, the error says
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    # what a damaged archive makes torch raise is as various as the damage
    except Exception as error:
        damage = one_line(message(error), 60)
        raise RunError(f"{short(path)} is damaged ({damage}): {remedy}") from error
    readable = isinstance(content, dict) and {FORMAT, SEAL} <= content.keys()
    if not readable or content[FORMAT] != VERSION:
        raise RunError(f"{short(path)} is no checkpoint of this version: {remedy}")
    names = [part.name for part in fields(State)]
    body = {name: value for name, value in content.items() if name != SEAL}
    if body.keys() != {FORMAT, IDENTITY, *names} or content[SEAL] != digest(body):
        raise RunError(f"{short(path)} is not what was written, it was changed since: {remedy}")
    return content[IDENTITY], State(**{name: content[name] for name in names})


def digest(value: Any) -> str:
    """sha256 over nested plain data and tensors: names, types, shapes and contents, in order."""
    state = sha256()
    for part in _parts(value):
        state.update(part)
    return state.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """What of a value goes into its digest, piece by piece."""
    if isinstance(value, Tensor):
        # kinds and lengths go in, too: ["ab"] and ["a", "b"] must not read alike
        yield f"tensor {value.dtype} {list(value.shape)}\n".encode()
        # flat first, for a view as bytes needs a dimension
        flat = value.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}\n".encode()
        for name, part in value.items():
            yield from _parts(name)
            yield from _parts(part)
    elif isinstance(value, list | tuple):
        yield f"sequence {len(value)}\n".encode()
        for part in value:
            yield from _parts(part)
    else:
        yield f"{type(value).__name__} {value!r}\n".encode("utf-8", "surrogatepass")


def _on_cpu(value: Any) -> Any:
    """Nested plain data with every tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _on_cpu(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value))
    return value
