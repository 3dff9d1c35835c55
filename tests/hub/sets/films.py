"""Questions about films: Video-MME, whose films are zipped, and MVBench, whose lie on a branch."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

from datasets import List, Value

from hub.scenes import LETTERS, film
from hub.sets import Row, Split

TEXT = Value("string")
NAMES = ("video_id", "duration", "domain", "sub_category", "url", "videoID", "question_id")
MVBENCH = {
    "action_count": "perception/videos",
    "moving_direction": "clevrer/video_validation",
}
"""By task the folder of its films."""


def videomme(number: int) -> Row:
    """Two questions a film."""
    return {
        "video_id": f"{number // 2:03}",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "url": "",
        "videoID": f"v{number // 2}",
        "question_id": f"{number // 2:03}-{number % 2}",
        "task_type": "Counting Problem",
        "question": "Which color moves?",
        "options": ["A. Red.", "B. Green.", "C. Blue.", "D. Yellow."],
        "answer": LETTERS[number % 4],
    }


def videomme_films(folder: Path, rows: int) -> None:
    """The zip of its films."""
    with (
        tempfile.TemporaryDirectory() as place,
        zipfile.ZipFile(folder / "videos_chunked_01.zip", "w") as archive,
    ):
        for number in range((rows + 1) // 2):
            file = Path(place) / f"v{number}.mp4"
            film(file, number)
            archive.write(file, f"data/{file.name}")


def mvbench(folder: Path, rows: int) -> None:
    """A list of questions a task, on both branches, and loose films on the branch `video`."""
    branch = folder.with_name(f"{folder.name}@video")
    for place in (folder, branch):
        (place / "json").mkdir(parents=True)
        configs = ""
        for task in MVBENCH:
            file = f"json/{task}.json"
            content = [_counted(number) for number in range(rows)]
            (place / file).write_text(json.dumps(content))
            configs += f"- config_name: {task}\n  data_files: {file}\n"
        (place / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# MVBench\n")
    for films in MVBENCH.values():
        (branch / films).mkdir(parents=True)
        for number in range(rows):
            film(branch / films / f"video_{number}.mp4", number)


def _counted(number: int) -> Row:
    candidates = ["1", "2", "3"]
    return {
        "video": f"video_{number}.mp4",
        "question": "How many times does the square move?",
        "candidates": candidates,
        "answer": candidates[number % 3],
    }


SPLITS = [
    Split(
        "lmms-eval/Video-MME",
        "",
        "test",
        {
            **dict.fromkeys((*NAMES, "task_type", "question"), TEXT),
            "options": List(TEXT),
            "answer": TEXT,
        },
        videomme,
    ),
]
EXTRAS = {"lmms-eval/Video-MME": videomme_films, "OpenGVLab/MVBench": mvbench}
