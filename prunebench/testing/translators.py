"""Translators: per method, a file that turns vectors of official code into cases of its own
interface.

A translator `METHOD.py` has a function `cases(method, vector)` that gives the cases of one vector.
`method` is the class to verify, so that a file with another implementation of it can be verified,
too. `SETS` names the sets of vectors that it translates, METHOD alone where it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import prunebench
from prunebench.border.text import message, one_line
from prunebench.pruner import Pruner
from prunebench.testing.case import Case
from prunebench.testing.modules import run_file
from prunebench.testing.vectors import Vector, VerifyError

Translate = Callable[[Any, Vector], Iterable[Case]]


@dataclass(frozen=True)
class Translator:
    """What the file of a method's translator declares."""

    sets: tuple[str, ...]
    translate: Translate

    def cases(self, method: type[Pruner], vector: Vector) -> list[Case]:
        """The method at work on a vector, once for every setting that the vector has answers of."""
        return list(self.translate(method, vector))


def own_tests() -> Path | None:
    """The tests' folder of the checkout that this package is run from; None for an installed
    package, which brings no vectors.
    """
    root = Path(prunebench.__file__).resolve().parents[1]
    folder = root / "tests"
    is_checkout = (root / "pyproject.toml").is_file() and (folder / "golden").is_dir()
    return folder if is_checkout else None


def vectors_folder() -> Path:
    """Where the project's own vectors lie; raises VerifyError where there are none."""
    tests = own_tests()
    if tests is None:
        raise VerifyError(
            "an installed prunebench brings no vectors; run it in a checkout of its repository, "
            "or give two folders: prunebench verify FOLDER --translators FOLDER"
        )
    return tests / "golden"


def translators_folder() -> Path:
    """Where the project's own translators lie; raises VerifyError where there are none."""
    tests = own_tests()
    if tests is None:
        raise VerifyError(
            "an installed prunebench brings no translators of vectors; give a folder of yours: "
            "prunebench verify FOLDER --translators FOLDER"
        )
    return tests / "vectors"


def load_translator(name: str, folder: Path | None = None) -> Translator | None:
    """The translator of a method, None where it has none; the project's own folder where no other
    is named.

    Raises VerifyError for a file that cannot be used.
    """
    path = (translators_folder() if folder is None else folder) / f"{name}.py"
    if not path.is_file():
        return None
    # two folders may hold translators of one name
    spelling = sha256(str(path.resolve()).encode()).hexdigest()[:12]
    try:
        module = run_file(path, f"_prunebench_translator_{spelling}.{name}")
    except Exception as error:  # the file is its author's, and may fail in any way
        reason = one_line(f"{type(error).__name__}: {message(error)}", 200)
        raise VerifyError(f"translator {path} cannot be imported: {reason}") from error
    translate = getattr(module, "cases", None)
    if not callable(translate):
        raise VerifyError(f"translator {path} has no function cases(method, vector)")
    return Translator(tuple(getattr(module, "SETS", (name,))), translate)
