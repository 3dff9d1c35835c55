"""Pictures: the images of some questions and the tokens that were kept of them, as
`prunebench report STUDY pictures=N` leaves them in a study's folder, put beside the answers.

The file is data that anybody may have written: what is not as it should be is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.border.text import clean, one_line
from prunebench.study.cells import StoredCell

FILE = "pictures.json"

SCHEMA = 1

MOST_BYTES = 64 * 2**20
"""Of the file."""

IMAGE = re.compile(r"data:image/(?:jpeg|webp|png);base64,[A-Za-z0-9+/=]+")
BITS = re.compile(r"[A-Za-z0-9+/=]*")

MOST_SIDE = 1_000
"""Tokens along a side of an image."""

Group = dict[str, Any]
Warn = Callable[[str], None]


def added(
    study: Path, groups: Sequence[Group], records: Sequence[StoredCell], warn: Warn
) -> list[Group]:
    """The groups with the pictures of their questions, where the study has any."""
    content = _content(study / FILE, warn)
    fingerprints = {cell.id: cell.fingerprint for cell in records}
    old = 0
    for group in groups:
        images = _mapping(_mapping(content.get("images")).get(group["task"]))
        for question in group["questions"]:
            question |= _picture(images.get(question["sample"]))
        for number, cell in enumerate(group["cells"]):
            entry = _mapping(_mapping(content.get("kept")).get(cell["id"]))
            if entry and entry.get("fingerprint") != fingerprints.get(cell["id"]):
                old += 1
                continue
            cell["lacks"] = clean(str(entry.get("lacks", "")))[:200]
            _keep(group["questions"], number, _mapping(entry.get("samples")))
    if old:
        warn(
            f"{FILE} shows the kept tokens of {old} cells as they were before they ran again; "
            f"these are left out: prunebench report {one_line(str(study), 100)} pictures=12"
        )
    return list(groups)


def _content(path: Path, warn: Warn) -> Mapping[str, Any]:
    """What the file holds; nothing where there is none, or one that cannot be read."""
    try:
        content = json.loads(files.read(path, MOST_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        warn(f"{FILE} cannot be read: {one_line(str(error), 100)}; make it again")
        return {}
    if _mapping(content).get("schema") != SCHEMA:
        warn(f"{FILE} is of another version; make it again")
        return {}
    return _mapping(content)


def _picture(entry: Any) -> dict[str, Any]:
    """The image, its evidence and the question of one entry."""
    parts = _mapping(entry)
    source, question = parts.get("image"), parts.get("question")
    picture: dict[str, Any] = {}
    if isinstance(question, str):
        picture["question"] = clean(question[:2_000])
    if isinstance(source, str) and IMAGE.fullmatch(source):
        boxes = [box for box in _sequence(parts.get("boxes")) if _is_box(box)]
        picture |= {"image": source, "boxes": boxes}
    return picture


def _keep(questions: Sequence[Group], number: int, samples: Mapping[str, Any]) -> None:
    """Put the tokens that cell `number` kept beside its answers."""
    for question in questions:
        stages = [_stage(stage) for stage in _sequence(samples.get(question["sample"]))]
        answer = question["answers"][number]
        if answer is not None and stages and None not in stages:
            answer["kept"] = stages


def _stage(entry: Any) -> dict[str, Any] | None:
    """One stage; None where it is none."""
    parts = _mapping(entry)
    sides = [parts.get("rows"), parts.get("columns")]
    if not all(isinstance(side, int) and 0 < side <= MOST_SIDE for side in sides):
        return None
    bits, region = parts.get("bits"), parts.get("region")
    if not isinstance(bits, str) or not BITS.fullmatch(bits) or not _is_box(region):
        return None
    site = clean(str(parts.get("site", "")))[:80]
    return {"site": site, "rows": sides[0], "columns": sides[1], "bits": bits, "region": region}


def _is_box(value: Any) -> bool:
    """Whether it is four numbers, as shares of an image's sides."""
    parts = _sequence(value)
    return len(parts) == 4 and all(isinstance(part, int | float) for part in parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
