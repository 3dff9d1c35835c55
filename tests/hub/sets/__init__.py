"""Small data sets under public ids, with the columns that lmms-eval's tasks read; one file a kind
of question.

A file has SPLITS, what a repository holds as tables, and may have EXTRAS, by repository a function
that writes what is no table.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """A table: its repository, configuration (empty for the only one) and split, its columns, and
    row number n.
    """

    repository: str
    config: str
    split: str
    columns: dict[str, Any]
    row: Callable[[int], Row]


def names() -> list[str]:
    """Every repository there is."""
    return sorted({split.repository for split in _splits()} | set(_extras()))


def write(folder: Path, name: str, rows: int = 8) -> None:
    """Write a data set with `rows` rows in each of its splits; NAME@BRANCH beside it is a branch of
    its own.
    """
    folder.mkdir(parents=True)
    configs: dict[str, list[str]] = {}
    for split in _splits():
        if split.repository == name:
            file = _write_table(folder, split, rows)
            place = f"  - split: {split.split}\n    path: {file}"
            configs.setdefault(split.config or "default", []).append(place)
    lines = ["---", "configs:"] if configs else ["---"]
    for config, places in configs.items():
        lines += [f"- config_name: {config}", "  data_files:", *places]
    (folder / "README.md").write_text("\n".join([*lines, "---", f"# {name}", ""]))
    if name in _extras():
        _extras()[name](folder, rows)


def _write_table(folder: Path, split: Split, rows: int) -> str:
    """Write one split; gives its path in the repository."""
    from datasets import Dataset, Features

    path = f"{split.config or 'data'}/{split.split}-00000-of-00001.parquet"
    (folder / path).parent.mkdir(exist_ok=True)
    content = [split.row(number) for number in range(rows)]
    Dataset.from_list(content, Features(split.columns)).to_parquet(folder / path)
    return path


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{info.name}")


def _splits() -> Iterator[Split]:
    for module in _modules():
        yield from module.SPLITS


def _extras() -> dict[str, Callable[[Path, int], None]]:
    by_name: dict[str, Callable[[Path, int], None]] = {}
    for module in _modules():
        by_name |= getattr(module, "EXTRAS", {})
    return by_name
