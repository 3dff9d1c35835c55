"""Write held-out questions to a parquet file that Hugging Face `datasets` reads, with images."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.testbed.questions import KINDS, Question, sample
from prunebench.testbed.scenes import Scene


def write_parquet(
    path: Path, samples: int, *, seed: int = 1, kinds: str | Sequence[str] = KINDS
) -> Path:
    """Write `samples` questions about scenes of the stream `seed`; the same arguments give the same
    bytes.

    Several `kinds` take turns. Columns: `id`, `image` (PNG), `mask` (PNG: 0 is background, k the
    k-th object), `question` (behind the earlier turn, where there is one), `answer`,
    `question_type`, `evidence_boxes` (x0, y0, x1, y1 in pixels of every object that must be seen),
    `complexity`, `width`, `height`, `scene_index`. Raises ValueError for an unknown type. The file
    appears whole or not at all; returns `path`.
    """
    import pyarrow.parquet as parquet  # late: only who writes data needs pyarrow and datasets
    from datasets import Features, Image, Value
    from pyarrow import Table

    features = Features(
        {
            "id": Value("string"),
            "image": Image(),
            "mask": Image(),
            "question": Value("string"),
            "answer": Value("string"),
            "question_type": Value("string"),
            "evidence_boxes": [[Value("float32")]],
            **dict.fromkeys(("complexity", "width", "height", "scene_index"), Value("int32")),
        }
    )
    rows = [_row(seed, *sample(seed, index, kinds)) for index in range(samples)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    parquet.write_table(
        Table.from_pylist(rows, schema=features.arrow_schema), content, row_group_size=100
    )
    return files.write(path, content.getvalue())


def _row(seed: int, about: Scene, question: Question) -> dict[str, Any]:
    """One question as a row of the file."""
    from PIL import Image

    def png(pixels: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    name = f"{seed}-{about.index}-{question.kind}"
    return {
        "id": name,
        "image": {"bytes": png(about.render()), "path": f"{name}.png"},
        "mask": {"bytes": png(about.mask()), "path": f"{name}-mask.png"},
        "question": question.prompt,
        "answer": question.answer,
        "question_type": question.kind,
        "evidence_boxes": [list(map(float, box)) for box in question.evidence],
        "complexity": about.complexity,
        "width": about.width,
        "height": about.height,
        "scene_index": about.index,
    }
