"""Merge: the studies of several people as one, cell by cell as each of them wrote it.

A cell that is in two of them must be the same there: of one identity, with one result. What its
machine took for it, and when, may differ; the first one's is kept. Nothing that a grid names is
imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.border.text import one_line, short_path
from prunebench.run import plain
from prunebench.run.grid import HEAD
from prunebench.run.lists import LISTS, in_plural
from prunebench.run.plain import PlainError, short
from prunebench.run.question import HOW, usual_question
from prunebench.run.store import FINAL
from prunebench.study import cells, tables
from prunebench.study.cells import OtherSchema, ReportError, StoredCell
from prunebench.study.folder import StudyFolder, in_one_line, locked

TIMED = ("seconds",)
"""Columns of samples.parquet that are another number each time."""

GRIDS = "grids"
"""Where the questions lie that no single grid can ask."""

SEED = "seed"
"""The one key in which questions may differ: a study may be of several seeds."""

COST = "cost"

Question = Mapping[str, Any]


class MergeError(ValueError):
    """Studies that are not one."""


@dataclass
class Merged:
    """What was merged: how many cells of how many studies, how many stand in several of them, and
    what was left out.
    """

    folder: Path
    cells: int = 0
    studies: int = 0
    shared: int = 0
    notes: list[str] = field(default_factory=list)


def merge(studies: Sequence[Path], out: Path) -> Merged:
    """Write all cells of the studies, and of `out` where it is one already, into `out`.

    A cell that is damaged or not finished is left out with a note. Raises MergeError where a cell
    has two results or two identities, or the questions do not fit together; ReportError where a
    folder is no study; StoreError where `out` cannot be written. Nothing is written then.
    """
    folders = [*studies, out] if (out / "cells").is_dir() else list(studies)
    distinct = {folder.resolve(): folder for folder in folders}
    merged = Merged(out, studies=len(distinct))
    if len(distinct) < 2:
        raise MergeError(f"{short_path(folders[0])} alone is nothing to merge; name another study")
    chosen_cells: dict[str, StoredCell] = {}
    questions: dict[str, Question] = {}
    for folder in distinct.values():
        for cell in _read(folder, merged.notes):
            _add(chosen_cells, cell, merged)
        for name, question in _questions(folder):
            questions[_free(name, questions)] = question
    united = _united(questions)
    with locked(out) as study:
        _write(study, chosen_cells, united, merged.notes)
    merged.cells = len(chosen_cells)
    return merged


# ---- cells ---------------------------------------------------------------------------------------


def _read(study: Path, notes: list[str]) -> Iterator[StoredCell]:
    """The finished cells of a study, each under its seal."""
    for folder in cells.folders(study):
        try:
            yield cells.read_cell(folder)
        except OtherSchema:
            raise
        except ReportError as error:
            notes.append(f"{short_path(study)}: {error}")


def _add(chosen_cells: dict[str, StoredCell], cell: StoredCell, merged: Merged) -> None:
    """Take a cell, or see that the one that is there already is the same."""
    other = chosen_cells.setdefault(cell.id, cell)
    if other is cell:
        return
    merged.shared += 1
    if other.question != cell.question:
        raise _conflict(other, cell, "are of different questions; rename a label in one study")
    if other.fingerprint != cell.fingerprint:
        raise _conflict(
            other,
            cell,
            "were asked in different ways (code, versions, model, data or settings): commits "
            f"{_commit(other)} and {_commit(cell)}; sweep one of them again with the other's",
        )
    # a sweep would try again what failed, and so the one that did not stands for both
    if other.status not in FINAL and cell.status in FINAL:
        chosen_cells[cell.id] = cell
        return
    if cell.status not in FINAL and other.status in FINAL:
        return
    difference = _difference(other, cell)
    if difference:
        raise _conflict(other, cell, f"have different results: {difference}; delete one of them")


def _difference(one: StoredCell, other: StoredCell) -> str:
    """In what two cells of one identity differ; empty where in nothing but time and place."""
    if one.status != other.status:
        return f"{one.status} and {other.status}"
    if one.files == other.files and one.metrics == other.metrics:
        return ""
    if one.kind == "cost":
        return "their times are two measurements"
    rows, others = (_rows(cell) for cell in (one, other))
    if rows.keys() != others.keys():
        odd = sorted(rows.keys() ^ others.keys())[0]
        return f"sample {short(odd)} is in one alone"
    for sample, row in rows.items():
        for name in {**row, **others[sample]}:
            values = row.get(name), others[sample].get(name)
            if values[0] != values[1]:
                return (
                    f"sample {short(sample)} has {name} {short(values[0])} and {short(values[1])}"
                )
    for metric in one.metrics:
        if metric != other.number(metric.metric) and metric.value is not None:
            return f"metric {short(metric.metric)}"
    return ""


def _rows(cell: StoredCell) -> dict[str, dict[str, Any]]:
    """Its samples by id, without what is another number each time."""
    rows = {}
    for row in tables.read_rows(cell.folder / "samples.parquet"):
        rows[row["sample_id"]] = {key: row[key] for key in row if key not in TIMED}
    return rows


def _conflict(one: StoredCell, other: StoredCell, what: str) -> MergeError:
    places = f"{short_path(one.folder, 60)} and {short_path(other.folder, 60)}"
    return MergeError(one_line(f"{places} {what}", 400, tail=120))


def _commit(cell: StoredCell) -> str:
    return cell.commit[:12] or "none"


# ---- questions -----------------------------------------------------------------------------------


def _questions(study: Path) -> Iterator[tuple[str, Question]]:
    """The question of a study under its name, or those of a merged one; none where it has none."""
    own = study / "grid.yaml"
    paths = [own] if own.is_file() else sorted((study / GRIDS).glob("*.yaml"))
    for path in paths:
        try:
            content = plain.parse(files.read(path).decode("utf-8-sig"))
        except (PlainError, UnicodeDecodeError, OSError) as error:
            raise MergeError(one_line(f"{short_path(path)} cannot be read: {error}")) from None
        if not isinstance(content, dict):
            raise MergeError(f"{short_path(path)} must hold keys and values")
        # a key that an older version did not have stands at its default
        usual = usual_question()
        question = {**usual, **in_plural(content)}
        for key in HOW:
            question.pop(key, None)
        cost = question[COST]
        question[COST] = usual[COST] | (cost if isinstance(cost, Mapping) else {"enabled": cost})
        for key in LISTS:
            entries = question.get(key, [])
            question[key] = entries if isinstance(entries, list) else [entries]
        question["methods"] = [_named(entry) for entry in question["methods"]]
        yield (study.resolve().name if path == own else path.stem), question


def _named(entry: Any) -> dict[str, Any]:
    """A method as a mapping with its label."""
    if not isinstance(entry, Mapping):
        return {"name": entry, "label": entry}
    return {"label": entry.get("name"), **entry}


def _united(questions: Mapping[str, Question]) -> dict[str, Question]:
    """The one question that asks all, under an empty name; the questions themselves where they are
    of several seeds, which no grid asks. Raises MergeError where they differ in anything else.
    """
    if not questions:
        return {}
    (first_name, first), *others = questions.items()
    united = dict(first)
    seeds = {short(question.get(SEED, 0)) for question in questions.values()}
    for name, question in others:
        for key in {**united, **question}:
            if key in LISTS:
                united[key] = _joined(key, united[key], question[key], (first_name, name))
            elif key == COST:
                united[key] = _timed(united[key], question[key], (first_name, name))
            elif key != SEED and united.get(key) != question.get(key):
                raise MergeError(
                    f"{key} is {short(united.get(key))} in {one_line(first_name, 60)} and "
                    f"{short(question.get(key))} in {one_line(name, 60)}: their answers are to "
                    "different questions; sweep one of them again with the other's"
                )
    return {"": united} if len(seeds) == 1 else dict(questions)


def _joined(key: str, own: list[Any], others: list[Any], names: tuple[str, str]) -> list[Any]:
    """Two lists as one, each entry once; raises MergeError where a label stands for two methods."""
    if key != "methods":
        return [*own, *(entry for entry in others if entry not in own)]
    by_label = {entry["label"]: entry for entry in own}
    for entry in others:
        first = by_label.setdefault(entry["label"], entry)
        for setting in {**first, **entry}:
            if first.get(setting) != entry.get(setting):
                raise MergeError(
                    f"method {short(entry['label'])} has {setting} {short(first.get(setting))} in "
                    f"{one_line(names[0], 60)} and {short(entry.get(setting))} in "
                    f"{one_line(names[1], 60)}; rename its label in one of them"
                )
    return list(by_label.values())


def _timed(own: Any, others: Any, names: tuple[str, str]) -> Any:
    """How cost is measured: as the one study says that measures it, or as both do."""
    if own == others or not others["enabled"]:
        return own
    if not own["enabled"]:
        return others
    raise MergeError(
        f"cost is measured in other ways in {one_line(names[0], 60)} and "
        f"{one_line(names[1], 60)}: {short(str(own))} and {short(str(others))}"
    )


def _free(name: str, names: Mapping[str, Any]) -> str:
    """The name, or with a number behind it where it is taken."""
    number, free = 1, name
    while free in names:
        number += 1
        free = f"{name}-{number}"
    return free


# ---- writing -------------------------------------------------------------------------------------


@in_one_line
def _write(
    study: StudyFolder,
    chosen_cells: Mapping[str, StoredCell],
    united: Mapping[str, Question],
    notes: list[str],
) -> None:
    """Put cells and questions into an open study; a cell whose files changed meanwhile is left out
    with a note.
    """
    for name, cell in sorted(chosen_cells.items()):
        target = study.folder / "cells" / name
        if target.resolve() == cell.folder.resolve():
            continue
        study.make(target)
        # the record last, for it seals the tables
        for file in (*cell.files, "cell.json"):
            path = cell.folder / file
            study.put(target / file, files.read(path, most=path.stat().st_size))
        try:
            cells.read_cell(target)
        except ReportError as error:
            study.set_aside(target, str(error))
    notes += study.notes
    if list(united) == [""]:
        study.put(study.folder / "grid.yaml", (HEAD + plain.dump(united[""])).encode())
        return
    study.remove(study.folder / "grid.yaml")
    for name, question in united.items():
        folder = study.folder / GRIDS
        folder.mkdir(exist_ok=True)
        study.put(folder / f"{name}.yaml", (HEAD + plain.dump(question)).encode())
