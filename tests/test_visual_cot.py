"""Visual-CoT: its public layout read where it lies, answers scored by rule and by a judge."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prunebench.tasks.visual_cot import SETS, _judging
from prunebench.tasks.visual_cot._layout import PLACE
from prunebench.tasks.visual_cot._match import lenient

from prunebench import benchmarks
from prunebench.benchmarks import MediaError, TaskError
from prunebench.run.grid import load
from prunebench.run.runner import sweep

BOX_PROMPT = (
    " Please provide the bounding box coordinate of the region that can help you answer the "
    "question better."
)

QUESTIONS = (
    ("What is on the sign?", "Stop", [20, 20, 60, 60]),
    ("Is the bird blue?", "Yes", [0, 0, 112, 112]),
    ("How many cups are there?", "3", [10, 40, 100, 110]),
)
SIZE = (112, 112)


def jpeg(number: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", SIZE, (80 * number, 120, 60)).save(file, "JPEG")
    return file.getvalue()


def benchmark_rows(name: str, folder: str) -> list[dict[str, Any]]:
    """As viscot_benchmark/benchmark/NAME.json has them."""
    rows = []
    for number, (question, answer, box) in enumerate(QUESTIONS):
        image = f"cot/{folder}/{number}.jpg"
        turns = [f"<image>\n{question}{BOX_PROMPT}", "[0.1, 0.1, 0.2, 0.2]", "<image>", answer]
        conversations = []
        for turn, text in enumerate(turns):
            conversations.append({"from": "gpt" if turn % 2 else "human", "value": text})
        row = {"dataset": name, "split": "val", "question_id": 7 + number}
        images = [image, f"{image}###{json.dumps(box)}"]
        rows.append({**row, "image": images, "conversations": conversations})
    return rows


def write_questions(root: Path, name: str = "gqa", folder: str = "gqa") -> Path:
    file = root / "viscot_benchmark" / "benchmark" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(benchmark_rows(name, folder), indent=4))
    return file


def write_images(root: Path, folder: str = "gqa", base: str = "cot") -> None:
    place = root / base / folder
    place.mkdir(parents=True)
    for number in range(len(QUESTIONS)):
        (place / f"{number}.jpg").write_bytes(jpeg(number))


def write_parts(root: Path, folder: str = "gqa", size: int = 1000) -> None:
    """One tar, cut into files of a size that no image respects."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for number in range(len(QUESTIONS)):
            data = jpeg(number)
            member = tarfile.TarInfo(f"cot_image_data/{folder}/{number}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    parts = root / "cot_images_tar_split"
    parts.mkdir(parents=True)
    whole = content.getvalue()
    for number, start in enumerate(range(0, len(whole), size)):
        (parts / f"cot_images_{number:02}").write_bytes(whole[start : start + size])


@pytest.fixture(autouse=True)
def nobody_judges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (_judging.KEY, _judging.MODEL, *_judging.PLACES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the public layout, questions and images."""
    folder = tmp_path / "data"
    write_questions(folder)
    write_images(folder)
    monkeypatch.setenv(PLACE, str(folder))
    return folder


@pytest.mark.usefixtures("root")
def test_questions_are_asked_without_the_prompt_for_boxes() -> None:
    benchmark = benchmarks.load_task("visual_cot_gqa")
    assert [request.sample_id for request in benchmark.requests] == ["7", "8", "9"]
    first = benchmark.requests[0]
    assert (first.question, first.reference) == ("What is on the sign?", "Stop")
    assert first.evidence_boxes == ((20, 20, 60, 60),)
    assert first.until == ()
    assert first.generation["max_new_tokens"] == 1024
    image, text = benchmark.messages(first)[0]["content"]
    assert image["url"].size == SIZE
    assert text["text"] == first.question
    assert benchmark.primary == "lenient_match"


@pytest.mark.parametrize(
    ("name", "folder"), [("cub", "cub"), ("textcap", "textvqa"), ("visual7w", "v7w")]
)
def test_a_set_may_lie_in_anothers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    """The benchmark names the folder itself; what is to be trained on names the file alone."""
    write_images(tmp_path, folder, "cot_image_data")
    write_questions(tmp_path, name, folder)
    monkeypatch.setenv(PLACE, str(tmp_path))
    benchmark = benchmarks.load_task(f"visual_cot_{name}", 1)
    assert benchmark.messages(benchmark.requests[0])
    lines = []
    for number, (question, answer, box) in enumerate(QUESTIONS):
        row: dict[str, Any] = {"question": question, "answer": answer, "image": f"{number}.jpg"}
        boxes = [box, [box[0], box[1], box[2] + 1, box[3] + 1]]
        row |= {"width": 112, "height": 112, "dataset": name, "split": "train"}
        lines.append(json.dumps({**row, "bboxs": boxes}))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / f"{name}_cot_train.jsonl").write_text("\n".join(lines))
    file = tmp_path / "mine.yaml"
    ours = Path(str(benchmarks.catalogue._built_in()[f"visual_cot_{name}"])).parent
    text = (
        (ours / "_visual_cot.yaml")
        .read_text()
        .replace("utils.", "prunebench.tasks.visual_cot.utils.")
    )
    file.write_text(
        f"{text}\ntask: mine\nmetadata: {{visual_cot: {{name: {name}, split: train}}}}\n"
    )
    trained = benchmarks.load_task(str(file))
    assert trained.messages(trained.requests[0])
    # one box around several, and what reaches beyond by rounding is cut
    assert trained.requests[1].evidence_boxes == ((0, 0, 112, 112),)


def test_the_tar_of_the_hub_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, pictures = tmp_path / "code", tmp_path / "hub"
    write_questions(questions)
    write_parts(pictures)
    monkeypatch.setenv(PLACE, f"{questions}:{pictures}")
    benchmark = benchmarks.load_task("visual_cot_gqa")
    for number, request in enumerate(benchmark.requests):
        picture = benchmark.messages(request)[0]["content"][0]["url"]
        assert abs(picture.getpixel((5, 5))[0] - 80 * number) < 4


def test_the_same_data_elsewhere_are_the_same_task(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = benchmarks.load_task("visual_cot_gqa").fingerprint
    moved = root.rename(tmp_path / "moved")
    monkeypatch.setenv(PLACE, str(moved))
    assert benchmarks.load_task("visual_cot_gqa").fingerprint == before
    other = tmp_path / "other"
    write_questions(other)
    write_images(other)
    (other / "cot" / "gqa" / "1.jpg").write_bytes(jpeg(0) + b"longer")
    monkeypatch.setenv(PLACE, str(other))
    assert benchmarks.load_task("visual_cot_gqa").fingerprint != before


def test_a_missing_image_is_the_samples_own(root: Path) -> None:
    (root / "cot" / "gqa" / "1.jpg").unlink()
    benchmark = benchmarks.load_task("visual_cot_gqa")
    assert benchmark.messages(benchmark.requests[0])
    with pytest.raises(MediaError, match=r"sample 8 .*image gqa/1.jpg of Visual-CoT is missing"):
        benchmark.messages(benchmark.requests[1])


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv(PLACE, raising=False)
    with pytest.raises(TaskError, match="PRUNEBENCH_VISUAL_COT, which is not set; git clone"):
        benchmarks.load_task("visual_cot_gqa")
    monkeypatch.setenv(PLACE, str(tmp_path / "nowhere"))
    with pytest.raises(TaskError, match=r"names .*nowhere, which is no folder"):
        benchmarks.load_task("visual_cot_gqa")
    data = tmp_path / "data"
    file = write_questions(data)
    monkeypatch.setenv(PLACE, str(data))
    with pytest.raises(TaskError, match=r"no image of Visual-CoT's gqa, such as gqa/0\.jpg"):
        benchmarks.load_task("visual_cot_gqa")
    file.write_text("[{}]")
    with pytest.raises(TaskError, match=r"gqa.json is no file of Visual-CoT \(KeyError"):
        benchmarks.load_task("visual_cot_gqa")


def test_the_suite_holds_the_twelve() -> None:
    assert benchmarks.expand("visual_cot") == [f"visual_cot_{name}" for name in SETS]
    assert len(SETS) == 12


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The sign says STOP.", "Stop", 1),
        ("Yes, it is.", "Yes", 1),
        ("No, it is yellow.", "Yes", 0),
        ("No, there is nobody.", "Yes, there is a person near the dogs in the photo.", 0),
        ("There are three cups.", "3", 1),
        ("There are 13 cups.", "3", 0),
        ("It costs $6,513.25", "6513.25", 1),
        ("go2 intercept", "go2INTERCEPT", pytest.approx(12 / 13)),
        ("It reads 83a.", "83a", 1),
        ("A cat sits there.", "hat", 0),
        ("", "Stop", 0),
    ],
)
def test_the_rule_is_lenient(answer: str, reference: str, score: float) -> None:
    assert lenient(answer, reference) == score


def test_sentences_share_words() -> None:
    reference = "The person in the green jacket is sitting on the floor and reading a paper."
    near = lenient("The person sits on the floor, reading a paper.", reference)
    far = lenient("The weather is fine, and a dog runs along the beach.", reference)
    assert 0.5 < near < 1
    assert far < 0.3


REPLIES = {"Stop": "score: 1", "Yes": "I cannot say.", "3": "Score: **0.5**"}


class JudgeServer(BaseHTTPRequestHandler):
    """Speaks as much of the protocol as a judge needs."""

    prompts: list[str] = []

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        prompt = body["messages"][0]["content"]
        self.prompts.append(prompt)
        reference = prompt.partition("Reference: ")[2].partition("\n")[0]
        message = {"role": "assistant", "content": REPLIES[reference]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        data = json.dumps({**reply, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A judge on the loopback address, and what it is asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv(_judging.KEY, "any")
    monkeypatch.setenv(_judging.MODEL, "judge-32b")
    monkeypatch.setenv(_judging.PLACES[0], address)
    JudgeServer.prompts.clear()
    yield JudgeServer.prompts
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("root")
def test_a_judge_scores_and_a_reply_without_a_score_is_none(judge: list[str]) -> None:
    alone = benchmarks.load_task("visual_cot_gqa")
    assert alone.primary == "judge_score"
    scores = alone.score({0: "It says stop", 1: "yes", 2: "four"})
    assert [alone.value(scores[doc_id], "judge_score") for doc_id in scores] == [1, None, 0.5]
    assert [alone.value(scores[doc_id], "lenient_match") for doc_id in scores] == [1, 1, 0]
    assert "Question: What is on the sign?" in judge[0]
    assert "Answer: It says stop" in judge[0]


@pytest.mark.usefixtures("root")
def test_who_judges_is_part_of_the_task(judge: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = benchmarks.load_task("visual_cot_gqa").fingerprint
    monkeypatch.setenv(_judging.MODEL, "another")
    assert benchmarks.load_task("visual_cot_gqa").fingerprint != before
    monkeypatch.delenv(_judging.MODEL)
    assert benchmarks.load_task("visual_cot_gqa").primary == "lenient_match"
    assert judge == []


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("score: 0.75", 0.75),
        ("1", 1),
        ("Score = 0", 0),
        ("score: 7", None),
        ("good", None),
        ("", None),
    ],
)
def test_a_judges_reply(text: str, score: float | None) -> None:
    assert _judging.parsed(text) == score


@pytest.mark.usefixtures("root")
def test_a_sweep_over_it_records_evidence(tmp_path: Path) -> None:
    words = [
        "tasks=visual_cot_gqa",
        "methods=random",
        "budgets=0.5",
        "controls=false",
        "cost=false",
    ]
    outcome = sweep(load(None, [*words, f"out={tmp_path / 'study'}"]))
    assert set(outcome.statuses.values()) == {"ok"}
    (cell,) = outcome.statuses
    rows = pd.read_parquet(tmp_path / "study" / "cells" / cell / "samples.parquet")
    assert rows["evidence_tokens"].tolist()[1] == 16
    assert rows["evidence_recall"].tolist()[1] == 0.5
    assert rows["score"].between(0, 1).all()
