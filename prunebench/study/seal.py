"""Seal: how a finished cell shows that its files are still what the program wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from prunebench.border.files import opened


def seal(facts: Mapping[str, Any]) -> str:
    """What cell.json carries as "seal": sha256 over everything else in it."""
    return sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def fault(facts: Mapping[str, Any], folder: Path) -> str:
    """What is wrong with a cell whose facts were read from `folder`; empty where nothing is. No
    seal is a fault, too.
    """
    if not facts.get("seal"):
        return "cell.json has no seal"
    if facts["seal"] != seal({key: value for key, value in facts.items() if key != "seal"}):
        return "cell.json was changed by hand"
    files = facts.get("files")
    if not isinstance(files, Mapping):
        return "cell.json does not name its files"
    for name, digest in files.items():
        if Path(name).name != name:
            return f"cell.json names {name!r}, which is no file of its folder"
        try:
            with opened(folder / name) as file:
                same = file_digest(file, "sha256").hexdigest() == digest
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if not same:
            return f"{name} was changed"
    return ""
