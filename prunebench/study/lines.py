"""Lines: the text of a journal, every line under a checksum that holds the one before it.

So no line can be edited, moved, doubled, dropped from the middle or brought from another journal
without notice: the first line names the cell and its configuration, and each further checksum
covers the last one and its own line. Only the end can be cut off, as a killed process does; what is
cut off is asked again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.study import columns
from prunebench.study.facts import Damaged, to_json
from prunebench.study.tables import Row

LINE = re.compile(rb'\{"check": "([0-9a-f]{64})", "row": (.*)\}\n', re.DOTALL)

LONGEST = 2**24
"""Bytes of the longest line; an answer of a model is far below it."""


@dataclass
class Chain:
    """Lines that follow upon each other; `check` is the checksum of the last."""

    check: str = ""

    def line(self, content: Mapping[str, Any]) -> str:
        """The next line, with its end."""
        body = to_json(content)
        self.check = _checksum(self.check, body.encode())
        return f'{{"check": "{self.check}", "row": {body}}}\n'

    def take(self, line: bytes) -> Any:
        """What the next line holds; raises Damaged where it is not what `line` gave."""
        parts = LINE.fullmatch(line)
        if parts is None:
            raise Damaged("it has no checksum")
        check = _checksum(self.check, parts[2])
        if check != parts[1].decode():
            raise Damaged("its checksum is another")
        self.check = check
        try:
            return json.loads(parts[2])
        except (ValueError, RecursionError) as error:
            raise Damaged(f"it cannot be read: {type(error).__name__}") from None


@dataclass
class Replay:
    """What a journal holds: the rows of answered samples by sample_id, whether the last line is
    `torn`, and in `damage` what else is wrong, if anything.
    """

    head: Any = None
    rows: dict[str, Row] = field(default_factory=dict)
    chain: Chain = field(default_factory=Chain)
    torn: bool = False
    damage: str = ""


def head(cell: str, fingerprint: str) -> dict[str, str]:
    """What the first line says."""
    return {"cell": cell, "fingerprint": fingerprint}


def replay(path: Path, cell: str, samples: Mapping[str, int] | None = None) -> Replay:
    """The journal at `path`, up to the first line that is damaged; raises OSError where it is no
    plain file.

    `samples` are the doc_ids of the task's samples: a row of any other is damage.
    """
    result, number = Replay(), 0
    with opened(path) as file:
        while line := file.readline(LONGEST):
            number += 1
            # a line as long as the bound was cut by `readline`: that is damage, and `take` says so
            if not line.endswith(b"\n") and len(line) < LONGEST:
                result.torn = True
                break
            try:
                _take(result, result.chain.take(line), cell, samples)
            except Damaged as error:
                result.damage = f"line {number}: {error}"
                break
    if result.head is None:
        result.damage = result.damage or "it has no whole line"
    return result


def row_fault(row: Any, samples: Mapping[str, int] | None) -> str:
    """What is wrong with a sample's row; empty where nothing is."""
    broken = columns.fault("samples", row)
    if broken or samples is None:
        return broken
    sample, doc_id = row["sample_id"], row["doc_id"]
    name = one_line(repr(sample), 60)
    if sample not in samples:
        return f"sample {name} is none of the task's"
    if samples[sample] != doc_id:
        return f"sample {name} has doc_id {doc_id}, the task's has {samples[sample]}"
    return ""


def _take(result: Replay, content: Any, cell: str, samples: Mapping[str, int] | None) -> None:
    """Add what a line holds: the first is the head, every further one the row of a sample.

    Rows without an answer are not kept, so that their samples are asked again.
    """
    if result.head is None:
        result.head = _checked_head(content, cell)
        return
    broken = row_fault(content, samples)
    if broken:
        raise Damaged(broken)
    sample = content["sample_id"]
    if sample in result.rows:
        raise Damaged(f"sample {one_line(repr(sample), 60)} stands there twice")
    # behind one without an answer its sample may stand again, answered by a later run
    if content["error"] is None:
        result.rows[sample] = content


def _checked_head(content: Any, cell: str) -> Any:
    if not isinstance(content, dict) or set(content) != set(head("", "")):
        raise Damaged("it does not name the cell and its configuration")
    if content["cell"] != cell:
        raise Damaged(f"it belongs to cell {one_line(repr(content['cell']), 80)}")
    return content


def _checksum(previous: str, body: bytes) -> str:
    return sha256(previous.encode() + b"\n" + body).hexdigest()
