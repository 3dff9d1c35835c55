"""The model card of a miniature, written from its recipe and its measured figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {pipeline}
---
# {name}

{about}

## Held-out figures
{figures}

## Training
{training}

AdamW, {precision}, gradient norm at most 1, learning rate {learning_rate} with a warm-up in each stage and a linear
fall over the last {decay:.0%} of the steps.

{repeat}:

| setting | value |
|---|---|
{settings}
{before}"""

_CHANGED = """
This run was stopped and continued with other settings, so a fresh run with those above takes another path:

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


def card(
    text: CardText,
    recipe: dict[str, Any],
    step: int,
    seconds: float,
    parameters: int,
    figures: dict[str, Any],
) -> str:
    """Markdown. `figures` as the miniature's evaluation returns them, `recipe` as `recipe.json`
    holds it, `seconds` for `step` steps.
    """
    settings = {
        **{key: value for key, value in recipe.items() if key not in ("model", "sizes", "before")},
        **recipe["sizes"],
    }
    known = {
        **recipe,
        "name": recipe["model"],
        "parameters": parameters,
        "step": step,
        "minutes": seconds / 60,
    }
    return _CARD.format(
        **{key: value for key, value in known.items() if key not in ("before", "figures")},
        pipeline=text.pipeline,
        about=text.about.format(**known),
        figures=text.figures(figures),
        training=text.training.format(**known),
        settings="\n".join(f"| {key} | {value} |" for key, value in settings.items()),
        before=_before(recipe.get("before", [])),
        repeat="The settings at the end"
        if recipe.get("before")
        else f"`prunebench testbed train FOLDER model={recipe['model']}` with these settings repeats it",
    )


def answer_figures(figures: dict[str, Any]) -> str:
    """The table of an LVLM's `evaluate`."""
    blank, guess = figures["blank"], figures["guess"]
    rows = [
        (kind, share, blank["by_type"][kind], guess["by_type"][kind])
        for kind, share in figures["by_type"].items()
    ]
    rows.append(("all", figures["accuracy"], blank["accuracy"], guess["accuracy"]))
    fine = [f"Of fine scenes (448x448 px, objects of 44 px), {_list(figures['fine']['by_type'])}"]
    if "fine_thumbnail" in figures:
        fine.append(
            f"with the tokens of its tiles hidden, {_list(figures['fine_thumbnail']['by_type'])}"
        )
    return f"""{figures["samples"]} questions about {_stream(figures)}; greedy `generate`, float32.

| question type | accuracy | image blanked | most frequent answer |
|---|---|---|---|
{_rows(rows)}

By size (pixels): {_list(figures["by_resolution"])}. By complexity: {_list(figures["by_complexity"])}.
{"; ".join(fine)}."""


def match_figures(figures: dict[str, Any]) -> str:
    """The table of a CLIP's `evaluate_clip`."""
    rows = [
        (f"{name} of a lone object, named", share, figures["chance"][name])
        for name, share in figures["named"].items()
    ]
    chance = 1 / figures["batch_size"]
    rows += [
        (f"{name} found among {figures['batch_size']}", figures[name], chance)
        for name in ("caption", "image")
    ]
    return f"""{figures["samples"]} {_stream(figures)}; each is seen whole and has a caption that lists
its objects, float32.

| | accuracy | chance |
|---|---|---|
{_rows(rows)}"""


_DENSE = """which colour, shape and digit
   lie there and whether it is an object's centre. Those without an object weigh {background}, digits {digit}."""
_QUESTIONS = """{questions} questions stand behind each image, each blind to the others; {colour_keyed} of them name a colour
   alone, which is learnt last. The loss is that of the answers, plus {dense} of the labels', plus {evidence} of -log of the
   attention that the question's last word pays to the evidence box in {evidence_heads} heads of one middle layer. The
   selecting word stands last in every question and nothing stands between it and the answer, in the chat template
   neither."""
_FROZEN = (
    """{step} steps on freshly generated scenes, in {minutes:.0f} minutes on a CPU (`training.csv` has the curves). {begins}
The tower stays as it is.

1. A linear head says of every projected token """
    + _DENSE
    + """
2. At the same time, """
    + _QUESTIONS
)

QWEN = CardText(
    pipeline="image-text-to-text",
    about="""A miniature of Qwen2.5-VL for trying visual-token pruning without downloads: the stock transformers class
`Qwen2_5_VLForConditionalGeneration` with {parameters:,} parameters, a word-level tokenizer and the stock image and video
processing. It answers questions about generated scenes of coloured shapes with digits, in 64 to 144 visual tokens an
image, and nothing else. Answers are one word.""",
    training="""Two stages on freshly generated scenes, {step} steps in {minutes:.0f} minutes on a CPU (`training.csv` has
the curves).

1. {vision_steps} steps of the vision tower alone: a linear head says of every visual token """
    + _DENSE
    + """
2. {joint_steps} steps of the whole model: """
    + _QUESTIONS,
    figures=answer_figures,
)

CLIP = CardText(
    pipeline="zero-shot-image-classification",
    about="""A miniature of CLIP: the stock transformers class `CLIPModel` with {parameters:,} parameters, a word-level tokenizer
and the stock image processing, which squashes an image to 112 px: 64 patches and a CLS token. It knows generated scenes of
coloured shapes with digits, and captions and questions about them, and nothing else. The LLaVA miniatures have its vision
tower; its text tower is there for pruning methods that compare the question with the image.""",
    training="""{step} steps on freshly generated scenes, {images} views of them a step: two of three are whole scenes
squashed, the others tiles as LLaVA-NeXT cuts them; {minutes:.0f} minutes on a CPU (`training.csv` has the curves). In the
first {crowded_steps} steps every scene has many objects, afterwards scenes are as they come, {fine:.0%} of them fine ones.
The patch embedding begins with whitened principal components of patches, the position embedding with sines and cosines:
from the stock start, shapes were learnt several times slower.

1. A linear head says of every patch before the last block """
    + _DENSE
    + """
2. At the same time, with weight {contrast}, the contrastive loss of CLIP between views and captions: lists of all objects
   in the view, or some words about one of them, perhaps as a question. A caption that is true of another view, too, does
   not count against it.
3. In the last {aligned_steps} steps, of {aligned_images} views each, the patches stay as they are and only what lies
   behind them learns by the contrastive loss: the last block, the text tower and the projections.""",
    figures=match_figures,
)

LLAVA = CardText(
    pipeline="image-text-to-text",
    about="""A miniature of LLaVA-1.5 for trying visual-token pruning without downloads: the stock transformers class
`LlavaForConditionalGeneration` with {parameters:,} parameters, a CLIP vision tower read before its last block, a word-level
tokenizer and the stock image processing, which squashes an image to 112 px. It answers questions about generated scenes of
coloured shapes with digits, in 64 visual tokens an image, and nothing else. Answers are one word.""",
    training=_FROZEN.replace(
        "{begins}",
        "The vision tower is that of tiny-clip, the language model begins as that of tiny-qwen2.5-vl, the projector at random.",
    ),
    figures=answer_figures,
)

LLAVA_NEXT = CardText(
    pipeline="image-text-to-text",
    about="""A miniature of LLaVA-NeXT for trying visual-token pruning without downloads: the stock transformers class
`LlavaNextForConditionalGeneration` with {parameters:,} parameters, a CLIP vision tower read before its last block, a
word-level tokenizer and the stock image processing: a thumbnail of 112 px and 2x2 tiles of 112 px. It answers questions
about generated scenes of coloured shapes with digits, in 336 visual tokens a square image, and nothing else. Answers are
one word.""",
    training=_FROZEN.replace("{begins}", "All weights begin as those of tiny-llava-1.5.")
    + """
   Of the scenes, {fine:.0%} are fine ones.""",
    figures=answer_figures,
)


def _stream(figures: dict[str, Any]) -> str:
    return f"scenes of the stream {figures['seed']}, which training never draws from"


def _rows(rows: list[tuple[Any, ...]]) -> str:
    return "\n".join(
        f"| {name} | {' | '.join(f'{share:.3f}' for share in shares)} |" for name, *shares in rows
    )


def _before(phases: list[dict[str, Any]]) -> str:
    """What a run that was continued with other settings had before, phase by phase."""
    if not phases:
        return ""
    lines = []
    for phase in phases:
        changed = ", ".join(
            f"{name} {value}" for name, value in phase.items() if name != "until_step"
        )
        lines.append(f"- Until step {phase['until_step']}, what was then changed: {changed}.")
    return _CHANGED + "\n".join(lines) + "\n"


def _list(shares: dict[Any, float]) -> str:
    return ", ".join(f"{group}: {share:.3f}" for group, share in shares.items())
