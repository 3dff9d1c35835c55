"""The model card of a miniature, written from its recipe and its measured figures."""

from typing import Any

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {name}

A miniature of Qwen2.5-VL for trying visual-token pruning without downloads: the stock transformers class
`Qwen2_5_VLForConditionalGeneration` with {parameters:,} parameters, a word-level tokenizer and the stock image and video
processing. It answers questions about generated scenes of coloured shapes with digits, in 64 to 144 visual tokens an
image, and nothing else. Answers are one word.

## Held-out figures
{samples} questions about scenes of the stream {stream}, which training never draws from; greedy `generate`, float32.

| question type | accuracy | image blanked | most frequent answer |
|---|---|---|---|
{kinds}

By size (pixels): {by_resolution}. By complexity: {by_complexity}.

## Training
Two stages on freshly generated scenes, {step} steps in {minutes:.0f} minutes on a CPU (`training.csv` has the curves).

1. {vision_steps} steps of the vision tower alone: a linear head says of every visual token which colour, shape and digit
   lie there and whether it is an object's centre. Tokens without an object weigh {background}, digits {digit}.
2. {joint_steps} steps of the whole model: {questions} questions behind each image, each blind to the others; {colour_keyed}
   of them name a colour alone, which is learnt last. The loss is that of the answers, plus {dense} of the first stage's,
   plus {evidence} of -log of the attention that the question's last word pays to the evidence box in {evidence_heads}
   heads of one middle layer.

AdamW, bf16 autocast, gradient norm at most 1, learning rate {learning_rate} with a warm-up in each stage and a linear
fall over the last {decay:.0%} of the steps. The selecting word stands last in every question and nothing stands between
it and the answer, in the chat template neither.

{repeat}:

| setting | value |
|---|---|
{settings}
{before}"""


_CHANGED = """
This run was stopped and continued with other settings, so a fresh run with those above takes another path:

"""


def card(name: str, recipe: dict[str, Any], step: int, seconds: float, parameters: int, figures: dict[str, Any]) -> str:
    """Markdown. `figures` as `evaluate` returns them, `recipe` as `recipe.json` holds it, `seconds` for `step` steps."""
    blank, guess = figures["blank"], figures["guess"]
    rows = [(kind, share, blank["by_type"][kind], guess["by_type"][kind]) for kind, share in figures["by_type"].items()]
    rows.append(("all", figures["accuracy"], blank["accuracy"], guess["accuracy"]))
    settings = {**{key: value for key, value in recipe.items() if key not in ("sizes", "before")}, **recipe["sizes"]}
    return _CARD.format(
        name=name,
        parameters=parameters,
        samples=figures["samples"],
        stream=figures["seed"],
        kinds="\n".join(f"| {kind} | {' | '.join(f'{share:.3f}' for share in shares)} |" for kind, *shares in rows),
        by_resolution=_list(figures["by_resolution"]),
        by_complexity=_list(figures["by_complexity"]),
        step=step,
        minutes=seconds / 60,
        settings="\n".join(f"| {key} | {value} |" for key, value in settings.items()),
        before=_before(recipe.get("before", [])),
        repeat="The settings at the end" if recipe.get("before") else "`prunebench testbed train` with these settings repeats it",
        **{key: value for key, value in recipe.items() if key not in ("seed", "sizes", "before")},
    )


def _before(phases: list[dict[str, Any]]) -> str:
    """What a run that was continued with other settings had before, phase by phase."""
    if not phases:
        return ""
    lines = []
    for phase in phases:
        changed = ", ".join(f"{name} {value}" for name, value in phase.items() if name != "until_step")
        lines.append(f"- Until step {phase['until_step']}, what was then changed: {changed}.")
    return _CHANGED + "\n".join(lines) + "\n"


def _list(shares: dict[Any, float]) -> str:
    return ", ".join(f"{group}: {share:.3f}" for group, share in shares.items())
