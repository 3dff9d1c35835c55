"""Repository: a folder as the Hub describes it, with a commit, object ids and entries."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

BIG = (".safetensors", ".parquet", ".zip", ".mp4")
"""Suffixes of files that the Hub keeps outside of git, and names by their SHA-256."""

DATE = "2025-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Repository:
    """One repository at one of its branches; `kind` is "models" or "datasets"."""

    kind: str
    name: str
    folder: Path

    @property
    def commit(self) -> str:
        """A hash of all files."""
        lines = [f"{path} {etag(self.folder / path)}" for path in self.files()]
        return hashlib.sha1("\n".join(lines).encode()).hexdigest()

    def files(self) -> list[str]:
        """The paths of all files, in order."""
        return _files(self.folder)

    def info(self) -> dict[str, Any]:
        """What the Hub says of the repository as a whole."""
        return {
            "_id": self.commit[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.partition("/")[0],
            "sha": self.commit,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in self.files()],
        }

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The entries in a folder, those of its folders after it where `recursive`."""
        base = PurePosixPath(folder)
        entries: dict[str, dict[str, Any]] = {}
        for path in self.files():
            if not PurePosixPath(path).is_relative_to(base):
                continue
            below = PurePosixPath(path).relative_to(base).parts
            depth = len(below) if recursive else 1
            for count in range(1, depth + 1):
                place = str(base.joinpath(*below[:count]))
                entries.setdefault(place, self.entry(place))
        return list(entries.values())

    def entry(self, path: str) -> dict[str, Any]:
        """One file or folder."""
        file = self.folder / path
        if file.is_dir():
            oid = hashlib.sha1(path.encode()).hexdigest()
            return {"type": "directory", "oid": oid, "size": 0, "path": path}
        size = file.stat().st_size
        entry: dict[str, Any] = {"type": "file", "oid": etag(file), "size": size, "path": path}
        if file.suffix in BIG:
            entry["lfs"] = {"oid": etag(file), "size": size, "pointerSize": 134}
        return entry


def branches(root: Path, kind: str, name: str) -> dict[str, Repository]:
    """A repository's branches by name; NAME@BRANCH lies beside NAME, which is main."""
    plain = root / kind / name
    if not plain.is_dir():
        return {}
    named = {"main": Repository(kind, name, plain)}
    for folder in sorted(plain.parent.glob(f"{plain.name}@*")):
        named[folder.name.partition("@")[2]] = Repository(kind, name, folder)
    return named


@cache
def etag(file: Path) -> str:
    """What a client knows a file's content by: git's hash of it, or its SHA-256."""
    content = file.read_bytes()
    if file.suffix in BIG:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@cache
def _files(folder: Path) -> list[str]:
    # a folder that is served is whole, and stays as it is
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)
