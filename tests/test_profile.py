"""The profile of a model: levels that agree with dropping everything there, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prunebench.benchmarks import load_task
from prunebench.cli import main
from prunebench.report.profile import write
from prunebench.run.backend import ModelSetup
from prunebench.run.profiler import measured
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.study.profile import Level, Profile
from prunebench.study.statistics import Interval

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
    table, figure = write(_profile(), tmp_path / "out")
    rows = list(csv.DictReader(table.open()))
    assert [float(row["score"]) for row in rows] == list(SCORES)
    assert [row["attention_on_evidence"] for row in rows] == ["", "0.5000", "0.5000", "0.5000", ""]
    assert figure.read_bytes().startswith(b"\x89PNG")


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
