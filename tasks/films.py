"""Films: the data of the built-in tasks about clips and pairs of pictures, which are drawn where
they are not there yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prunebench.border.text import one_line
from prunebench.testbed import clip_questions, clips, drawing, film_dataset, scenes

MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Recipe:
    """Which films a task is made of; several `question_types`, all of clips or all of pairs, take
    turns.
    """

    question_types: Sequence[str] = clip_questions.CLIP_KINDS
    samples: int = 300
    seed: int = 1

    most: ClassVar[int] = 2_000
    """Each takes some 30 ms to draw before the first is asked."""

    def __post_init__(self) -> None:
        names = self.question_types
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        kinds = (clip_questions.CLIP_KINDS, clip_questions.PAIR_KINDS)
        if not is_list or not names or not any(set(map(str, names)) <= set(one) for one in kinds):
            value = one_line(repr(names), 60)
            groups = " or of ".join(", ".join(one) for one in kinds)
            raise ValueError(f"question_types is {value}; it is a list of some of {groups}")
        for key, least, most in (("samples", 1, self.most), ("seed", 0, MOST_SEED)):
            number = getattr(self, key)
            if type(number) is not int or not least <= number <= most:
                value = one_line(repr(number), 60)
                raise ValueError(f"{key} is {value}; it is a whole number from {least} to {most}")

    @property
    def are_pairs(self) -> bool:
        """Whether the films are pairs of pictures."""
        return self.question_types[0] in clip_questions.PAIR_KINDS

    def file_name(self, count: int) -> str:
        """A name that other films, or films drawn by other code, do not have."""
        digest = hashlib.sha256()
        for module in (clip_questions, clips, drawing, film_dataset, scenes):
            digest.update(Path(str(module.__file__)).read_bytes())
        digest.update(" ".join(self.question_types).encode())
        return f"films-{count}-s{self.seed}-{digest.hexdigest()[:12]}.parquet"

    def write(self, path: Path, count: int) -> Path:
        """Draw `count` films, and write them with their questions."""
        return film_dataset.write_films(
            path, count, seed=self.seed, kinds=self.question_types, pairs=self.are_pairs
        )
