"""Names: what can name a folder, a file or a label everywhere, and a home folder written as ~."""

from __future__ import annotations

import os
import re
from typing import Any

from prunebench.run.plain import PlainError, check, parse, short, short_key

LONGEST_PATH = 1_000
LONGEST_PART = 255
"""Bytes of a path, and of one part of it, that file systems take."""

LONGEST_LABEL = 64
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

MISSING = frozenset(("na", "nan", "n/a", "none", "null", "nil", "inf", "infinity"))
"""Words that readers of tables take for a missing or an infinite number; the baseline is the one
label among them.
"""

DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
"""Names that are devices, not files, on Windows."""


def expanded(name: str) -> str:
    """The name with ~ and ~user as home folders; as it is where there is no such user."""
    return os.path.expanduser(name) if name.startswith("~") else name


def check_path(key: str, name: str) -> None:
    """Refuse what no file, hub or library can have as a name; raises PlainError, which says whose
    it is.
    """
    if not name.strip():
        raise PlainError(f"{key} is empty; give a name")
    check(name, key)
    if "\n" in name or "\t" in name:
        raise PlainError(f"{key} is {short(name)}, with a line break or tab in it; leave that out")
    sizes = [len(part.encode()) for part in name.split("/")]
    if sum(sizes) > LONGEST_PATH or max(sizes) > LONGEST_PART:
        raise PlainError(
            f"{key} is {short(name)} of {len(name)} characters; "
            f"a path has at most {LONGEST_PATH} bytes and a part of it {LONGEST_PART}"
        )


def check_label(label: Any, method: str) -> None:
    """Refuse a label that is no file name, or that tables would read as a number or as missing;
    raises PlainError.
    """
    about = f"label {short(label)} of method {short_key(method)}"
    if not isinstance(label, str):
        raise PlainError(f"{about} is no text; put it in quotes")
    # a cell's id joins its parts by "__"
    if LABEL.fullmatch(label) is None or "__" in label or len(label) > LONGEST_LABEL:
        raise PlainError(
            f"{about} is no file name; "
            f"use at most {LONGEST_LABEL} letters, digits, '.', '-', '+' and single '_'"
        )
    if DEVICES.fullmatch(label) or label.endswith("."):
        raise PlainError(f"{about} is no file name on Windows; choose another")
    read_as = parse(label)
    if not isinstance(read_as, str) or (label.lower() in MISSING and label != "none"):
        raise PlainError(
            f"{about} is read from a table as a number, as true or as missing; choose another"
        )
