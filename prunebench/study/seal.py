"""Seal: how a finished cell shows that its files are still what the program wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from prunebench.border.files import opened


def digest(data: bytes) -> str:
    """What cell.json holds of a file's content."""
    return sha256(data).hexdigest()


def seal(content: Mapping[str, Any]) -> str:
    """What cell.json carries as "seal": sha256 over everything else in it."""
    return digest(json.dumps(content, ensure_ascii=False, sort_keys=True).encode())


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal."""
    return {**content, "seal": seal(content)}


def fault(content: Mapping[str, Any], folder: Path, tables: dict[str, bytes] | None = None) -> str:
    """What is wrong with a cell whose cell.json was read from `folder`; empty where nothing is. No
    seal is a fault, too. `tables` is given what the files hold, for whoever reads on.
    """
    if not content.get("seal"):
        return "cell.json has no seal"
    rest = {key: value for key, value in content.items() if key != "seal"}
    if content["seal"] != seal(rest):
        return "cell.json was changed by hand"
    files = content.get("files")
    if not isinstance(files, Mapping):
        return "cell.json does not name its files"
    for name, expected in files.items():
        broken, data = _checked(folder, name, expected)
        if broken:
            return broken
        if tables is not None:
            tables[name] = data
    return ""


def _checked(folder: Path, name: str, expected: Any) -> tuple[str, bytes]:
    """What is wrong with a file, and what it holds."""
    if "/" in name or Path(name).name != name:
        return f"cell.json names {name!r}, which is no file of its folder", b""
    try:
        with opened(folder / name) as file:
            data = file.read()
    except FileNotFoundError:
        return f"{name} is missing", b""
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}", b""
    return "" if digest(data) == expected else f"{name} was changed", data
