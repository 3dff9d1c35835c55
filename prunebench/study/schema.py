"""Schema: the version of what cell.json and its tables mean, and which versions are read.

It is raised where a key or a column comes to mean something else, not where one is added: what is
unknown is passed over, and what is missing has its default. Every version from OLDEST on is read as
it was meant; any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunebench.border.text import one_line
from prunebench.study.facts import Damaged, is_count, short

SCHEMA = 2
"""What is written."""

OLDEST = 1
"""What is still read; raised only by a release that says so in its changelog."""

UNSAID = 1
"""Of a cell that does not say: it was written before there was a key for it."""

MEANINGS: Mapping[int, str] = {
    1: "an interval draws samples one by one, but for those that their task scores together",
    2: "an interval draws the samples of one image together",
}
"""What each version changed."""


class Unreadable(Damaged):
    """A cell of a version that this program does not read: nothing is wrong with it."""


def check(content: Mapping[str, Any]) -> None:
    """That a cell.json is of a version that is read; raises Unreadable, and Damaged where what it
    says is no version.
    """
    version = content.get("schema", UNSAID)
    if not is_count(version):
        raise Damaged(f"cell.json has schema {short(version)} where a count belongs")
    if OLDEST <= version <= SCHEMA:
        return
    writer = _writer(content)
    if version > SCHEMA:
        raise Unreadable(
            f"cell.json is of schema {version}{writer}, and this version reads {OLDEST} to "
            f"{SCHEMA}: update prunebench"
        )
    raise Unreadable(
        f"cell.json is of schema {version}{writer}, which is no longer read (from {OLDEST} to "
        f"{SCHEMA}): sweep the study again into another folder, or read it with that version"
    )


def _writer(content: Mapping[str, Any]) -> str:
    """Which version of the program wrote it, where it says."""
    provenance = content.get("provenance")
    version = provenance.get("prunebench") if isinstance(provenance, Mapping) else None
    return f", written by prunebench {one_line(version, 40)}" if isinstance(version, str) else ""
