"""Turn a training run into an ordinary `from_pretrained` folder with a model card."""

import shutil
from pathlib import Path
from typing import Any

from prunebench.learning import log
from prunebench.learning.checkpoint import State
from prunebench.testbed.card import model_card
from prunebench.testbed.miniatures import miniature
from prunebench.testbed.start import EARLIER


def export(
    run: Path,
    state: State,
    folder: Path,
    *,
    held_out: int = 1000,
    held_out_seed: int = 1,
    device: str = "cpu",
) -> None:
    """Write the weights (float32), processor and model card of a run that stands at `state` to an
    empty folder.

    The card's figures are measured here, over `held_out` questions of the stream `held_out_seed`;
    the run's log is beside.
    """
    recipe: dict[str, Any] = state.facts["recipe"]
    kind = miniature(recipe["model"])
    sizes = type(kind.recipe.sizes)(**recipe["sizes"])
    model = kind.build(sizes, recipe["seed"])
    prefix = "model."  # the run has a head, too, which is left behind
    names = [name for name in state.weights if name.startswith(prefix)]
    weights = {}
    for name in names:
        # rounded to what training computed with: files compress to half, and answers are the same
        weights[name.removeprefix(prefix)] = state.weights[name].bfloat16().float()
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    kind.processor().save_pretrained(folder)
    figures = kind.evaluate(folder, samples=held_out, seed=held_out_seed, device=device)
    parameters = sum(weight.numel() for weight in model.parameters())
    card, curves = (run / EARLIER[name] for name in ("README.md", "training.csv"))
    further = recipe.get("further", False)
    earlier = card.read_text() if further else None
    text = model_card(kind.text, recipe, state.step, state.seconds, parameters, figures, earlier)
    (folder / "README.md").write_text(text)
    if further:
        shutil.copyfile(curves, folder / "training.csv")
    shutil.copyfile(run / log.NAME, folder / f"training{'_further' if further else ''}.csv")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
