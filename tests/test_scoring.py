"""Scoring: a task's own code, whatever it raises, writes, keeps or asks, and what becomes of its
numbers.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from prunebench.benchmarks import Benchmark, judge, load_task, reviewed
from prunebench.cli import main
from prunebench.run.summary import Scored, Unscored, summarized
from prunebench.study import cells, statistics
from prunebench.study.record import Metric

HEAD = """
import os
import requests

TOTALS = {"right": 0}
SEEN = []

def text(doc):
    return doc["question"]

def right(doc, answers):
    return float(answers[0] == doc["answer"])
"""

QUESTIONS = 12


def task(
    folder: Path,
    code: str,
    metrics: Sequence[tuple[str, str]] = (("accuracy", "!function utils.fold"),),
    name: str = "mine",
    limit: int | None = None,
    **more: str,
) -> Benchmark:
    """A task whose functions are `code`; its metrics are pairs of a name and an aggregation."""
    return load_task(str(write(folder, code, metrics, name, **more)), limit)


def write(
    folder: Path,
    code: str,
    metrics: Sequence[tuple[str, str]] = (("accuracy", "!function utils.fold"),),
    name: str = "mine",
    **more: str,
) -> Path:
    from datasets import Dataset

    folder.mkdir(exist_ok=True, parents=True)
    (folder / "utils.py").write_text(HEAD + code)
    lines = [
        f"task: {name}",
        "dataset_path: parquet",
        "dataset_kwargs: {data_files: {test: data.parquet}}",
        "output_type: generate_until",
        "test_split: test",
        "doc_to_text: question",
        "doc_to_target: answer",
        "generation_kwargs: {max_new_tokens: 2}",
        "process_results: !function utils.results",
        *[f"{key}: {value}" for key, value in more.items()],
        "metric_list:",
    ]
    for metric, aggregation in metrics:
        lines.append(
            f"  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}"
        )
    (folder / "mine.yaml").write_text("\n".join(lines))
    rows = {
        "id": [f"q{number}" for number in range(QUESTIONS)],
        "question": [f"is it {number}" for number in range(QUESTIONS)],
        "answer": ["yes"] * QUESTIONS,
        "pair": [f"p{number // 2}" for number in range(QUESTIONS)],
        "kind": ["a"] * 4 + ["b"] * (QUESTIONS - 4),
    }
    Dataset.from_dict(rows).to_parquet(folder / "data.parquet")
    return folder / "mine.yaml"


RIGHT = (0, 1, 4, 6, 8, 9)
"""Samples that are answered rightly; two pairs of six are, one of either kind."""


def result(benchmark: Benchmark, right: Sequence[int] = RIGHT) -> Scored:
    return summarized(benchmark, rows(benchmark, right))


def rows(benchmark: Benchmark, right: Sequence[int] = RIGHT) -> list[dict[str, Any]]:
    answered = []
    for request in benchmark.requests:
        answer = "yes" if request.doc_id in right else "no"
        answered.append(
            {
                "sample_id": request.sample_id,
                "doc_id": request.doc_id,
                "status": "ok",
                "error": None,
                "prediction": answer,
            }
        )
    return answered


def metric(summary: Scored, name: str = "score") -> Metric:
    (one,) = [one for one in summary.metrics if one.metric == name]
    return one


def own_scores(summary: Scored) -> list[float | None]:
    return [row["score"] for row in summary.rows]


RESULTS = """
def results(doc, answers):
    return {"accuracy": right(doc, answers)}
"""
COUNTED = """
def results(doc, answers):
    return {"accuracy": {"answer": doc["answer"], "said": answers[0], **doc}}

def hit(one):
    return one["answer"] == one["said"]
"""


# ---- what an aggregation is given, and what it leaves --------------------------------------------


def test_an_aggregation_that_takes_args_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OCRBench's and SEED-Bench's: with a path to write to, and beside where it is run."""
    code = """
def fold(values, args):
    os.makedirs(os.path.join(args.output_path, "results"), exist_ok=True)
    open(os.path.join(args.output_path, "results", "all.txt"), "w").close()
    open("./beside.json", "w").close()
    print("noise")
    return sum(values) / len(values)
"""
    benchmark = task(tmp_path / "task", RESULTS + code)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    summary = result(benchmark)
    assert (metric(summary).value, metric(summary).n) == (0.5, QUESTIONS)
    assert metric(summary).ci_low == pytest.approx(0.2538, abs=1e-3), "Wilson's of 6 of 12"
    assert not summary.files, "a number needs no file"
    assert not list(here.iterdir())
    assert Path.cwd() == here


def test_a_submission_is_a_row_that_says_so_and_its_file_is_kept(tmp_path: Path) -> None:
    code = """
def fold(values, args):
    with open(os.path.join(args.output_path, "to send.json"), "w") as file:
        file.write(str(len(values)))
"""
    benchmark = task(tmp_path, RESULTS + code)
    summary = result(benchmark)
    assert benchmark.primary == "accuracy"
    row = metric(summary, "accuracy")
    assert (row.value, row.unit, row.n) == (None, "none", QUESTIONS)
    assert summary.files == {"submission-to-send.json": b"12"}
    assert summary.notes == [
        "accuracy has no number: no number here, but submission-to-send.json to be sent to its "
        "server"
    ]
    assert not [one for one in summary.metrics if one.metric == "score"]


def test_a_number_stands_for_a_task_ahead_of_its_submission(tmp_path: Path) -> None:
    code = """
def submit(values, args):
    def inner():
        return 1
    open(os.path.join(args.output_path, "sent.json"), "w").close()

def fold(values):
    return sum(values) / len(values)

def results(doc, answers):
    return {"first": 1, "accuracy": right(doc, answers)}
"""
    metrics = (("first", "!function utils.submit"), ("accuracy", "!function utils.fold"))
    summary = result(benchmark := task(tmp_path, code, metrics))
    assert benchmark.primary == "accuracy"
    assert metric(summary).value == 0.5
    assert summary.notes == [], "its file is no lack where there is a number"
    assert list(summary.files) == ["submission-sent.json"]


def test_an_aggregation_that_counts_in_its_module_gives_the_same_at_every_call(
    tmp_path: Path,
) -> None:
    """As OCRBench's, which adds up in a dictionary of its module."""
    code = """
CALLS = 0

def fold(values, args):
    global CALLS
    CALLS += 1
    SEEN.append(len(values))
    for value in values:
        TOTALS["right"] += value
    return TOTALS["right"] / 1000 + (CALLS - 1) + (len(SEEN) - 1)
"""
    benchmark = task(tmp_path, RESULTS + code)
    first, second = result(benchmark), result(benchmark)
    assert metric(first).value == pytest.approx(0.006)
    assert first.metrics == second.metrics
    assert own_scores(first) == pytest.approx(
        [0.012 * (number in RIGHT) for number in range(QUESTIONS)]
    ), "a sum over all samples is the mean of what each adds"
    assert metric(first).ci_low is not None


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ("raise ValueError('no such key')", "ValueError: no such key"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("assert len(values) == 7600", "AssertionError"),
        ("return float('nan')", "no finite number"),
        ("return 'text'", "gives a str, and no number"),
    ],
)
def test_an_aggregation_that_fails_costs_its_metric_alone(
    tmp_path: Path, raised: str, reason: str
) -> None:
    code = f"""
def results(doc, answers):
    return {{"accuracy": right(doc, answers), "other": right(doc, answers)}}

def fold(values):
    {raised}
"""
    metrics = (("accuracy", "!function utils.fold"), ("other", "mean"))
    summary = result(task(tmp_path, code, metrics))
    assert metric(summary, "accuracy").value is None
    assert metric(summary, "other").value == 0.5
    (note,) = summary.notes
    assert note.startswith("accuracy has no number")
    assert reason in note


def test_answers_that_a_task_cannot_score_are_said(tmp_path: Path) -> None:
    code = """
def results(doc, answers):
    if doc["id"] in ("q1", "q2"):
        raise KeyError(doc["id"])
    return {"accuracy": right(doc, answers)}
"""
    summary = result(task(tmp_path, code, (("accuracy", "mean"),)))
    assert metric(summary).n == QUESTIONS - 2
    assert summary.rows[1]["status"] == "failed"
    assert "the task cannot score it: KeyError: 'q1'" in summary.rows[1]["error"]
    assert summary.notes[0].startswith("2 answers have no score: sample q1")
    nothing = code.replace('in ("q1", "q2")', "is not None")
    with pytest.raises(Unscored, match="no answer can be scored: KeyError"):
        result(task(tmp_path / "nothing", nothing, (("accuracy", "mean"),)))


def test_several_numbers_are_metrics_of_their_own(tmp_path: Path) -> None:
    code = """
def fold(values):
    return {"overall": sum(values) / len(values), "kinds": {"a": 0.25, "b": None}}
"""
    summary = result(task(tmp_path, RESULTS + code))
    assert metric(summary).value == 0.5
    assert metric(summary, "accuracy/overall").value == 0.5
    assert metric(summary, "accuracy/kinds/a").value == 0.25
    assert not [one for one in summary.metrics if one.metric == "accuracy/kinds/b"]


def test_guesses_are_the_same_in_every_cell(tmp_path: Path) -> None:
    """MMMU's code draws an option where an answer names none."""
    code = """
import random

def results(doc, answers):
    return {"accuracy": random.random()}
"""
    benchmark = task(tmp_path, code, (("accuracy", "mean"),))
    random.seed(1)
    before = random.getstate()
    first = own_scores(result(benchmark))
    assert random.getstate() == before
    assert own_scores(result(benchmark)) == first


# ---- pairs, groups and means of means ------------------------------------------------------------

PAIRS = """
def fold(values):
    pairs = {}
    for one in values:
        pairs.setdefault(one["pair"], []).append(hit(one))
    for pair in pairs.values():
        assert len(pair) == 2, "pairs alone"
    return 100 * sum(all(pair) for pair in pairs.values()) / len(pairs)
"""


def grouped(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Have the task `mine` reviewed."""
    row = reviewed.Reviewed(("mine",), "as the test says", **facts)
    monkeypatch.setattr(reviewed, "TABLE", (row, *reviewed.TABLE))


def test_pairs_are_drawn_as_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of six pairs are right, {0, 1} and {8, 9}: the interval is that of six, not of twelve."""
    grouped(monkeypatch, groups=("pair",), beside="^p")
    summary = result(task(tmp_path, COUNTED + PAIRS))
    row = metric(summary)
    assert row.value == pytest.approx(100 / 3)
    half = 2.5706 * 51.6398 / 6**0.5  # Student's for six, of 100, 0, 0, 0, 100, 0
    assert row.ci_high == pytest.approx(100 / 3 + half, rel=1e-4)
    assert row.ci_low == 0.0, "below zero by Student, where no pair can be"
    assert own_scores(summary) == pytest.approx([100, 100, 0, 0, 0, 0, 0, 0, 100, 100, 0, 0])
    assert [row["group"] for row in summary.rows][:4] == ["0", "0", "1", "1"]


def test_a_pair_that_lacks_one_answer_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped(monkeypatch, groups=("pair",), size=2)
    benchmark = task(tmp_path, COUNTED + PAIRS)
    answered = rows(benchmark)
    answered[2] |= {"error": "broken", "prediction": None, "status": "unreadable"}
    summary = summarized(benchmark, answered)
    assert metric(summary).value == pytest.approx(100 * 2 / 5)
    assert metric(summary).n == QUESTIONS - 2
    assert own_scores(summary)[2:4] == [None, None]
    assert summary.notes == ["1 answers stand without those that they are scored with"]


def test_where_pairs_are_not_known_there_is_no_interval(tmp_path: Path) -> None:
    summary = result(task(tmp_path, COUNTED + PAIRS))
    assert metric(summary).value == pytest.approx(100 / 3)
    assert metric(summary).ci_low is None
    (note,) = summary.notes
    assert "no interval" in note
    assert "AssertionError: pairs alone" in note


def test_an_aggregation_that_drops_repeats_has_no_interval(tmp_path: Path) -> None:
    """It raises nothing: without a look it would be given an interval that is too narrow."""
    code = """
def fold(values):
    pairs = {}
    for one in values:
        pairs.setdefault(one["pair"], {})[one["id"]] = hit(one)
    return sum(all(pair.values()) for pair in pairs.values()) / len(pairs)
"""
    summary = result(task(tmp_path, COUNTED + code))
    assert metric(summary).value == pytest.approx(1 / 3)
    assert metric(summary).ci_low is None
    assert "drawn twice" in summary.notes[0]


def test_what_only_the_aggregation_counts_is_known_of_every_sample(tmp_path: Path) -> None:
    """As in MMMU and SEED-Bench: the values are what was said, the number is rounded."""
    code = """
def fold(values):
    return round(sum(map(hit, values)) / len(values), 5)
"""
    summary = result(task(tmp_path, COUNTED + code), right=(0, 1, 2, 3))
    assert metric(summary).value == 0.33333
    assert own_scores(summary) == [1.0] * 4 + [0.0] * 8
    assert metric(summary).ci_low == pytest.approx(0.1381, abs=1e-3), "Wilson's of 4 of 12"


def test_a_mean_of_means_weighs_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four of kind a and four of eight of kind b are right, then all four of kind a."""
    grouped(monkeypatch, strata=("kind",))
    code = """
def fold(values):
    kinds = {}
    for one in values:
        kinds.setdefault(one["kind"], []).append(hit(one))
    return sum(sum(kind) / len(kind) for kind in kinds.values()) / len(kinds)
"""
    summary = result(task(tmp_path, COUNTED + code), right=(0, 1, 2, 4))
    assert metric(summary).value == pytest.approx((3 / 4 + 1 / 8) / 2)
    scores = [score or 0.0 for score in own_scores(summary)]
    assert scores[0] == pytest.approx(12 / (2 * 4))
    assert scores[4] == pytest.approx(12 / (2 * 8))
    assert sum(scores) / 12 == pytest.approx((3 / 4 + 1 / 8) / 2)
    low, high = metric(summary).ci_low, metric(summary).ci_high
    assert low is not None
    assert high is not None
    assert 0.15 < low < 0.4375 < high < 0.75
    assert result(task(tmp_path, COUNTED + code), right=(0, 1, 2, 4)).metrics == summary.metrics


def test_what_is_no_mean_is_drawn_anew(tmp_path: Path) -> None:
    code = """
def fold(values):
    return (sum(map(hit, values)) / len(values)) ** 2
"""
    summary = result(task(tmp_path, COUNTED + code))
    row = metric(summary)
    assert row.value == 0.25
    assert row.ci_low is not None
    assert row.ci_high is not None
    assert row.ci_low < 0.25 < row.ci_high
    assert own_scores(summary) == [None] * QUESTIONS


# ---- the headline --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metrics", "headline"),
    [
        ("mmstar", ["coarse perception", "math", "average"], "average"),
        ("seedbench", ["seed_image", "seed_video", "seed_all"], "seed_all"),
        ("hrbench4k", ["single", "cross", "average"], "average"),
        ("pope", ["pope_accuracy", "pope_precision", "pope_yes_ratio"], "pope_accuracy"),
        ("mme", ["mme_perception_score", "mme_cognition_score"], "mme_perception_score"),
        ("coco2017_cap_val", ["coco_Bleu_4", "coco_Bleu_1", "coco_CIDEr"], "coco_CIDEr"),
        ("refcoco_bbox_rec_val", ["refcoco_IoU", "refcoco_ACC@0.5"], "refcoco_ACC@0.5"),
        ("o3", ["exact_match", "all_cat_precision"], "exact_match"),
        ("kris_bench", ["kris_a_score", "kris_overall_avg", "kris_x_avg"], "kris_overall_avg"),
        ("mine", ["exact_match"], "exact_match"),
        ("mine", [], ""),
    ],
)
def test_the_headline_is_the_total(name: str, metrics: list[str], headline: str) -> None:
    assert reviewed.headline(name, metrics) == headline


def test_every_review_gives_its_reason() -> None:
    for row in reviewed.TABLE:
        assert row.tasks
        assert row.why
        facts = (row.headline, row.groups, row.strata, row.unit)
        assert any(facts) or row.judged is not None


# ---- judges --------------------------------------------------------------------------------------

JUDGED = """
API_URL = os.getenv("OPENAI_API_URL", "https://api.openai.com/v1/chat/completions")

def ask(text):
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    for _ in range(5):
        try:
            answer = requests.post(API_URL, headers=headers, json={"said": text}, timeout=5)
            answer.raise_for_status()
            return answer.json()["choices"][0]["message"]["content"]
        except Exception:
            continue
    return "0"

class Reader:
    def read(self, text):
        return float(ask(text))

READER = Reader()

def results(doc, answers):
    return {"accuracy": READER.read(answers[0])}
"""


class Judge(BaseHTTPRequestHandler):
    """Says 1 to "yes", 0 to all else; it answers at one path."""

    status = 200
    paths: list[str] = []

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.paths.append(self.path)
        content = "1" if question["said"] == "yes" else "0"
        status = self.status if self.path == "/v1/chat/completions" else 404
        body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A judge on the loopback address, and a key for it."""
    monkeypatch.setattr(Judge, "status", 200)
    monkeypatch.setattr(Judge, "paths", [])
    judge_server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=judge_server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    yield f"http://127.0.0.1:{judge_server.server_port}/v1"
    judge_server.shutdown()
    judge_server.server_close()


@pytest.fixture(autouse=True)
def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_URL", "OPENAI_BASE_URL", "API_TYPE"):
        monkeypatch.delenv(name, raising=False)


def test_a_task_with_a_judge_says_what_it_lacks(tmp_path: Path) -> None:
    benchmark = task(tmp_path, JUDGED, (("accuracy", "mean"),))
    assert "is scored by a judge, and none is configured" in benchmark.refusal
    assert "OPENAI_API_KEY" in benchmark.refusal
    with pytest.raises(judge.NoJudge, match="none is configured"):
        result(benchmark)  # asked all the same, it gives no zeros
    other = task(tmp_path / "other", JUDGED + RESULTS, (("accuracy", "mean"),))
    assert other.refusal == "", "a judge in the file that nobody asks is none"


@pytest.mark.parametrize("path", ["", "/chat/completions", "/chat/completions/"])
def test_a_judge_is_asked(
    tmp_path: Path, server: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_URL", server + path)
    benchmark = task(tmp_path, JUDGED, (("accuracy", "mean"),))
    assert benchmark.refusal == ""
    assert metric(result(benchmark)).value == 0.5
    assert set(Judge.paths) == {"/v1/chat/completions"}


def test_a_judge_that_does_not_answer_gives_no_zeros(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "status", 401)
    monkeypatch.setenv("OPENAI_API_URL", server)
    benchmark = task(tmp_path, JUDGED, (("accuracy", "mean"),))
    with pytest.raises(judge.NoJudge, match="does not answer: HTTP status 401"):
        result(benchmark)
    assert len(Judge.paths) == judge.PATIENCE


def test_an_aggregation_with_a_judge_is_run_once(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
def fold(values):
    return sum(float(ask(one["said"])) for one in values) / len(values)
"""
    monkeypatch.setenv("OPENAI_API_URL", server)
    summary = result(task(tmp_path, JUDGED + COUNTED + code))
    assert metric(summary).value == 0.5
    assert metric(summary).ci_low is None
    assert "asks a judge" in summary.notes[0]
    assert len(Judge.paths) == QUESTIONS


# ---- in a sweep ----------------------------------------------------------------------------------


def test_a_sweep_ends_whatever_its_tasks_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A judge's task is unsupported before the others are asked, one that writes a submission has
    its file in the cell, one whose aggregation fails has a reason.
    """
    submit = """
def fold(values, args):
    with open(os.path.join(args.output_path, "sent.json"), "w") as file:
        file.write("answers")
"""
    fails = "def fold(values):\n    raise ValueError('broken')\n"
    tasks = [
        write(tmp_path / "judged", JUDGED, (("accuracy", "mean"),)),
        write(tmp_path / "sent", RESULTS + submit),
        write(tmp_path / "fails", RESULTS + fails),
    ]
    for folder in ("judged", "sent", "fails"):
        (tmp_path / folder / "mine.yaml").rename(tmp_path / folder / f"{folder}.yaml")
    names = ",".join(str(path.with_name(f"{path.parent.name}.yaml")) for path in tasks)
    study = tmp_path / "study"
    code = main(
        [
            "sweep",
            f"tasks={names}",
            "methods=none",
            "controls=false",
            "limit=2",
            "cost.enabled=false",
            f"out={study}",
        ]
    )
    notes = " ".join(capsys.readouterr().err.split())
    assert code == 0, notes
    assert "is scored by a judge, and none is configured: set OPENAI_API_KEY" in notes
    stored = {cell.task: cell for cell in cells.read(study)[0]}
    assert {task: cell.status for task, cell in stored.items()} == {
        "judged": "unsupported",
        "sent": "ok",
        "fails": "ok",
    }
    cell = stored["sent"]
    assert (cell.folder / "submission-sent.json").read_text() == "answers"
    assert "submission-sent.json" in cell.files
    assert "broken" in stored["fails"].reason
    (cell.folder / "submission-sent.json").write_text("other answers")
    assert "submission-sent.json was changed" in " ".join(cells.read(study)[1])
    assert yaml.safe_load((study / "grid.yaml").read_text())["tasks"]


# ---- questions of one image ----------------------------------------------------------------------

PER_IMAGE = 3
OF_IMAGES = tuple(range(6))
"""Of four images with three questions each, all of two are answered rightly and none of the others.
"""


def of_images(benchmark: Benchmark, per_image: int = PER_IMAGE) -> Scored:
    answered = rows(benchmark, OF_IMAGES)
    for row in answered:
        image = row["doc_id"] // per_image
        row |= {"image": f"image {image}", "available": 100 + image}
    return summarized(benchmark, answered)


def test_questions_of_one_image_are_drawn_together(tmp_path: Path) -> None:
    """Four images, two of them right: the interval is that of two of four, not of six of twelve."""
    score = metric(of_images(task(tmp_path, RESULTS, [("accuracy", "mean")])))
    share = statistics.wilson(2, 4)
    assert (score.value, score.n) == (0.5, QUESTIONS)
    assert (score.ci_low, score.ci_high) == pytest.approx((share.low, share.high))


def test_questions_with_an_image_each_are_drawn_one_by_one(tmp_path: Path) -> None:
    score = metric(of_images(task(tmp_path, RESULTS, [("accuracy", "mean")]), per_image=1))
    share = statistics.wilson(6, QUESTIONS)
    assert (score.ci_low, score.ci_high) == pytest.approx((share.low, share.high))


def test_what_is_measured_of_images_is_drawn_by_image(tmp_path: Path) -> None:
    """Twelve rows hold four numbers: 100 to 103."""
    summary = of_images(task(tmp_path, RESULTS, [("accuracy", "mean")]))
    tokens = metric(summary, "tokens_available")
    _, low, high = statistics.mean_interval([100, 101, 102, 103])
    assert (tokens.value, tokens.n) == (101.5, QUESTIONS)
    assert (tokens.ci_low, tokens.ci_high) == pytest.approx((low, high))


def test_a_number_that_is_no_mean_is_drawn_by_image(tmp_path: Path) -> None:
    """The square of the share: with whole images its draws are squares of quarters."""
    code = (
        COUNTED
        + """
def fold(values):
    return (sum(map(hit, values)) / len(values)) ** 2
"""
    )
    score = metric(of_images(task(tmp_path, code)))
    assert score.value == 0.25
    # a draw of four images has 0, 1, 2, 3 or 4 that are right
    ends = [number / 4 for number in range(5)]
    assert score.ci_low in [pytest.approx(end**2) for end in ends]
    assert score.ci_high in [pytest.approx(end**2) for end in ends]
