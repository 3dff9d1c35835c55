"""What the files of these tasks refer to."""

from typing import Any

from prunebench.tasks.visual_cot import JUDGED, _judging
from prunebench.tasks.visual_cot._layout import layout
from prunebench.tasks.visual_cot._match import lenient

from prunebench.border import images


def visual(doc: dict[str, Any]) -> list[Any]:
    """The one image of the question; raises ImageError where it is missing or broken."""
    source = layout().source(doc["image"])
    if source is None:
        raise images.ImageError(f"image {doc['image']} of Visual-CoT is missing")
    return [images.load(source)]


def results(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """What the rule says of the answer, and a judge where one is configured and gives a score."""
    answer = answers[0]
    scores = {"lenient_match": lenient(answer, doc["answer"])}
    judged = _judging.score(doc["question"], doc["answer"], answer)
    if judged is not None:
        scores[JUDGED] = judged
    return scores
