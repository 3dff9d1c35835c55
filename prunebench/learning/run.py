"""Run: an open folder of a training run, with its checkpoint and log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.learning import checkpoint, log
from prunebench.learning.checkpoint import State, sealed, unsealed
from prunebench.learning.folder import (
    RunError,
    check_places,
    discard,
    locked_folder,
    replaced,
    short,
    storing,
    tidy,
)
from prunebench.learning.log import Log


@contextmanager
def open_run(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    writes: Sequence[str],
    folders: Sequence[str],
    way_out: str,
) -> Iterator[Run]:
    """Make the folder of a run and hold it, for one process.

    `identity` is what makes the run this run. `writes` names the files that the run puts into the
    folder beside its checkpoint and log, `folders` those that it fills as a whole; `way_out` says
    how to choose another folder. Raises RunError where the folder cannot be made or written, where
    another process writes to it, and where something else lies in the place of what is to be
    written, a link above all. A folder that is new and stays empty is removed again.
    """
    with locked_folder(folder, way_out):
        check_places(folder, (checkpoint.NAME, log.NAME, *writes), folders, way_out)
        tidy(folder, folders)
        yield Run(folder, identity, way_out)


class Run:
    """An open run folder; `open_run` gives it. `identity` is what makes the run this run, as plain
    data.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], way_out: str) -> None:
        self.folder = folder
        # through JSON: plain data is all that a checkpoint may hold, paths become text
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity), default=str))
        self.way_out = way_out
        self.log = Log(folder / log.NAME)

    def resume(self, steps: int) -> State | None:
        """The run's last state, None where it has not begun.

        Raises RunError where the checkpoint is not what a run wrote, belongs to another run, or
        lies behind the last of the `steps`.
        """
        path = self.folder / checkpoint.NAME
        if not path.exists():
            return None
        remedy = f"remove it, or {self.way_out}"
        identity, state = unsealed(path, remedy)
        self._compare(identity)
        if state.step > steps:
            where = f"{short(path)} stands at step {state.step}, and this run has {steps}"
            raise RunError(f"{where}: {remedy}")
        return state

    def start_over(self) -> None:
        """Forget the run so far."""
        path = self.folder / checkpoint.NAME
        with storing(path):
            discard(path)

    def save(self, state: State) -> None:
        """Write the checkpoint, whole or not at all."""
        self.write(checkpoint.NAME, sealed(self.identity, state))

    def write(self, name: str, data: bytes) -> Path:
        """Put a file into the folder, whole or not at all."""
        with storing(self.folder / name):
            return files.write(self.folder / name, data)

    def replaced(self, name: str) -> AbstractContextManager[Path]:
        """An empty folder to fill, which in the end takes the place of the run's folder `name`; not
        where the block fails.
        """
        return replaced(self.folder / name)

    def _compare(self, there: Mapping[str, Any]) -> None:
        """Raise RunError naming the first difference to a checkpoint that is another run's."""
        ours, theirs = _flat(self.identity), _flat(there)
        for name in dict.fromkeys([*ours, *theirs]):
            # as text, because NaN is not equal to itself
            if _text(ours.get(name)) != _text(theirs.get(name)):
                difference = f"{name} {_plain(theirs.get(name))}, not {_plain(ours.get(name))}"
                holds = f"{short(self.folder)} holds a run with other settings ({difference})"
                raise RunError(f"{holds}: {self.way_out}")


def _flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, so that a message names the one that differs."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _plain(value: Any) -> str:
    """A setting for a message."""
    return one_line(str(value), 40)
