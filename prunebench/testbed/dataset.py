"""Write held-out questions to a parquet file that Hugging Face `datasets` reads, with images."""

import io
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.testbed.questions import Question, sample
from prunebench.testbed.scenes import Scene


def write_parquet(
    path: Path, samples: int, *, seed: int = 1, question_type: str | None = None
) -> Path:
    """Write `samples` questions about scenes of the stream `seed`; the same arguments give the same
    bytes.

    Without `question_type` the types take turns. Columns: `id`, `image` (PNG), `mask` (PNG: 0 is
    background, k the k-th object), `question`, `answer`, `question_type`, `evidence_box` (x0, y0,
    x1, y1 in pixels, or null), `complexity`, `width`, `height`, `scene_index`. Raises ValueError
    for an unknown type. The file appears whole or not at all; returns `path`.
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
            "evidence_box": [Value("float32")],
            **dict.fromkeys(("complexity", "width", "height", "scene_index"), Value("int32")),
        }
    )
    rows = [_row(seed, *sample(seed, index, question_type)) for index in range(samples)]
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
        "question": question.text,
        "answer": question.answer,
        "question_type": question.kind,
        "evidence_box": None if question.evidence is None else list(map(float, question.evidence)),
        "complexity": about.complexity,
        "width": about.width,
        "height": about.height,
        "scene_index": about.index,
    }
