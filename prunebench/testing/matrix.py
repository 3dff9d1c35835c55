"""Support: which method runs on which family of models, and why one does not."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench import registry
from prunebench.engine.ready import refusal
from prunebench.models import families


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
    return [
        Support(name, family.name, refusal(registry.build(name), family) or "")
        for name in registry.names()
        for family in order
    ]


def table() -> tuple[list[dict[str, str]], list[str]]:
    """A row a method, a column a family: "ok" or the number of a note; and the notes."""
    places = matrix()
    notes = list(dict.fromkeys(place.note for place in places if place.reason))
    rows: dict[str, dict[str, str]] = {}
    for place in places:
        shown = f"({notes.index(place.note) + 1})" if place.reason else "ok"
        rows.setdefault(place.method, {"method": place.method})[place.family] = shown
    return list(rows.values()), notes


def markdown() -> str:
    """The matrix as the documentation shows it."""
    rows, notes = table()
    lines = [
        "# Methods and models",
        "",
        "Written by `make docs` from the code; the tests run every method on a miniature of every family, and find this.",
        "A number stands for a pair that is refused, for the reason below; in a sweep its cells have the status `unsupported`.",
        "",
        f"| {' | '.join(rows[0])} |",
        f"|{'---|' * len(rows[0])}",
        *(f"| {' | '.join(row.values())} |" for row in rows),
        "",
        *(f"{number}. {note}." for number, note in enumerate(notes, 1)),
    ]
    return "\n".join(lines) + "\n"
