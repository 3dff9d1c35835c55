"""Harness: a model is asked as lmms-eval's wrapper of its family asks it, or as its processor
does; the program's own parity with wrappers is in test_parity.py.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_benchmarks import TASK, write_task
from test_videos import film

from prunebench import benchmarks, models
from prunebench.models import Loaded, LoadError, Unsupported, clips, fetching, manners
from prunebench.models.harness import OWN, Harness, Manner, Wish
from prunebench.models.inputs import Message
from prunebench.models.manners import manner_of
from prunebench.run import grid as grids
from prunebench.run.keys import GridError
from prunebench.run.runner import sweep
from prunebench.run.samples import read

WRAPPER = Manner("lmms-eval", "qwen2_5_vl", fetches=True, frame_pixels=(784, 50_176), max_frames=8)


@pytest.fixture
def qwen() -> Loaded:
    return models.load("tiny-qwen2.5-vl")


@pytest.fixture
def llava() -> Loaded:
    return models.load("tiny-llava-1.5")


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    generator = np.random.default_rng(width * height)
    channels = len(mode)
    values = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


# ---- whose manner --------------------------------------------------------------------------------


def test_a_miniature_is_asked_as_its_processor_does(qwen: Loaded) -> None:
    assert manner_of(qwen, Wish()) == OWN
    assert manner_of(qwen, Wish("processor")) == OWN


def test_a_family_without_a_wrapper_says_so(qwen: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(qwen.family), "harness", None)
    manner = manner_of(qwen, Wish())
    assert not manner.is_wrapper
    assert manner.lacking == "no wrapper of lmms-eval is known for Qwen2.5-VL"
    assert manner_of(qwen, Wish("processor")).lacking == ""


def test_a_wish_goes_before_the_wrapper(qwen: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manners, "WORDS", 1)
    usual = manner_of(qwen, Wish())
    assert (usual.wrapper, usual.min_pixels, usual.max_pixels) == ("qwen2_5_vl", 200_704, 1_605_632)
    assert (usual.max_frames, usual.fps, usual.max_new_tokens) == (32, None, 128)
    other = manner_of(qwen, Wish(max_pixels=401_408, fps=1.0, max_frames=4))
    assert (other.min_pixels, other.max_pixels) == (200_704, 401_408)
    assert other.frame_pixels == (200_704, 401_408)
    assert (other.max_frames, other.fps) == (4, 1.0)
    size = qwen.processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (200_704, 401_408)
    assert other.facts()["max_pixels"] == 401_408


def test_limits_that_cannot_be_are_refused(qwen: Loaded, llava: Loaded) -> None:
    with pytest.raises(Unsupported, match=r"LLaVA-1\.5 scales every image to its own resolution"):
        manner_of(llava, Wish(max_pixels=10_000))
    with pytest.raises(LoadError, match="min_pixels is 784 and max_pixels 100"):
        manner_of(qwen, Wish(max_pixels=100))
    with pytest.raises(GridError, match="fps is 0"):
        grids.load(None, ["fps=0"])
    for text in ("harness=mine", "max_frames=0", "max_frames=769", "min_pixels=0"):
        with pytest.raises(GridError, match=text.partition("=")[0]):
            grids.load(None, [text])


def test_a_system_prompt_stands_before_the_question(qwen: Loaded) -> None:
    template = qwen.processor.chat_template
    with pytest.raises(LoadError, match="leave out system_prompt"):
        manner_of(qwen, Wish(system_prompt="count objects"))
    qwen.processor.chat_template = (
        "{% for turn in messages %}{% for part in turn.content %}"
        "{{ part.text if part.type == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' }} "
        "{% endfor %}{% endfor %}"
    )
    loaded = replace(qwen, manner=manner_of(qwen, Wish(system_prompt="count objects")))
    inputs = loaded.inputs(noise(56, 56), "shape")
    text = qwen.processor.batch_decode(inputs["input_ids"], skip_special_tokens=True)[0]
    assert text.split() == ["count", "objects", "shape"]
    qwen.processor.chat_template = template


def test_every_familys_facts_are_those_of_a_wrapper() -> None:
    import lmms_eval.models

    names = lmms_eval.models.list_available_models()
    harnesses = [family.harness for family in models.families() if family.harness is not None]
    assert len(harnesses) >= 6
    for harness in harnesses:
        assert harness.wrapper in names
        assert set(asdict(harness)) <= set(asdict(OWN))


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("size", [(640, 480), (20, 33), (31, 900)])
def test_images_are_fetched_as_qwen_vl_utils_fetches_them(side: int, size: tuple[int, int]) -> None:
    from qwen_vl_utils import vision_process

    picture = noise(*size)
    theirs = vision_process.fetch_image({"image": picture}, image_patch_size=side // 2)
    ours = fetching.image(picture, side)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_smaller_images_are_not_held_to_a_wrappers_limits(
    qwen: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control that shrinks images would otherwise see them grow again."""
    monkeypatch.setattr(manners, "WORDS", 1)
    loaded = replace(qwen, manner=manner_of(qwen, Wish()))
    chat: list[Message] = [{"role": "user", "content": [{"type": "image", "url": noise(56, 84)}]}]
    assert loaded.process([chat])["image_grid_thw"].prod() * 14**2 >= 200_704
    assert loaded.process([chat], fitted=True)["image_grid_thw"].tolist() == [[1, 6, 4]]


# ---- videos --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "side"), [(33, 28), (9, 32), (2, 28)])
def test_frames_are_fetched_as_qwen_vl_utils_fetches_them(
    count: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a reader of our own: those that it has are not installed everywhere."""
    from qwen_vl_utils import vision_process

    whole = torch.randint(0, 256, (count, 3, 90, 130), dtype=torch.uint8)
    number = min(32, count) // 2 * 2

    def reader(element: dict[str, Any]) -> Any:
        frames = vision_process.smart_nframes(element, count, 10.0)
        places = torch.linspace(0, count - 1, frames).round().long()
        return whole[places], {"frames_indices": places.tolist()}, 1.0

    monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, "torchvision", reader)
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "torchvision")
    limits = {"min_pixels": 200_704, "max_pixels": 1_605_632}
    theirs, metadata = vision_process.fetch_video(
        {"video": "a.mp4", "nframes": number, **limits}, side // 2, return_video_metadata=True
    )
    places = fetching.frames(count, 10.0, 32, None)
    assert places == metadata["frames_indices"]
    frames = [
        fetching.frame(whole[place].permute(1, 2, 0).numpy(), number, side, (200_704, 1_605_632))
        for place in places
    ]
    assert np.array_equal(np.stack(frames), theirs.permute(0, 2, 3, 1).numpy())


def test_a_minute_has_as_many_frames_as_the_wrapper_says() -> None:
    assert len(fetching.frames(1800, 30.0, 32, None)) == 32
    assert len(fetching.frames(1800, 30.0, 32, 2.0)) == 32
    assert len(fetching.frames(1800, 30.0, 768, 2.0)) == 120
    assert fetching.frames(1800, 30.0, 4, None) == [0, 600, 1199, 1799]
    assert fetching.frames(1, 30.0, 32, None) == [0, 0]


def shown(loaded: Loaded, file: Path, manner: Manner) -> tuple[int, ...]:
    return clips.clip_of(replace(loaded, manner=manner), str(file)).indices


def test_frames_are_capped_where_nobody_says_how_many(qwen: Loaded, tmp_path: Path) -> None:
    file = film(tmp_path / "a.mp4", count=100)
    assert len(shown(qwen, file, OWN)) == 32
    assert len(shown(qwen, file, replace(OWN, max_frames=5))) == 4  # two share a patch
    assert len(shown(qwen, file, replace(OWN, fps=1.0))) == 10
    assert len(shown(qwen, file, WRAPPER)) == 8


def test_a_processor_that_chooses_for_itself_is_held_to_the_number(
    qwen: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the whole of the video, and not by its first frames."""
    reader = qwen.processor.video_processor
    monkeypatch.setattr(type(reader), "sample_frames", lambda *_, **__: list(range(100)))
    file = film(tmp_path / "a.mp4", count=100)
    assert shown(qwen, file, replace(OWN, max_frames=4)) == (0, 25, 50, 75)


def test_times_reach_the_model(qwen: Loaded, tmp_path: Path) -> None:
    """Ten seconds in eight frames are 2.5 seconds for every two."""
    loaded = replace(qwen, manner=WRAPPER)
    clip = clips.clip_of(loaded, str(film(tmp_path / "a.mp4", count=100)))
    chat: list[Message] = [{"role": "user", "content": [{"type": "video", "video": clip}]}]
    inputs = loaded.process([chat])
    assert inputs["second_per_grid_ts"].tolist() == [2.5]
    grid = inputs["video_grid_thw"].tolist()[0]
    assert grid[0] == 4
    assert [grid[1] * 14, grid[2] * 14] == list(clip.frames.shape[1:3])


UTILS = """

def videos(doc):
    return [doc["video"]]
"""


def video_task(folder: Path, files: list[str]) -> Path:
    """A task of a user's own that asks about videos."""
    from datasets import Dataset

    text = TASK.replace("utils.visual", "utils.videos").replace('until: ["."]', 'until: ["\\n"]')
    file = write_task(folder, text=text)
    (folder / "utils.py").write_text((folder / "utils.py").read_text() + UTILS)
    rows = {
        "question_id": [f"q{number}" for number in range(len(files))],
        "video": files,
        "question": ["count objects"] * len(files),
        "answer": ["yes"] * len(files),
    }
    Dataset.from_dict(rows).to_parquet(folder / "data.parquet")
    return file


def ran(folder: Path, **options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The one cell of a study of `none`: its record and its rows."""
    import json

    import pyarrow.parquet as parquet

    words = [f"{key}={value}" for key, value in options.items()]
    words += ["methods=none", "controls=false", "cost=false", f"out={folder}"]
    outcome = sweep(grids.load(None, words))
    (cell,) = outcome.folder.joinpath("cells").iterdir()
    record: dict[str, Any] = json.loads((cell / "cell.json").read_text())
    return record, parquet.read_table(cell / "samples.parquet").to_pylist()


def test_a_study_notes_what_it_showed(tmp_path: Path) -> None:
    film(tmp_path / "whole.mp4")
    (tmp_path / "broken.mp4").write_text("no video")
    files = [str(tmp_path / name) for name in ("whole.mp4", "broken.mp4")]
    task = str(video_task(tmp_path / "task", files))
    model = "tiny-qwen2.5-vl"
    record, rows = ran(tmp_path / "study", model=model, tasks=task, max_frames="4")
    assert record["status"] == "ok"
    assert record["provenance"]["manner"]["max_frames"] == 4
    whole, broken = rows
    assert whole["frames"] == [0, 10, 20, 30]
    assert whole["video_fps"] == 10.0
    # 64 x 48 pixels are 2 x 2 tokens, and two frames share theirs
    assert whole["available"] == 2 * 2 * 2
    assert whole["flops_vision"] > 0
    assert broken["status"] == "unreadable"
    assert "broken.mp4" in broken["error"]


def test_a_family_without_videos_does_not_answer_about_them(tmp_path: Path) -> None:
    film(tmp_path / "whole.mp4")
    task = str(video_task(tmp_path / "task", [str(tmp_path / "whole.mp4")]))
    record, rows = ran(tmp_path / "study", model="tiny-llava-1.5", tasks=task)
    assert record["status"] == "unsupported"
    assert "LLaVA-1.5 sees no videos" in record["reason"]
    assert rows[0]["prediction"] is None


def test_a_task_that_plays_sound_is_not_answered(
    qwen: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = benchmarks.load_task(str(write_task(tmp_path)))
    monkeypatch.setattr(type(benchmark), "hears", True)
    with pytest.raises(Unsupported, match="hears nothing"):
        read(qwen, benchmark, benchmark.requests[:1])
    part = {"type": "audio", "url": "a.wav"}
    with pytest.raises(Unsupported, match="hears nothing, and mine plays sound"):
        clips.check_seen(qwen, [{"role": "user", "content": [part]}], "mine")


def test_data_with_sound_are_known(tmp_path: Path) -> None:
    from datasets import Audio, Features, Value

    benchmark = benchmarks.load_task(str(write_task(tmp_path)))
    assert not benchmark.hears
    features = Features({"question": Value("string"), "sound": Audio()})
    task: Any = SimpleNamespace(dataset={"test": SimpleNamespace(features=features)})
    benchmark._task = task
    assert benchmark.hears


# ---- prompts and answers -------------------------------------------------------------------------

PROMPTS = """
lmms_eval_specific_kwargs:
  default: {post_prompt: " usual"}
  qwen3_vl: {post_prompt: " own"}
"""
TEXT = """

def text(doc, kwargs):
    return doc["question"] + kwargs["post_prompt"]
"""


def test_a_task_has_its_prompt_for_the_model(tmp_path: Path) -> None:
    text = TASK.replace("doc_to_text: question", "doc_to_text: !function utils.text")
    file = write_task(tmp_path, text=text + PROMPTS)
    (tmp_path / "utils.py").write_text((tmp_path / "utils.py").read_text() + TEXT)
    usual, own, other = [
        benchmarks.load_task(str(file), model_name=name) for name in (None, "qwen3_vl", "llava_hf")
    ]
    assert usual.requests[0].question == "is it 0 usual"
    assert own.requests[0].question == "is it 0 own"
    assert own.messages(own.requests[0])[0]["content"][-1]["text"] == "is it 0 own"
    assert other.requests[0].question == "is it 0 usual"
    assert own.fingerprint != usual.fingerprint


@pytest.mark.parametrize(
    ("settings", "until"),
    [
        ('{max_new_tokens: 4, until: ["."]}', (".",)),
        ("{max_new_tokens: 4}", ()),
        ('{max_new_tokens: 4, until: "\\n\\n"}', ("\n\n",)),
        ("{max_new_tokens: 4, until: null}", ()),
    ],
)
def test_an_answer_ends_only_where_the_task_says_so(
    tmp_path: Path, settings: str, until: tuple[str, ...]
) -> None:
    """lmms-eval adds a blank line where a task says nothing, and an answer may well have one."""
    text = TASK.replace('{max_new_tokens: 4, temperature: 0, until: ["."]}', settings)
    benchmark = benchmarks.load_task(str(write_task(tmp_path, text=text)))
    assert benchmark.requests[0].until == until


def test_the_wrapper_of_a_family_is_told_once() -> None:
    harness = Harness("some", max_new_tokens=7)
    manner = Manner("lmms-eval", **asdict(harness))
    assert (manner.wrapper, manner.max_new_tokens, manner.is_wrapper) == ("some", 7, True)
