"""Scenes: the data of the built-in tasks, which are drawn where they are not there yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prunebench.border.text import one_line
from prunebench.testbed import dataset, drawing, questions, scenes

MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Recipe:
    """Which scenes a task is made of; several `question_types` take turns."""

    question_types: Sequence[str] = questions.KINDS
    samples: int = 500
    seed: int = 1

    most: ClassVar[int] = 2_000
    """Each takes some 20 ms to draw before the first is asked."""

    def __post_init__(self) -> None:
        kinds = (*questions.KINDS, questions.FINE)
        names = self.question_types
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_list or not names or not set(map(str, names)) <= set(kinds):
            value = one_line(repr(names), 60)
            raise ValueError(
                f"question_types is {value}; it is a list of some of {', '.join(kinds)}"
            )
        for key, least, most in (("samples", 1, self.most), ("seed", 0, MOST_SEED)):
            number = getattr(self, key)
            if type(number) is not int or not least <= number <= most:
                value = one_line(repr(number), 60)
                raise ValueError(f"{key} is {value}; it is a whole number from {least} to {most}")

    def file_name(self, count: int) -> str:
        """A name that other scenes, or scenes drawn by other code, do not have."""
        digest = hashlib.sha256()
        for module in (dataset, drawing, questions, scenes):
            digest.update(Path(str(module.__file__)).read_bytes())
        digest.update(" ".join(self.question_types).encode())
        return f"scenes-{count}-s{self.seed}-{digest.hexdigest()[:12]}.parquet"

    def write(self, path: Path, count: int) -> Path:
        """Draw `count` scenes, and write them with their questions."""
        return dataset.write_parquet(path, count, seed=self.seed, kinds=self.question_types)
