"""Profiled cards: what a profile measured, on the card of the miniature that it was measured on."""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROFILES = ROOT / "results" / "profile"
CARDS = ROOT / "prunebench" / "testbed"

TRAINING = "## Training\n"
"""What stands behind the profile."""

BEGIN, END = "<!-- profile -->\n", "<!-- /profile -->\n"


def cards() -> dict[Path, str]:
    """Every card that has a profile, as it should be."""
    fresh = {}
    for file in sorted(PROFILES.glob("*/profile.csv")):
        card = CARDS / file.parent.name / "README.md"
        fresh[card] = with_profile(card.read_text(), section(file))
    return fresh


def with_profile(card: str, profile: str) -> str:
    """The card with the profile in front of its training, in place of an earlier one.

    Raises ValueError for a card that has no training.
    """
    head, training, tail = card.partition(TRAINING)
    if not training:
        raise ValueError("the card has no section on training")
    return f"{head.partition(BEGIN)[0]}{profile}\n{training}{tail}"


def section(file: Path) -> str:
    """The lines of one profile: accuracy, and where attention lies, by layer."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    model, questions = file.parent.name, rows[0]["n"]
    layers = [row["before_layer"] for row in rows]
    layers[-1] = "never"
    lines = [
        "## When what is seen has moved to the answer",
        f"Accuracy over {questions} questions of `scenes` when all visual tokens leave before a",
        "layer, and the share of its attention that the last position pays the evidence in the",
        f"layer before (`prunebench profile model={model} limit={questions}`). By which layer",
        "a kind of question is answered was set by hand in training.",
        "",
        f"| visual tokens leave before layer | {' | '.join(layers)} |",
        f"|{'---|' * (len(rows) + 1)}",
        f"| accuracy | {_cells(rows, 'score')} |",
        f"| on the evidence | {_cells(rows, 'attention_on_evidence')} |",
    ]
    text = "\n".join(lines)
    return f"{BEGIN}{text}\n{END}"


def _cells(rows: list[dict[str, str]], name: str) -> str:
    texts = []
    for row in rows:
        value = row[name]
        texts.append(f"{float(value):.2f}" if value else "")
    return " | ".join(texts)
