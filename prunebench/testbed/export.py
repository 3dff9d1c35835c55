"""Turn a training run into an ordinary `from_pretrained` folder with a model card."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from prunebench.testbed.card import card
from prunebench.testbed.miniatures import miniature


def export(run: Path, folder: Path, *, held_out: int = 1000, held_out_seed: int = 1) -> Path:
    """Write the weights (float32), processor and model card of the run's checkpoint to `folder`, replaced as a whole.

    The card's figures are measured here, over `held_out` questions of the stream `held_out_seed`. Returns `folder`.
    """
    recipe: dict[str, Any] = json.loads((run / "recipe.json").read_text())
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    kind = miniature(recipe["model"])
    model = kind.build(type(kind.recipe.sizes)(**recipe["sizes"]), recipe["seed"])
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in state["student"].items() if name.startswith("model.")}
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workplace:
        fresh, old = Path(workplace, "fresh"), Path(workplace, "old")
        model.save_pretrained(fresh)
        kind.processor().save_pretrained(fresh)
        figures = kind.evaluate(fresh, samples=held_out, seed=held_out_seed)
        parameters = sum(weight.numel() for weight in model.parameters())
        (fresh / "README.md").write_text(card(kind.text, recipe, state["step"], state["seconds"], parameters, figures))
        shutil.copyfile(run / "log.csv", fresh / "training.csv")
        for file in fresh.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    return folder
