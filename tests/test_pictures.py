"""Pictures of a study: the images of its questions, and the tokens that its cells kept of them."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hand_written import facts_of, write_facts
from PIL import Image

from prunebench import page
from prunebench.run import pictures
from prunebench.run.grid import load
from prunebench.run.keys import GridError
from prunebench.run.runner import sweep
from prunebench.run.show import picture
from prunebench.study import cells

METHODS = "methods=none,divprune,sparsevlm,resize"
TASK = ("tiny-qwen2.5-vl", "scenes")


@dataclass(frozen=True)
class Drawn:
    """A study, its samples in the page's order, and what was left of the first two."""

    study: Path
    samples: list[str]
    content: dict[str, Any]

    def kept(self, method: str) -> dict[str, Any]:
        """What there is of a method."""
        budget = "1.0" if method == "none" else "0.5"
        entry: dict[str, Any] = self.content["kept"][f"{TASK[0]}__{method}__{budget}__scenes__s0"]
        return entry


def change_answer(folder: Path, sample: str) -> None:
    """Put another answer into a cell, under a seal that fits."""
    path = folder / "samples.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    answers = ["other" if row["sample_id"] == sample else row["prediction"] for row in rows]
    place = table.column_names.index("prediction")
    pq.write_table(table.set_column(place, "prediction", [answers]), path)
    facts = {name: value for name, value in facts_of(folder).items() if name != "files"}
    write_facts(folder, facts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A small sweep of the embedded model; in one cell the first answer was changed afterwards."""
    out = tmp_path_factory.mktemp("pictures") / "study"
    words = [METHODS, "controls=false", "cost=false", "budgets=0.5", "limit=3", f"out={out}"]
    sweep(load(None, words))
    samples = page.chosen(cells.read(out)[0])[TASK]
    change_answer(out / "cells" / f"{TASK[0]}__sparsevlm__0.5__scenes__s0", samples[0])
    records, _ = cells.read(out)
    choice = pictures.Choice(page.chosen(records), 2)
    path = pictures.write(out, records, choice, lambda _: None, lambda _: None)
    return Drawn(out, samples, json.loads(path.read_text()))


def alive(stage: dict[str, Any]) -> Any:
    """[rows, columns] the tokens of a stage."""
    bits = np.frombuffer(base64.b64decode(stage["bits"]), np.uint8)
    shape = stage["rows"], stage["columns"]
    return np.unpackbits(bits)[: shape[0] * shape[1]].reshape(shape).astype(bool)


def test_some_questions_have_their_image_and_all_their_text(drawn: Drawn) -> None:
    entries = drawn.content["images"]["scenes"]
    assert {*entries} == {*drawn.samples}
    assert all(entry["question"] for entry in entries.values())
    assert [name for name in drawn.samples if "image" in entries[name]] == drawn.samples[:2]
    for name in drawn.samples[:2]:
        kind, _, data = entries[name]["image"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) <= pictures.SIDE


def test_what_is_shown_is_what_show_draws(drawn: Drawn) -> None:
    name = drawn.samples[1]
    folder = drawn.study / "cells" / f"{TASK[0]}__none__1.0__scenes__s0"
    rows = pq.read_table(folder / "samples.parquet")
    number = next(row["doc_id"] for row in rows.to_pylist() if row["sample_id"] == name)
    view = picture(["method=sparsevlm", "budget=0.5", "task=scenes", f"sample={number}"])
    drawing = view.strips[1]
    masks = [alive(stage) for stage in drawn.kept("sparsevlm")["samples"][name]]
    assert len(masks) == len(drawing.masks) > 1
    for mask, expected in zip(masks, drawing.masks, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_every_stage_keeps_as_many_as_the_cell_says(drawn: Drawn) -> None:
    folder = drawn.study / "cells" / f"{TASK[0]}__divprune__0.5__scenes__s0"
    rows = pq.read_table(folder / "samples.parquet")
    stages = {row["sample_id"]: row["stages"] for row in rows.to_pylist()}
    kept = drawn.kept("divprune")["samples"]
    assert [*kept] == drawn.samples[:2]
    for name, parts in kept.items():
        assert [int(alive(stage).sum()) for stage in parts] == stages[name]


def test_without_pruning_all_is_shown_and_of_a_smaller_image_all_of_that(drawn: Drawn) -> None:
    (whole,) = drawn.kept("none")["samples"][drawn.samples[0]]
    (smaller,) = drawn.kept("resize")["samples"][drawn.samples[0]]
    assert alive(whole).all()
    assert alive(smaller).all()
    assert smaller["rows"] * smaller["columns"] < whole["rows"] * whole["columns"]


def test_a_cell_that_answered_otherwise_shows_no_tokens(drawn: Drawn) -> None:
    entry = drawn.kept("sparsevlm")
    assert [*entry["samples"]] == [drawn.samples[1]]
    assert entry["lacks"].startswith("1 of 2 questions come out otherwise than the cell says")


def test_a_study_without_its_question_has_no_pictures(drawn: Drawn, tmp_path: Path) -> None:
    records, _ = cells.read(drawn.study)
    choice = pictures.Choice({}, 1)
    with pytest.raises(GridError, match="no grid file"):
        pictures.write(tmp_path, records, choice, lambda _: None, lambda _: None)
