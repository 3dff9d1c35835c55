"""The profile of a model: levels that agree with dropping everything there, and what is written."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from pathlib import Path

import PIL.Image
import pytest
from datasets import Dataset, Features, Image, Value
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

from prunebench.benchmarks import load_task
from prunebench.cli import main
from prunebench.report.profile import figure, write
from prunebench.run.backend import ModelSetup
from prunebench.run.profiler import measured
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.study.profile import Level, Profile
from prunebench.study.statistics import Interval, wilson

SCORES = (0.1, 0.3, 0.89, 0.98, 1.0)


def _profile(scores: tuple[float, ...] = SCORES) -> Profile:
    levels = []
    for before, score in enumerate(scores):
        on_image = 0.5 if 0 < before < len(scores) - 1 else None
        by_type = {"color": score}
        interval = Interval(score, score - 0.05, min(1.0, score + 0.05), 50)
        levels.append(Level(before, interval, by_type, on_image, on_image, on_image))
    return Profile("tiny", "scenes", 50, tuple(levels), 0.1)


def test_a_late_method_can_afford_the_first_layer_that_costs_less_than_three_percent() -> None:
    assert _profile().affordable == 3
    assert _profile((1.0, 1.0, 1.0)).affordable == 0


def test_table_and_figure_are_written(tmp_path: Path) -> None:
    table, picture = write(_profile(), tmp_path / "out")
    rows = list(csv.DictReader(table.open()))
    assert [float(row["score"]) for row in rows] == list(SCORES)
    assert [row["attention_on_evidence"] for row in rows] == ["", "0.5000", "0.5000", "0.5000", ""]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_interval_that_is_not_there_is_no_number(tmp_path: Path) -> None:
    alone = Interval(1.0, float("nan"), float("nan"), 1)
    profile = Profile("tiny", "scenes", 1, (Level(0, alone, {}, None, None, None),), None)
    table, _ = write(profile, tmp_path)
    (row,) = csv.DictReader(table.open())
    assert (row["low"], row["high"]) == ("", "")


def test_a_small_model_is_measured_layer_by_layer() -> None:
    backend = TransformersBackend.load(ModelSetup("tiny-qwen2.5-vl"))
    benchmark = load_task("scenes", 3)
    profile = measured(backend, benchmark, 3)
    assert profile.layers == backend.layers == 12
    assert [level.before for level in profile.levels] == list(range(13))
    ends = profile.levels[0], profile.levels[-1]
    assert [one.on_image for one in ends] == [None, None]
    for level in profile.levels[1:-1]:
        assert level.on_image is not None
        assert level.on_evidence is not None
        assert level.best_head is not None
        assert 0 <= level.on_evidence <= level.on_image <= 1
        assert level.on_evidence <= level.best_head
    assert profile.evidence is not None
    assert 0 < profile.evidence < 0.5
    assert set(profile.levels[-1].by_type) == {"color", "shape", "number"}


TASK = """
task: mine
dataset_path: parquet
dataset_kwargs: {data_files: {test: data.parquet}}
output_type: generate_until
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 2, temperature: 0}
process_results: !function utils.results
metric_list:
  - {metric: accuracy, aggregation: mean, higher_is_better: true}
"""

UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]

def results(doc, answers):
    return {"accuracy": float(doc["answer"])}
"""

RIGHT = (1, 0, 1, 1)
"""What is scored of each image, whatever is answered."""


def _task(folder: Path, copies: int) -> Path:
    """A task that asks the same of every image several times."""
    pictures = []
    for number in range(len(RIGHT)):
        file = io.BytesIO()
        PIL.Image.new("RGB", (56, 56), (60 * number, 0, 0)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    places = [place for place in range(len(RIGHT)) for _ in range(copies)]
    columns = {
        "image": [pictures[place] for place in places],
        "question": ["what is this"] * len(places),
        "answer": [str(RIGHT[place]) for place in places],
    }
    features = Features({name: Image() if name == "image" else Value("string") for name in columns})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data.parquet")
    (folder / "utils.py").write_text(UTILS)
    (folder / "mine.yaml").write_text(TASK)
    return folder / "mine.yaml"


def test_asking_an_image_again_makes_no_interval_narrower(tmp_path: Path) -> None:
    """Three of four images are right, of three questions each: Wilson's of four, not of twelve."""
    backend = TransformersBackend.load(ModelSetup("tiny-qwen2.5-vl"))
    profile = measured(backend, load_task(str(_task(tmp_path, copies=3))), 12)
    share = wilson(3, 4)
    for level in profile.levels:
        assert (level.score.value, level.score.n) == (0.75, 12)
        assert (level.score.low, level.score.high) == pytest.approx((share.low, share.high))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("limit=0", "limit is 0; it starts at 1"),
        ("modle=x", "unknown key modle; did you mean 'model'?"),
        ("task=nothing", "nothing"),
    ],
)
def test_bad_words_get_one_line(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", word]) != 0
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def _kinds(*scores: float) -> Profile:
    """A profile of three layers whose kinds of questions end at these scores."""
    by_type = {f"kind {number}": score for number, score in enumerate(scores)}
    interval = Interval(0.9, 0.8, 1.0, 50)
    levels = [Level(before, interval, by_type, None, None, None) for before in range(4)]
    return Profile("tiny", "scenes", 50, tuple(levels), None)


@pytest.mark.parametrize("scores", [(1.0,) * 8, (0.0,) * 8, (0.95, 0.96, 0.9, 0.9, 0.9, 0.75, 0.2)])
def test_names_of_kinds_stand_beside_their_lines(scores: tuple[float, ...]) -> None:
    drawn = figure(_kinds(*scores))
    FigureCanvasAgg(drawn)
    drawn.draw_without_rendering()
    axes = drawn.axes[0]
    notes = sorted(
        (text for text in axes.texts if isinstance(text, Annotation)),
        key=lambda text: text.xyann[1],
    )
    assert [note.xy[1] for note in notes] == sorted(scores), "in the order of the lines' ends"
    boxes = [Text.get_window_extent(note) for note in notes]
    for below, above in pairwise(boxes):
        assert below.y1 <= above.y0 + 1, "no name covers another one"
    frame = axes.get_window_extent()
    assert frame.y0 - 1 <= boxes[0].y0
    assert boxes[-1].y1 <= frame.y1 + 1
    # a group of names stands around the place where its lines end
    for note in notes:
        assert abs(note.xyann[1] - note.xy[1]) < 0.04 * len(scores)
    alone = [note for note in notes if note.xy[1] in (0.75, 0.2)]
    for note in alone:
        assert note.xyann[1] == pytest.approx(note.xy[1])


def test_a_figure_says_what_its_lines_are() -> None:
    above, below = figure(_profile()).axes
    legend = above.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "one kind of question",
        "all questions, 95 % interval",
        "from layer 3 on: 97 % of the unpruned score",
    ]
    assert above.get_xlabel() == "layer before which all visual tokens leave (4: they stay)"
    assert below.get_xlabel() == "layer"
    assert max(above.get_xticks()) == 4, "no layer is named that the model does not have"
