"""Seal: how a finished cell shows that its files are still what the program wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any


def seal(facts: Mapping[str, Any]) -> str:
    """What cell.json carries as "seal": sha256 over everything else in it."""
    return sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def fault(facts: Mapping[str, Any], folder: Path) -> str:
    """What is wrong with a cell whose facts were read from `folder`; empty where nothing is."""
    if "seal" in facts and facts["seal"] != seal({key: value for key, value in facts.items() if key != "seal"}):
        return "cell.json was changed by hand"
    for name, digest in (facts.get("files") or {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path.read_bytes()).hexdigest() != digest:
            return f"{name} was changed"
    return ""
