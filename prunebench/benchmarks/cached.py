"""Cached: the folder of what is made or read once and kept, and may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where it lies: below XDG_CACHE_HOME, or the user's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunebench"
