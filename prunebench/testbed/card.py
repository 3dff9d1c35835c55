"""The model card of a miniature, written from its recipe and its measured figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunebench.testbed.options import STAGES

TRAINING, FURTHER = "## Training\n", "## Trained further\n"
"""The headings of a card behind its figures."""

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {pipeline}
---
# {name}

{about}

## Held-out figures
{figures}

{earlier}{heading}{training}

AdamW, {precision}, gradient norm at most 1, learning rate {learning_rate} with a warm-up in each
stage and a linear fall over the last {decay:.0%} of the steps.

{repeat}:

| setting | value |
|---|---|
{settings}
{before}"""

_FURTHER_KEYS = ("seed", "tokens", "learning_rate", *STAGES)
"""The settings that a command names which trains a miniature further."""

_CHANGED = """
This run was stopped and continued with other settings, so a fresh run with those above takes
another path:

"""


@dataclass(frozen=True)
class CardText:
    """What a card says of one miniature: templates, to be filled in from the recipe, and how its
    figures are written.
    """

    pipeline: str
    about: str
    training: str
    figures: Callable[[dict[str, Any]], str]
    further: str = ""


def model_card(
    text: CardText,
    recipe: dict[str, Any],
    step: int,
    seconds: float,
    parameters: int,
    figures: dict[str, Any],
    earlier: str | None = None,
) -> str:
    """Markdown. `figures` as the miniature's evaluation returns them, `recipe` as `recipe.json`
    holds it, `seconds` for `step` steps; `earlier` is the card of the miniature that was trained
    further.
    """
    before = recipe.get("before", [])
    plain = {key: value for key, value in recipe.items() if key not in ("before", "further")}
    facts = {
        **plain,
        "name": recipe["model"],
        "parameters": parameters,
        "step": step,
        "minutes": seconds / 60,
    }
    settings = {**plain, **recipe["sizes"]}
    heading, training, start = TRAINING, text.training, ""
    if earlier is not None:
        heading, training = FURTHER, text.further
        facts["course"] = _course(plain)
        start = " start=EARLIER " + " ".join(
            f"{name}={value}" for name, value in plain.items() if name in _FURTHER_KEYS
        )
    rows = [
        f"| {key} | {value} |" for key, value in settings.items() if key not in ("model", "sizes")
    ]
    if before:
        repeat = "The settings at the end"
    elif step < sum(steps for name, steps in plain.items() if name.endswith("_steps")):
        minutes = f"minutes={facts['minutes']:.1f}"
        command = f"prunebench testbed train FOLDER model={recipe['model']}{start} {minutes}"
        repeat = f"Its time was over before its steps: `{command}` on such a machine comes near it"
    else:
        command = f"prunebench testbed train FOLDER model={recipe['model']}{start}"
        repeat = f"`{command}` with these settings repeats it"
    return _CARD.format(
        **facts,
        pipeline=text.pipeline,
        about=text.about.format(**facts),
        figures=text.figures(figures),
        earlier="" if earlier is None else _training(earlier),
        heading=heading,
        training=training.format(**facts),
        settings="\n".join(rows),
        before=_before(before),
        repeat=repeat,
    )


def _course(recipe: dict[str, Any]) -> str:
    """What learns in the stages of a run that trains a miniature further."""
    joint, finish = recipe["joint_steps"], recipe["finish_steps"]
    parts = []
    if joint:
        parts.append(f"In the first {joint} steps all learns that learnt before.")
    if finish:
        when = "Behind them" if joint else "In all of them"
        parts.append(
            f"{when} what sees stays as it is, and `finish` says how often each kind of question "
            "comes: what is weak most often."
        )
    return " ".join(parts)


def _training(card: str) -> str:
    """What a card says of its training, from the first heading on."""
    return f"{TRAINING}{card.partition(TRAINING)[2].rstrip()}\n\n"


def answer_figures(figures: dict[str, Any]) -> str:
    """The table of an LVLM's `evaluate`."""
    fine = [f"Of fine scenes (560x560 px, objects of 44 px), {_list(figures['fine']['by_type'])}"]
    if "fine_thumbnail" in figures:
        fine.append(
            f"with the tokens of its tiles hidden, {_list(figures['fine_thumbnail']['by_type'])}"
        )
    return f"""{figures["samples"]} questions about {_stream(figures)}; greedy `generate`, float32.

{_by_type(figures)}

By size (pixels): {_list(figures["by_resolution"])}.
By complexity: {_list(figures["by_complexity"])}.
{"; ".join(fine)}."""


def film_figures(figures: dict[str, Any]) -> str:
    """The tables of `evaluate_films`."""
    parts = [answer_figures(figures)]
    for name in ("clips", "pairs"):
        part = figures[name]
        parts.append(
            f"{part['samples']} questions about {name} of that stream:\n\n{_by_type(part)}"
        )
    return "\n\n".join(parts)


def match_figures(figures: dict[str, Any]) -> str:
    """The table of a CLIP's `evaluate_clip`."""
    rows = []
    for name, share in figures["named"].items():
        rows.append((f"{name} of a lone object, named", share, figures["chance"][name]))
    count = figures["batch_size"]
    for name in ("caption", "image"):
        rows.append((f"{name} found among {count}", figures[name], 1 / count))
    return f"""{figures["samples"]} {_stream(figures)}; each is seen whole and has a caption that
lists its objects, float32.

| | accuracy | chance |
|---|---|---|
{_rows(rows)}"""


def _stream(figures: dict[str, Any]) -> str:
    """Which scenes the figures are of."""
    return f"scenes of the stream {figures['seed']}, which training never draws from"


def _by_type(figures: dict[str, Any]) -> str:
    """The table of shares by type, beside those without an image and of the best guess."""
    blank, guess = figures["blank"], figures["guess"]
    rows = []
    for kind, share in figures["by_type"].items():
        rows.append((kind, share, blank["by_type"][kind], guess["by_type"][kind]))
    rows.append(("all", figures["accuracy"], blank["accuracy"], guess["accuracy"]))
    return f"""| question type | accuracy | image blanked | most frequent answer |
|---|---|---|---|
{_rows(rows)}"""


def _rows(rows: list[tuple[Any, ...]]) -> str:
    """Rows of a table: a name, then shares."""
    lines = []
    for name, *shares in rows:
        cells = [f"{share:.3f}" for share in shares]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _before(phases: list[dict[str, Any]]) -> str:
    """What a run that was continued with other settings had before, phase by phase."""
    if not phases:
        return ""
    lines = []
    for phase in phases:
        changes = [f"{name} {value}" for name, value in phase.items() if name != "until_step"]
        until = f"Until step {phase['until_step']}"
        lines.append(f"- {until}, what was then changed: {', '.join(changes)}.")
    return _CHANGED + "\n".join(lines) + "\n"


def _list(shares: dict[Any, float]) -> str:
    """Shares by group, on one line."""
    return ", ".join(f"{group}: {share:.3f}" for group, share in shares.items())
