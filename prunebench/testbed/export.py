"""Turn a training run into an ordinary `from_pretrained` folder with a model card."""

import shutil
from pathlib import Path
from typing import Any

from prunebench.learning.checkpoint import LOG, State
from prunebench.testbed.card import card
from prunebench.testbed.miniatures import miniature


def export(
    run: Path, state: State, folder: Path, *, held_out: int = 1000, held_out_seed: int = 1
) -> None:
    """Write the weights (float32), processor and model card of a run that stands at `state` to an
    empty folder.

    The card's figures are measured here, over `held_out` questions of the stream `held_out_seed`;
    the run's log is beside.
    """
    recipe: dict[str, Any] = state.facts["recipe"]
    kind = miniature(recipe["model"])
    model = kind.build(type(kind.recipe.sizes)(**recipe["sizes"]), recipe["seed"])
    prefix = "model."  # the student has a head, too, which is left behind
    weights = {
        name.removeprefix(prefix): value
        for name, value in state.weights.items()
        if name.startswith(prefix)
    }
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    kind.processor().save_pretrained(folder)
    figures = kind.evaluate(folder, samples=held_out, seed=held_out_seed)
    parameters = sum(weight.numel() for weight in model.parameters())
    (folder / "README.md").write_text(
        card(kind.text, recipe, state.step, state.seconds, parameters, figures)
    )
    shutil.copyfile(run / LOG, folder / "training.csv")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
