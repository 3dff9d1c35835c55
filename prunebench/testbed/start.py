"""Start: the weights that a miniature begins with, another's or those of one of its own kind."""

import json
from pathlib import Path
from typing import Any

from prunebench.border.text import message, one_line
from prunebench.learning.folder import RunError
from prunebench.learning.run import Run
from prunebench.testbed.miniatures import Miniature

EARLIER = {"README.md": "earlier.md", "training.csv": "earlier.csv"}
"""What a run that trains a miniature further keeps of it: its card and its curves."""


def begin_weights(kind: Miniature, model: Any, start: Path | None) -> bool:
    """Give the model the weights that it begins with; returns whether these are of a miniature of
    its own kind, which is trained further.

    Raises RunError for a start that cannot be.
    """
    if start is not None and not start.is_dir():
        what = f"start {one_line(str(start), 100)} is no folder"
        raise RunError(f"{what}; give that of the miniature to begin with")
    begin = kind.begin
    source, further = "the shipped miniatures", False
    try:
        if start is not None:
            source = f"start {one_line(str(start), 80)}"
            further = _is_own(model, start)
            begin = _take_all if further or begin is None else begin
        if begin is not None:
            begin(model, start)
    # what unfit files make the loaders raise is as various as they are
    except Exception as error:
        reason = one_line(message(error), 120)
        raise RunError(f"the model cannot begin with {source}: {reason}") from error
    return further


def _is_own(model: Any, start: Path) -> bool:
    """Whether the folder holds a miniature of the model's own kind, with as many words.

    Raises ValueError for such a miniature without card or curves.
    """
    file = start / "config.json"
    if not file.is_file():
        return False
    config = json.loads(file.read_text())
    words = model.config.text_config.vocab_size
    if config.get("architectures") != [type(model).__name__]:
        return False
    if config["text_config"].get("vocab_size") != words:
        return False
    missing = [name for name in EARLIER if not (start / name).is_file()]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    return True


def keep_earlier(run: Run, start: Path) -> None:
    """Put the card and the curves of the miniature that is trained further beside the run's own."""
    for name, earlier in EARLIER.items():
        run.write(earlier, (start / name).read_bytes())


def _take_all(model: Any, folder: Path | None) -> None:
    """Copy all weights of the folder's model, which is of the same kind."""
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())
