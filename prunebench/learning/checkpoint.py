"""Checkpoint: a training run's folder, which one process at a time writes, and the sealed file from
which a run goes on.

`checkpoint.pt` alone decides how a run goes on. It says which run it belongs to, and carries a
digest of all its content; `log.csv` is written anew from it whenever a run goes on, so that a
damaged, edited or missing log changes nothing.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.border import files
from prunebench.border.text import message, one_line

NAME = "checkpoint.pt"
LOG = "log.csv"
FORMAT = 1

LITTER = re.compile(r"\.[0-9a-f]{16}\.part")
"""What `files.write` leaves behind where it is killed."""

FRESH, OLD = ".fresh-", ".old-"
"""How a folder begins that is about to take another's place, and one that is about to go."""

SEAL, IDENTITY = "seal", "identity"

MESSAGE = 270
"""Characters of an error's text at most, so that it fits a line with what a command puts before it.
"""

Row = dict[str, float]


class RunError(ValueError):
    """What keeps a training run from beginning, from going on or from being kept; one line, with
    the way out.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text, MESSAGE))


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


class Run:
    """An open run folder; `open_run` gives it. `identity` is what makes the run this run, as plain
    data.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], way_out: str) -> None:
        self.folder = folder
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity), default=str))
        self.way_out = way_out
        self.log = Log(folder / LOG)

    def resume(self, steps: int) -> State | None:
        """The run's last state, None where it has not begun.

        Raises RunError where the checkpoint is not what a run wrote, belongs to another run, or
        lies behind the last of the `steps`.
        """
        path = self.folder / NAME
        if not path.exists():
            return None
        if not path.is_file():  # reading a pipe would never end
            raise RunError(f"{_short(path)} is no file: {self._remedy()}")
        content = self._read(path)
        self._compare(content[IDENTITY])
        state = State(**{part.name: content[part.name] for part in fields(State)})
        if state.step > steps:
            raise RunError(
                f"{_short(path)} stands at step {state.step}, and this run has {steps}: {self._remedy()}"
            )
        return state

    def start_over(self) -> None:
        """Forget the run so far."""
        with _storing(self.folder / NAME):
            _discard(self.folder / NAME)

    def save(self, state: State) -> None:
        """Write the checkpoint, whole or not at all."""
        parts = {part.name: getattr(state, part.name) for part in fields(State)}
        content: dict[str, Any] = {"format": FORMAT, IDENTITY: self.identity, **parts}
        content = _on_cpu({**content, SEAL: digest(content)})
        buffer = io.BytesIO()
        torch.save(content, buffer)
        self.write(NAME, buffer.getvalue())

    def write(self, name: str, data: bytes) -> Path:
        """Put a file into the folder, whole or not at all."""
        with _storing(self.folder / name):
            return files.write(self.folder / name, data)

    @contextmanager
    def replaced(self, name: str) -> Iterator[Path]:
        """An empty folder to fill, which in the end takes the place of the run's folder `name`; not
        where the block fails.
        """
        target, fresh, old = (
            self.folder / name,
            self.folder / f"{FRESH}{name}",
            self.folder / f"{OLD}{name}",
        )
        with _storing(target):
            _discard(fresh)
            fresh.mkdir()
            try:
                yield fresh
                if target.exists():
                    target.rename(old)
                fresh.rename(target)
            finally:
                _recover(target, old)
                _discard(fresh)

    def _read(self, path: Path) -> dict[str, Any]:
        """The content of a checkpoint whose seal holds."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # what torch wonders about a damaged file, the error says
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (
            Exception,
            RecursionError,
        ) as error:  # what a damaged archive makes torch raise is as various as the damage
            raise RunError(
                f"{_short(path)} is damaged ({one_line(message(error), 60)}): {self._remedy()}"
            ) from error
        expected = {"format", IDENTITY, SEAL, *(part.name for part in fields(State))}
        if (
            not isinstance(content, dict)
            or not {"format", SEAL} <= content.keys()
            or content["format"] != FORMAT
        ):
            raise RunError(f"{_short(path)} is no checkpoint of this version: {self._remedy()}")
        if content.keys() != expected or content[SEAL] != digest(_without(content, SEAL)):
            raise RunError(
                f"{_short(path)} is not what was written, it was changed since: {self._remedy()}"
            )
        return content

    def _compare(self, there: Mapping[str, Any]) -> None:
        """Raise RunError naming the first difference where the checkpoint is that of another run."""
        ours, theirs = _flat(self.identity), _flat(there)
        for name in dict.fromkeys([*ours, *theirs]):
            # as text, because NaN is not equal to itself
            if json.dumps(ours.get(name), sort_keys=True) != json.dumps(
                theirs.get(name), sort_keys=True
            ):
                differ = f"{name} {_plain(theirs.get(name))}, not {_plain(ours.get(name))}"
                raise RunError(
                    f"{_short(self.folder)} holds a run with other settings ({differ}): {self.way_out}"
                )

    def _remedy(self) -> str:
        return f"remove it, or {self.way_out}"


class Log:
    """log.csv: a line every few steps; a column comes with the first line that has it, and empty
    cells are no number.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[Row]()
        self.columns: list[str] = []

    def restore(self, rows: Sequence[Row]) -> None:
        """Begin with the lines of a run so far; whatever the file held is gone, and without lines
        there is none.
        """
        self.rows = [dict(row) for row in rows]
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        if self.rows:
            self.rewrite()
            return
        with _storing(self.path):
            _discard(self.path)

    def add(self, row: Row) -> None:
        """Add a line; the file is written anew only where the line brings a column, or the file is
        gone.
        """
        self.rows.append(row)
        fresh = [name for name in row if name not in self.columns]
        self.columns += fresh
        if fresh or not self.path.is_file():
            self.rewrite()
            return
        with _storing(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(self._text([row], header=False))

    def rewrite(self) -> None:
        """Write all lines, whole or not at all."""
        with _storing(self.path):
            files.write(self.path, self._text(self.rows, header=True).encode())

    def _text(self, rows: Sequence[Row], *, header: bool) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, restval="")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
        return buffer.getvalue()


@contextmanager
def open_run(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    writes: Sequence[str],
    folders: Sequence[str],
    way_out: str,
) -> Iterator[Run]:
    """The run folder, locked for this process until the end of the block.

    `writes` are the files that the run will put there besides its checkpoint and log, `folders`
    those that it fills as a whole; `way_out` says how to choose another folder. Raises RunError
    where the folder cannot be made or written, where another process writes to it, and where
    something else lies in the place of what is to be written, a link above all. A folder that is
    new and stays empty is removed again.
    """
    handle, new = _locked(folder, way_out)
    try:
        for name in (NAME, LOG, *writes, *folders):
            path = folder / name
            if path.is_symlink():
                raise RunError(
                    f"{_short(path)} is a link to something else: remove it, or {way_out}"
                )
            if path.exists() and path.is_dir() != (name in folders):
                raise RunError(
                    f"{_short(path)} is no {'folder' if name in folders else 'file'}: remove it, or {way_out}"
                )
        _tidy(folder, folders)
        yield Run(folder, identity, way_out)
    finally:
        os.close(handle)
        _remove_empty(new)


def _tidy(folder: Path, folders: Sequence[str]) -> None:
    """Finish what a run that was killed had begun, and remove what it left behind."""
    for name in folders:
        _recover(folder / name, folder / f"{OLD}{name}")
        _discard(folder / f"{FRESH}{name}")
    for path in folder.iterdir():
        if LITTER.fullmatch(path.name):
            _discard(path)


def _recover(target: Path, old: Path) -> None:
    """Put a folder that was moved aside back where nothing took its place, and remove it where
    something did.
    """
    if old.exists() and not target.exists():
        old.rename(target)
    _discard(old)


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder; what is not there is gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def digest(value: Any) -> str:
    """sha256 over nested plain data and tensors: names, types, shapes and contents, in order."""
    state = sha256()
    for part in _parts(value):
        state.update(part)
    return state.hexdigest()


def _locked(folder: Path, way_out: str) -> tuple[int, list[Path]]:
    """A locked handle of the folder, and which folders had to be made for it, the innermost first."""
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise RunError(
            f"folder {_short(folder)} cannot be made: {_reason(error)}; {way_out}"
        ) from None
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _remove_empty(new)
        raise RunError(
            f"folder {_short(folder)} cannot be written: {_reason(error)}; {way_out}"
        ) from None
    try:
        fcntl.flock(
            handle, fcntl.LOCK_EX | fcntl.LOCK_NB
        )  # on the folder itself: it goes with the process, and leaves no file
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise RunError(
                f"another run is writing to {_short(folder)}: wait for it, or {way_out}"
            ) from None
        raise RunError(
            f"folder {_short(folder)} cannot be locked: {_reason(error)}; {way_out}"
        ) from None
    return handle, new


def _remove_empty(new: Sequence[Path]) -> None:
    """Take away folders that were made for nothing."""
    for path in new:
        try:
            path.rmdir()
        except OSError:
            return


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turns what the disk says into one line."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{_short(path)} cannot be written: {_reason(error)}; what was saved before is kept, and the same command goes on"
        ) from error


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {list(value.shape)}\n".encode()
        # flat first, for a view as bytes needs a dimension
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
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
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _on_cpu(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value))
    return value


def _flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, so that a message names the one that differs."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _without(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def _cell(value: float) -> str:
    """A figure for the log; what is no number is empty."""
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < float("inf") else ""
    return str(value)


def _plain(value: Any) -> str:
    return one_line(str(value), 40)


def _short(path: Path) -> str:
    """A path for a message; of a long one the end, which says most."""
    text = one_line(str(path), 4000)
    return text if len(text) <= 100 else f"…{text[-99:]}"


def _reason(error: BaseException) -> str:
    """What went wrong, without the path that the message names already."""
    return (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else one_line(message(error), 80)
    )


__all__ = ["LOG", "NAME", "Log", "Run", "RunError", "State", "digest", "open_run"]
