"""Reviewed: what lmms-eval's task files do not say of their metrics, and what was read off the
tasks' own code instead.

A task is matched by its name, the first row that fits counts. What stands here decides what a
number means, so every row names its reason.

Which of several metrics stands for a task, its headline, is decided in this order:

1. the one in the table, where lmms-eval's file has a total under a name that says nothing, lists
   parts or raw counts before it, or where the task's paper prints one that the file has not first;
2. CIDEr for captions;
3. the first metric of the file, where its name says that it is the total, or none says so;
4. the one whose name says that it is the total of the others (overall, average, all), of several
   the shortest;
5. where none of the metrics gives a number, the submission.

lmms-eval itself prints all metrics side by side. Its files put first what their authors report,
but for those in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Reviewed:
    """What is known of some tasks; what is empty follows the general rules.

    `tasks` are names or patterns. `headline` is the metric that stands for the task. `groups` are
    the keys of a sample's value that tell which samples are scored together, but for what matches
    `beside` in them; `size` is how many those are where a group that lacks one has no score.
    `strata` are keys of a sample's value whose parts count alike, whatever their size. `whole` is
    how many samples an aggregation takes that takes all or none. `unit` is that of the headline,
    where it is no share and no percentage, and `bounds` are the least and the most that a sample or
    its group adds to it. `positive` are the keys of what was said and of what is right, and the
    word whose hits precision, recall and F1 count. `judged` is false where a judge stands in the
    task's code but is never asked as lmms-eval runs the task, and `sends` is true where its
    aggregation sends the answers to a server of the task's own.
    """

    tasks: tuple[str, ...]
    why: str
    headline: str = ""
    groups: tuple[str, ...] = ()
    beside: str = ""
    size: int = 0
    strata: tuple[str, ...] = ()
    whole: int = 0
    unit: str = ""
    bounds: tuple[float, float] | None = None
    positive: tuple[str, str, str] | None = None
    judged: bool | None = None
    sends: bool = False


TABLE: tuple[Reviewed, ...] = (
    Reviewed(
        ("mmbench*_static",),
        "the same class asks a judge in other tasks; told static, it reads the option itself",
        judged=False,
    ),
    Reviewed(
        ("mme",),
        "two questions an image are scored as a pair, and categories add up, to 2000 points of "
        "perception and 800 of cognition; perception is what papers print",
        headline="mme_perception_score",
        groups=("category", "question_id"),
        size=2,
        strata=("category",),
        unit="points",
        bounds=(0.0, 200.0),
    ),
    Reviewed(
        ("pope", "pope_*"),
        "accuracy is first in the file; papers print it or F1, which is of the answer yes",
        headline="pope_accuracy",
        positive=("prediction", "ground_truth", "yes"),
    ),
    Reviewed(
        ("mmvp",),
        "a pair of images that CLIP confuses counts where both are right, in the paper as well",
        headline="mmvp_pair_accuracy",
        groups=("pair_index",),
        size=2,
    ),
    Reviewed(
        ("mvp_*",),
        "two videos that differ little share a question, and count where both are right",
        headline="pair_accuracy",
        groups=("video_id",),
        beside=r"_[^_]*$",
    ),
    Reviewed(
        ("naturalbench",),
        "two questions on two images are a group; all 1900 are counted by their place, or none",
        headline="naturalbench_G_ACC",
        whole=7600,
    ),
    Reviewed(
        ("camerabench_vqa",),
        "counted by the code of NaturalBench, which takes 7600 answers or none",
        headline="cambench_Q_ACC",
        whole=7600,
    ),
    Reviewed(
        ("3dsrbench_circular",),
        "a question is asked with its options in every order, and mirrored; in the paper it counts "
        "where all are right",
        headline="flip_circular_accuracy",
        groups=("qid",),
        beside=r"-.*$",
    ),
    Reviewed(
        ("videomathqa_mbin*",),
        "a question is asked once for every wrong option, and counts where all are right",
        groups=("question_id",),
    ),
    Reviewed(
        ("videomme_v2*",),
        "the questions on a video are one group, scored as a whole",
        headline="videomme_v2_overall_score",
        groups=("video_id",),
    ),
    Reviewed(
        ("refcoco_bbox_rec*", "refcoco+_bbox_rec*", "refcocog_bbox_rec*"),
        "boxes count from an overlap of one half on, as in every paper on them",
        headline="refcoco_ACC@0.5",
    ),
    Reviewed(
        ("refcoco_grounding*", "refcoco_plus_grounding*", "refcocog_grounding*"),
        "as above",
        headline="refcoco_grounding_ACC@0.5",
    ),
    Reviewed(("groundingme",), "as above", headline="groundingme_ACC@0.5"),
    Reviewed(
        ("screenspot_rec_test",),
        "a click counts where the box's centre lies in the element",
        headline="screenspot_Center_ACC",
    ),
    Reviewed(("odinw13",), "the paper's number", headline="odinw13_mAP"),
    Reviewed(
        ("capability_*",),
        "the first metric is the judge's raw answers; F1 joins precision and recall",
        headline="capability_f1_score",
    ),
    Reviewed(
        ("saco_*",), "the first metrics are counts that the F1 is made of", headline="sample_f1"
    ),
    Reviewed(
        ("imgedit",), "the three before it are parts of this mean", headline="imgedit_avg_score"
    ),
    Reviewed(
        ("timelens_*",), "the mean over all overlaps", headline="timelens_mIOU"
    ),
    Reviewed(
        ("temporal_grounding_charades",),
        "the mean over all overlaps",
        headline="charades_sta_mIOU",
    ),
    Reviewed(("vstat",), "the mean of both kinds of questions", headline="ALL_Score_avg"),
    Reviewed(
        ("mmrefine",),
        "the first metric counts failures, of which fewer is better; this is the paper's total",
        headline="RefScore",
    ),
    Reviewed(
        ("detailcaps",), "the paper's own, beside CIDEr", headline="detailcaps_CAPTURE"
    ),
    Reviewed(
        ("vcr_wiki_*",), "papers print how many are restored exactly", headline="exact_match"
    ),
    Reviewed(
        ("activitynetqa",),
        "papers print the share that the judge takes for right; the other is its mark of 0 to 5",
        headline="gpt_eval_accuracy",
    ),
    Reviewed(
        ("background_test", "camera_test", "detailed_test", "main_object_test", "short_test"),
        "as above",
        headline="llmms_eval_acc",
    ),
    Reviewed(
        ("egoschema",),
        "the answers to most of its questions are not public: its aggregation sends what was "
        "answered to the server of its authors",
        judged=False,
        sends=True,
    ),
    Reviewed(
        ("cc_ocr_doc_parsing",), "the mean of its parts", headline="overall_score"
    ),
)  # fmt: skip

NOTHING = Reviewed((), "")
"""Of a task that needs no review."""

TOTAL_WORDS = frozenset({"overall", "average"})
"""A metric with one of these words in its name is the total of the others."""

LAST_WORDS = frozenset({"all", "total"})
"""So is one whose name ends in one of these."""

CAPTION_ENDS = ("CIDEr",)
"""Captions have seven metrics, of which lmms-eval's own tables and papers print this one."""

STRATA = (
    "category",
    "l2_category",
    "l2-category",
    "subdomain",
    "sub_category",
    "task",
    "task_type",
    "question_type",
    "type",
    "language",
    "domain",
)
"""Keys of a sample's value by which tasks commonly take means of means."""


def review_of(task: str) -> Reviewed:
    """What was read off the code of a task."""
    for row in TABLE:
        if any(fnmatchcase(task, pattern) for pattern in row.tasks):
            return row
    return NOTHING


def headline(task: str, metrics: Sequence[str]) -> str:
    """Which of the metrics that give numbers stands for a task: the reviewed one; else the total
    of the others by its name; else the first. Empty where there is none.
    """
    reviewed = review_of(task).headline
    if reviewed in metrics:
        return reviewed
    if not metrics:
        return ""
    captions = [name for name in metrics if name.endswith(CAPTION_ENDS)]
    if captions:
        return captions[0]
    totals = [name for name in metrics if _is_total(name)]
    # the first is what its author puts first; of several the shortest is the total of totals
    if not totals or metrics[0] in totals:
        return metrics[0]
    return min(totals, key=len)


def _is_total(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return bool(TOTAL_WORDS & set(words)) or words[-1] in LAST_WORDS
