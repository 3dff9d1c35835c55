"""Matrix: which method runs on which family of models, and why one does not."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench import registry
from prunebench.engine.ready import refusal
from prunebench.models import families

HEAD = """# Methods and models

Written by `make docs` from the code; the tests run every method on a miniature of every family, \
and find this.
A number stands for a pair that is refused, for the reason below; in a sweep its cells have the \
status `unsupported`.
Where some layers of a decoder keep a state in place of attention (Qwen3.5), a method that reads \
attention takes the nearest site to its default that has some; a site that was set is refused \
where it has none, and the attending layers are named.
"""


@dataclass(frozen=True)
class Support:
    """One place of the matrix; `reason` is empty where the method runs."""

    method: str
    family: str
    reason: str

    @property
    def note(self) -> str:
        """The reason, for every family that it holds for."""
        return self.reason.replace(self.family, "this family")


def matrix() -> list[Support]:
    """Every method with its default settings on every family, methods and families in order."""
    order = sorted(families(), key=lambda family: family.name)
    places = []
    for name in registry.names():
        method = registry.build(name)
        for family in order:
            places.append(Support(name, family.name, refusal(method, family) or ""))
    return places


def table() -> tuple[list[dict[str, str]], list[str]]:
    """A row a method, a column a family: "ok" or the number of a note; and the notes."""
    notes: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for place in matrix():
        row = rows.setdefault(place.method, {"method": place.method})
        if not place.reason:
            row[place.family] = "ok"
            continue
        if place.note not in notes:
            notes.append(place.note)
        row[place.family] = f"({notes.index(place.note) + 1})"
    return list(rows.values()), notes


def markdown() -> str:
    """The matrix as the documentation shows it."""
    rows, notes = table()
    lines = [HEAD, f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    lines.append("")
    lines += [f"{number}. {note}." for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"
