"""Scored tasks: what is known of lmms-eval's own tasks beyond their files, held against the code
that is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_scoring import (
    COUNTED,
    QUESTIONS,
    RESULTS,
    Judge,
    grouped,
    metric,
    no_judge,
    result,
    rows,
    server,
    task,
)

from prunebench.benchmarks import public_tasks, reviewed
from prunebench.benchmarks.judge import NoJudge
from prunebench.run.summary import summarized
from prunebench.study.statistics import f1_interval, mean_interval, wilson

__all__ = ["no_judge", "server"]  # fixtures

HEADLINES = {
    # the suites
    "gqa": "exact_match",
    "pope": "pope_accuracy",
    "mme": "mme_perception_score",
    "mmbench_en_dev_static": "gpt_eval_score",
    "mmstar": "average",
    "scienceqa_img": "exact_match",
    "seedbench": "seed_all",
    "textvqa_val": "exact_match",
    "docvqa_val": "anls",
    "chartqa": "relaxed_overall",
    "chartqa_lite": "relaxed_overall",
    "ocrbench": "ocrbench_accuracy",
    "infovqa_val": "anls",
    "vstar_bench": "vstar_overall_acc",
    "mmerealworld_lite": "mme_realworld_score",
    "realworldqa": "exact_match",
    "cv_bench_2d": "cv_bench_acc",
    "countbenchqa": "acc",
    "refcoco_bbox_rec_val": "refcoco_ACC@0.5",
    "refcoco+_bbox_rec_val": "refcoco_ACC@0.5",
    "refcocog_bbox_rec_val": "refcoco_ACC@0.5",
    "refcoco_grounding_testA": "refcoco_grounding_ACC@0.5",
    "refcoco_plus_grounding_testA": "refcoco_grounding_ACC@0.5",
    "refcocog_grounding_test": "refcoco_grounding_ACC@0.5",
    # others that are well known
    "vqav2_val": "exact_match",
    "vizwiz_vqa_val": "exact_match",
    "ok_vqa_val2014": "exact_match",
    "mmmu_val": "mmmu_acc",
    "mmmu_pro_standard": "mmmu_acc",
    "mmmu_pro_vision": "mmmu_acc",
    "cmmmu_val": "cmmmu_acc",
    "ai2d": "exact_match",
    "mathvista_testmini_cot": "llm_as_judge_eval",
    "mathvision_test": "mathvision_standard_eval",
    "mmvet": "gpt_eval_score",
    "mmvp": "mmvp_pair_accuracy",
    "naturalbench": "naturalbench_G_ACC",
    "hallusion_bench_image": "aAcc",
    "llava_in_the_wild": "gpt_eval_llava_all",
    "ocrbench_v2": "ocrbench_v2_accuracy",
    "hrbench4k": "average",
    "muirbench": "muirbench_score_overall",
    "seedbench_2_plus": "seedbench_2_plus_all",
    "charxiv_val_reasoning": "reasoning_acc",
    "vcr_wiki_en_easy": "exact_match",
    "detailcaps": "detailcaps_CAPTURE",
    "coco2017_cap_val": "coco_CIDEr",
    "nocaps_val": "nocaps_CIDEr",
    "flickr30k_test": "flickr_CIDEr",
    "textcaps_val": "textcaps_CIDEr",
    "youcook2_val": "CIDEr",
    "multidocvqa_val": "anls",
    "dude": "dude_anls",
    "screenspot_pro": "screenspot_pro_action_acc",
    "screenspot_rec_test": "screenspot_Center_ACC",
    "3dsrbench_circular": "flip_circular_accuracy",
    "mmrefine": "RefScore",
    "videomme": "videomme_perception_score",
    "videomme_v2": "videomme_v2_overall_score",
    "mvbench_action_sequence": "mvbench_accuracy",
    "mlvu_dev": "mlvu_percetion_score",
    "longvideobench_val_v": "lvb_acc",
    "lvbench": "lvbench_score",
    "nextqa_mc_test": "exact_match",
    "perceptiontest_val_mc": "accuracy",
    "activitynetqa": "gpt_eval_accuracy",
    "egoschema": "submission",
    "egoschema_subset": "score",
    "tempcompass_yes_no": "avg_accuracy",
    "vsibench": "vsibench_overall",
    "vstat": "ALL_Score_avg",
}


@pytest.mark.parametrize("name", HEADLINES)
def test_the_headline_of_an_installed_task(name: str) -> None:
    metrics = public_tasks()[name].metrics
    numbers = [one for one in metrics if "submission" not in one]
    assert (reviewed.headline(name, numbers) or metrics[0]) == HEADLINES[name]


def test_a_review_fits_a_task_that_is_there() -> None:
    """A pattern that fits nothing was meant for something else."""
    from fnmatch import fnmatchcase

    names = public_tasks().keys()
    for row in reviewed.TABLE:
        for pattern in row.tasks:
            fitting = [name for name in names if fnmatchcase(name, pattern)]
            assert fitting, pattern
            for name in fitting:
                metrics = public_tasks()[name].metrics
                if row.headline and metrics and reviewed.review_of(name) is row:
                    assert row.headline in metrics, (name, row.headline)


# ---- the ends of a score -------------------------------------------------------------------------

POPE = """
from lmms_eval.tasks.pope.utils import *

def results(doc, answers):
    meant = "yes" if doc["kind"] == "a" else "no"
    return pope_process_results({"question_id": doc["id"], "answer": meant}, answers)
"""


def pope(folder: Path) -> Any:
    names = ("accuracy", "precision", "recall", "f1_score")
    metrics = tuple((f"pope_{name}", f"!function utils.pope_aggregate_{name}") for name in names)
    return task(folder, POPE, metrics, name="pope")


def test_an_f1_of_zero_has_the_interval_of_the_answers_that_count(tmp_path: Path) -> None:
    """Four of twelve are meant to be yes: all "no" misses four, and right answers to the others say
    nothing of the F1.
    """
    summary = result(pope(tmp_path), right=())
    f1, recall, precision = (
        metric(summary, f"pope_{name}") for name in ("f1_score", "recall", "precision")
    )
    assert (f1.value, f1.ci_low) == (0.0, 0.0)
    assert f1.ci_high == pytest.approx(f1_interval(0, 4).high)
    assert f1_interval(0, 4).high == pytest.approx(2 * 0.4899 / 1.4899, abs=1e-3)
    assert recall.ci_high == pytest.approx(wilson(0, 4).high)
    assert precision.ci_low is None
    assert "pope_precision has no interval: no answer counts in precision, which is 0 for that" in (
        summary.notes
    )
    whole = result(pope(tmp_path), right=range(4))
    assert metric(whole, "pope_f1_score").value == 1.0
    assert metric(whole, "pope_f1_score").ci_low == pytest.approx(f1_interval(4, 4).low)
    between = metric(result(pope(tmp_path), right=range(7)), "pope_f1_score")
    assert between.value == pytest.approx(f1_interval(4, 7).value)
    assert between.ci_low is not None
    assert 0 < between.ci_low < 8 / 11


def test_an_f1_of_zero_has_the_interval_of_as_many_images(tmp_path: Path) -> None:
    """The four that are meant to be yes are of two images: two are missed, not four."""
    benchmark = pope(tmp_path)
    answered = [row | {"image": f"{row['doc_id'] // 2}"} for row in rows(benchmark, right=())]
    summary = summarized(benchmark, answered)
    assert metric(summary, "pope_f1_score").ci_high == pytest.approx(f1_interval(0, 2).high)
    assert metric(summary, "pope_recall").ci_high == pytest.approx(wilson(0, 2).high)
    assert metric(summary, "pope_recall").n == QUESTIONS


def test_what_all_draws_agree_on_has_no_interval(tmp_path: Path) -> None:
    """It had one without width, as if it were certain."""
    code = """
def fold(values):
    return 0.7 if len(values) > 1 and any(map(hit, values)) else 0.0
"""
    summary = result(task(tmp_path, COUNTED + code), right=range(QUESTIONS))
    assert metric(summary).value == 0.7
    assert metric(summary).ci_low is None
    assert "samples drawn anew all have the same number" in summary.notes[0]


MME = """
from lmms_eval.tasks.mme.utils import *

def results(doc, answers):
    category = {"a": "existence", "b": "count"}[doc["kind"] if KINDS else "a"]
    row = {"question_id": doc["pair"], "category": category, "answer": "yes"}
    return mme_process_results(row, answers)
"""


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("right", [(), (0, 1), (0, 1, 2, 3, 4), tuple(range(QUESTIONS))])
def test_mme_stays_between_its_bounds(tmp_path: Path, kinds: bool, right: tuple[int, ...]) -> None:
    code = MME.replace("KINDS", str(kinds))
    metrics = (("mme_perception_score", "!function utils.mme_aggregate_results"),)
    row = metric(result(task(tmp_path, code, metrics, name="mme"), right))
    assert row.value is not None
    assert row.ci_low is not None
    assert row.ci_high is not None
    most = 200 * (1 + kinds)
    assert -1e-9 <= row.ci_low <= row.value + 1e-9
    assert row.value - 1e-9 <= row.ci_high <= most + 1e-9
    assert row.ci_low < row.ci_high


def test_points_are_never_below_none() -> None:
    _, low, high = mean_interval([0.0, 0.0, 0.0, 100.0])
    assert low == 0.0
    assert high is not None
    assert high > 25
    _, low, _ = mean_interval([-100.0, 0.0, 0.0, 100.0])
    assert low is not None
    assert low < -100


# ---- guesses, groups, and what takes all or none -------------------------------------------------

MMMU = """
from lmms_eval.tasks._task_utils.mmmu_mcq_utils import parse_mmmu_multi_choice_response

def results(doc, answers):
    options = ["A", "B", "C", "D"]
    texts = {"A": "one", "B": "two", "C": "three", "D": "four"}
    letter = parse_mmmu_multi_choice_response(answers[0], options, texts)
    return {"accuracy": float(letter == "A")}
"""


def test_a_guess_is_said_and_is_the_same_again(tmp_path: Path) -> None:
    benchmark = task(tmp_path, MMMU, (("accuracy", "mean"),))
    answered = rows(benchmark)
    for number, row in enumerate(answered):
        row["prediction"] = "A" if number < 9 else "hm"
    summary = summarized(benchmark, answered)
    assert len(summary.notes) == 1
    assert summary.notes[0].startswith("3 answers are scored by a guess")
    # whatever else is asked with them, and in whatever order
    few = summarized(benchmark, answered[:-3:-1])
    assert [row["score"] for row in few.rows] == [row["score"] for row in summary.rows[:-3:-1]]
    assert summarized(benchmark, answered[:9]).notes == []


def test_a_limit_that_parts_a_group_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
def fold(values):
    pairs = {}
    for one in values:
        pairs.setdefault(one["pair"], []).append(hit(one))
    return sum(all(pair) for pair in pairs.values()) / len(pairs)
"""
    grouped(monkeypatch, groups=("pair",))
    parted = task(tmp_path, COUNTED + code, limit=5)
    assert parted.caution.endswith(
        "5 samples part 1 of the groups that are scored together, such as p2; "
        "limit=4 would part none"
    )
    assert parted.caution in result(parted).notes
    assert task(tmp_path, COUNTED + code, limit=1).caution.endswith("limit=2 would part none")
    for limit in (4, None):
        assert task(tmp_path, COUNTED + code, limit=limit).caution == ""


def test_a_task_that_takes_all_or_none_says_so_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NaturalBench, whose code asserts the number of its answers."""
    code = """
def fold(values):
    assert len(values) == 12
    return sum(values) / 12
"""
    grouped(monkeypatch, whole=QUESTIONS)
    assert task(tmp_path, RESULTS + code, limit=4).refusal.endswith(
        "is scored over all of its 12 samples or not at all, and 4 are asked; leave out limit"
    )
    whole = task(tmp_path, RESULTS + code)
    assert whole.refusal == ""
    assert metric(result(whole)).value == 0.5
    answered = rows(whole)
    answered[2] |= {"error": "broken", "prediction": None, "status": "unreadable"}
    (note,) = summarized(whole, answered).notes
    assert note == (
        "accuracy has no number: its aggregation takes all of its 12 samples or none, and 11 have "
        "an answer"
    )


def test_naturalbench_is_known_to_take_all_or_none() -> None:
    from lmms_eval.tasks.naturalbench import utils

    row = reviewed.review_of("naturalbench")
    values = [{"id": number, "score": number in (0, 3)} for number in range(row.whole)]
    assert utils.naturalbench_aggregate_results_G_ACC(values) == 1 / 1900
    with pytest.raises(AssertionError):
        utils.naturalbench_aggregate_results_G_ACC(values[:-4])


# ---- judges and servers --------------------------------------------------------------------------

AIOHTTP = """
import aiohttp
import asyncio

URL = os.getenv("OPENAI_API_URL", "https://api.openai.com/v1/chat/completions")


async def asked(text):
    async with aiohttp.ClientSession() as session:
        async with session.post(URL, json={"said": text}) as answer:
            answer.raise_for_status()
            return (await answer.json(content_type=None))["choices"][0]["message"]["content"]

def results(doc, answers):
    try:
        return {"accuracy": float(asyncio.run(asked(answers[0])))}
    except Exception:
        return {"accuracy": 0.0}
"""


def test_a_judge_asked_by_aiohttp_counts_like_the_others(
    tmp_path: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    benchmark = task(tmp_path / "none", AIOHTTP, (("accuracy", "mean"),))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "is scored by a judge, and none is configured" in benchmark.refusal
    with pytest.raises(NoJudge, match="none is configured"):
        result(benchmark)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_URL", server)
    benchmark = task(tmp_path / "one", AIOHTTP, (("accuracy", "mean"),))
    assert metric(result(benchmark)).value == 0.5
    assert set(Judge.paths) == {"/v1/chat/completions"}
    monkeypatch.setattr(Judge, "status", 401)
    with pytest.raises(NoJudge, match="does not answer: HTTP status 401"):
        result(benchmark)


def test_what_is_sent_to_a_server_of_others_is_kept_as_a_file(tmp_path: Path) -> None:
    code = """
from lmms_eval.tasks.egoschema.utils import egoschema_aggregate_mc

def results(doc, answers):
    return {"submission": {doc["id"]: 1}}
"""
    metrics = (("submission", "!function utils.egoschema_aggregate_mc"),)
    benchmark = task(tmp_path, code, metrics, name="egoschema")
    assert benchmark.refusal == ""
    summary = result(benchmark)
    (name,) = summary.files
    assert name.startswith("submission-inference_results_egoschema_MC_")
    assert summary.files[name].count(b"q") == QUESTIONS
    assert metric(summary, "submission").value is None
    assert summary.notes[0].startswith("submission has no number: no number here, but submission-")
    listed = public_tasks()["egoschema"]
    assert (listed.submission, listed.judge) == (True, False)
    assert listed.notes.startswith("no number, only a file to submit")
