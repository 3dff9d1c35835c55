"""Write held-out questions about clips and pairs to a parquet file that Hugging Face `datasets`
reads, with all pictures.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.testbed.clip_questions import FilmQuestion, sample_clip, sample_pair
from prunebench.testbed.clips import FPS, FRAMES_A_MOMENT, Clip, Pair


def write_films(path: Path, samples: int, *, seed: int, kinds: Sequence[str], pairs: bool) -> Path:
    """Write `samples` questions about clips, or `pairs`, of the stream `seed`; the same arguments
    give the same bytes. The `kinds` take turns.

    Columns: `id`, `pictures` (PNGs: the frames of a clip, the two images of a pair), `fps` (of a
    clip, 0 of a pair), `question`, `answer`, `question_type`, `evidence_boxes` (x0, y0, x1, y1 in
    pixels), for each of these `evidence_pictures` (which of the pictures it lies in, from 0; of a
    moment's frames the first) and `evidence_objects` (of the boxes of one object one is enough),
    `complexity`, `width`, `height`, `scene_index`. Raises ValueError for an unknown type. The file
    appears whole or not at all; returns `path`.
    """
    import pyarrow.parquet as parquet  # late: only who writes data needs pyarrow and datasets
    from datasets import Features, Image, List, Value
    from pyarrow import Table

    features = Features(
        {
            "id": Value("string"),
            "pictures": List(Image()),
            "fps": Value("float32"),
            "question": Value("string"),
            "answer": Value("string"),
            "question_type": Value("string"),
            "evidence_boxes": [[Value("float32")]],
            "evidence_pictures": [Value("int32")],
            "evidence_objects": [Value("int32")],
            **dict.fromkeys(("complexity", "width", "height", "scene_index"), Value("int32")),
        }
    )
    sample: Any = sample_pair if pairs else sample_clip
    rows = [_row(*sample(seed, index, kinds)) for index in range(samples)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    parquet.write_table(
        Table.from_pylist(rows, schema=features.arrow_schema), content, row_group_size=50
    )
    return files.write(path, content.getvalue())


def _row(film: Clip | Pair, question: FilmQuestion) -> dict[str, Any]:
    """One question as a row of the file."""
    from PIL import Image

    about = film.pictures[0]
    is_clip = isinstance(film, Clip)
    name = f"{about.seed}-{about.index}-{question.kind}"
    pictures = []
    for number, pixels in enumerate(film.render()):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": f"{name}-{number}.png"})
    boxes, places, things = [], [], []
    for thing, sightings in enumerate(question.evidence):
        for picture, box in sightings:
            boxes.append(list(map(float, box)))
            places.append(picture * FRAMES_A_MOMENT if is_clip else picture)
            things.append(thing)
    return {
        "id": name,
        "pictures": pictures,
        "fps": FPS if is_clip else 0.0,
        "question": question.text,
        "answer": question.answer,
        "question_type": question.kind,
        "evidence_boxes": boxes,
        "evidence_pictures": places,
        "evidence_objects": things,
        "complexity": about.complexity,
        "width": about.width,
        "height": about.height,
        "scene_index": about.index,
    }
