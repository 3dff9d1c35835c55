"""Template: the file that an author's method starts from."""

from __future__ import annotations

import keyword
from pathlib import Path

from prunebench import registry
from prunebench.run.names import check_label
from prunebench.run.plain import short

TEMPLATE = '''"""{title}: keep the tokens whose features have the largest norm."""

from dataclasses import dataclass

from torch import Tensor

from prunebench import ScorePruner, VisualTokens, register


@register(paper=None)
@dataclass(frozen=True)
class {title}(ScorePruner):
    """Rank by the norm of the features; put your idea into `score`."""

    power: float = 2.0

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] one score a token; higher is kept."""
        return tokens.features.float().norm(p=self.power, dim=-1)
'''


def new_file(name: str, folder: Path) -> Path:
    """Write the file to start a method from; raises RegistryError for a name or place that cannot
    be used.
    """
    _check_name(name)
    path = folder / f"{name}.py"
    try:
        with path.open("x") as file:
            file.write(TEMPLATE.format(title=name.title().replace("_", "")))
    except FileExistsError:
        raise registry.RegistryError(f"{path} exists; choose another name or remove it") from None
    except OSError as error:
        raise registry.RegistryError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _check_name(name: str) -> None:
    """Raises RegistryError for what is no module's name, or one that means something in a study."""
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    if not plain or name.startswith("_") or keyword.iskeyword(name):
        raise registry.RegistryError(
            f"{short(name)} cannot name a method; write lower-case letters, digits and _"
        )
    if name in registry.names():
        raise registry.RegistryError(f"a method named {name!r} is built in; choose another name")
    check_label(name, name)
