"""Grid: the question a study asks, read from YAML and key=value overrides, checked at the border, expanded to cells."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from prunebench import registry
from prunebench.budget import Budget, BudgetError
from prunebench.pruner import Pruner
from prunebench.run import options
from prunebench.run.cell import BASELINE, Cell, Variant, slug
from prunebench.run.options import short

CONTROLS = (BASELINE, "random", "uniform", "pool", "resize")
"""Methods every study holds, so that any other is seen beside the cheapest things that could be done instead."""

HEAD = "# The question of this study; `prunebench sweep` on this file continues it.\n"
"""How a study's own grid.yaml begins; a user's file of any name does not."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
WEIGHTS = ("pretrained", "random")
LEAST = {"limit": 1, "batch": 1, "threads": 1, "cost.inputs": 1, "cost.pairs": 1, "cost.warmup": 0, "cost.new_tokens": 2}
LISTS = ("methods", "tasks", "budgets")


class GridError(ValueError):
    """A grid that asks for something unknown or impossible."""


@dataclass
class Cost:
    """The cost pass: `pairs` interleaved runs of method and unpruned baseline on `inputs` samples of the first task."""

    enabled: bool = True
    inputs: int = 1
    pairs: int = 10
    warmup: int = 2
    new_tokens: int = 8


@dataclass
class Grid:
    """One study. `methods` are names, files, or mappings with a name, a label and settings; `limit` None means all samples.

    With `batch` above 1 cache bytes include padding, and a batch's selector FLOPs are shared evenly.
    `threads` None means one for a miniature on the CPU and torch's own choice for anything larger; `out` None a folder under
    results/scratch named after the grid's content.
    """

    model: str = "tiny-qwen2.5-vl"
    methods: list[Any] = field(default_factory=lambda: ["all"])
    tasks: list[Any] = field(default_factory=lambda: ["scenes_mixed"])
    budgets: list[Any] = field(default_factory=lambda: ["0.75", "0.5", "0.25", "0.1"])
    limit: int | None = None
    seed: int = 0
    controls: bool = True
    batch: int = 1
    weights: str = "pretrained"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    threads: int | None = None
    timeout: float | None = None
    trust_remote_code: bool = False
    max_image_pixels: int | None = None
    cost: Cost = field(default_factory=Cost)
    out: str | None = None

    def variants(self) -> list[Variant]:
        """The methods with their settings, controls first; raises GridError."""
        return _variants(self.methods, self.controls)

    def folder(self) -> Path:
        """The study's folder."""
        if self.out is not None:
            return Path(self.out)
        return Path("results") / "scratch" / f"{slug(self.model)}-{self.digest()[:8]}"

    def question(self) -> dict[str, Any]:
        """Everything that makes this study this study, as plain data: all but where it is stored."""
        asked = asdict(self)
        asked.pop("out")
        asked["methods"] = [variant.entry() for variant in self.variants()]
        return asked

    def digest(self) -> str:
        """A hash of the question."""
        return hashlib.sha256(json.dumps(self.question(), sort_keys=True).encode()).hexdigest()

    def cells(self, tasks: Sequence[str]) -> list[Cell]:
        """The quality cells of every task, then the cost cells, which stand on the first task.

        The baseline ignores budgets, so it runs once where the others run once per budget.
        """
        budgets = [Budget.parse(text) for text in self.budgets]
        cells = []
        for kind, over in (("quality", tasks), ("cost", tasks[:1] if self.cost.enabled else [])):
            for task in over:
                for variant in self.variants():
                    for budget in [None] if variant.name == BASELINE else budgets:
                        cells.append(Cell(kind, self.model, variant, budget, task, self.seed))
        return cells


def load(file: Path | None = None, overrides: Iterable[str] = ()) -> Grid:
    """The grid of a YAML file with key=value overrides on top; raises GridError in one line."""
    given = _read(file) if file is not None else {}
    if file is not None and isinstance(given.get("methods"), list):
        given["methods"] = [_beside(entry, file.parent) for entry in given["methods"]]
    try:
        settings = options.override(given, overrides, Grid, LISTS)
        if isinstance(given.get("cost"), bool):
            given["cost"] = {"enabled": given["cost"]}
        given |= {key: [given[key]] for key in LISTS if key in given and not isinstance(given[key], list)}
        grid = options.structured(Grid, given)
    except options.OptionError as error:
        raise GridError(str(error)) from None
    if file is not None and grid.out is None and file.read_text(encoding="utf-8").startswith(HEAD):
        grid.out = str(file.parent)  # the question stands in the study's own folder
    _check(grid)
    if settings:
        grid.methods = _with_settings(grid, settings)
        grid.variants()
    return grid


def dump(grid: Grid) -> str:
    """The question as YAML that `load` reads back to an equal grid."""
    return HEAD + str(yaml.safe_dump(grid.question(), sort_keys=False))


def differences(one: Grid, other: Grid) -> list[str]:
    """What two grids ask differently, each as "key: one's value, not other's"."""
    first, second = one.question(), other.question()
    return [f"{key} is {short(first[key])} there and {short(second[key])} here" for key in first if first[key] != second[key]]


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GridError(f"no grid file {file}; give a YAML file, or key=value, such as methods=fastv,divprune") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"grid file {file} cannot be read: {error}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GridError(f"grid file {file} is no YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise GridError(f"grid file {file} must hold keys and values, found a {type(content).__name__}")
    return content


def _check(grid: Grid) -> None:
    for key, known in (("weights", WEIGHTS), ("device", DEVICES), ("dtype", DTYPES)):
        value = getattr(grid, key)
        if value not in known:
            raise GridError(f"{key} is {value!r}; it is one of {', '.join(known)}")
    for key, least in LEAST.items():
        value = attrgetter(key)(grid)
        if value is not None and value < least:
            raise GridError(f"{key} is {value}; it starts at {least}")
    for key in LISTS:
        if not getattr(grid, key):
            raise GridError(f"{key} is empty; name at least one")
    grid.budgets = _budgets(grid.budgets)
    grid.tasks = _tasks(grid.tasks)
    grid.variants()


def _budgets(given: list[Any]) -> list[str]:
    """Normalised texts, each once."""
    try:
        return list(dict.fromkeys(str(Budget.parse(value)) for value in given))
    except BudgetError as error:
        raise GridError(f"budgets: {error}") from None


def _tasks(given: list[Any]) -> list[str]:
    """Names, suites replaced by their tasks, each once; whether a public task exists is lmms-eval's to say."""
    from prunebench import benchmarks

    wrong = [value for value in given if not isinstance(value, str)]
    if wrong:
        raise GridError(f"task {wrong[0]!r} is no name; write scenes_mixed, gqa or ./my_task.yaml")
    try:
        names = list(dict.fromkeys(name for value in given for name in benchmarks.expand(value)))
    except benchmarks.TaskError as error:
        raise GridError(str(error)) from None
    for number, name in enumerate(names):
        twin = next((other for other in names[:number] if slug(other) == slug(name)), None)
        if twin is not None:
            raise GridError(f"tasks {twin} and {name} would share the folder name {slug(name)!r}; rename one")
    return names


def _variants(entries: Sequence[Any], controls: bool) -> list[Variant]:
    listed: list[Any] = [name for entry in entries for name in (registry.names() if entry == "all" else [entry])]
    if controls:
        labels = [_variant(entry).label for entry in listed]
        listed = [name for name in CONTROLS if name not in labels] + listed
    variants: dict[str, Variant] = {}
    for entry in listed:
        variant = _variant(entry)
        if variants.get(variant.label, variant) != variant:
            raise GridError(f"two methods are labelled {variant.label!r}; give each mapping a label of its own")
        variants[variant.label] = variant
    return sorted(variants.values(), key=lambda v: CONTROLS.index(v.name) if v.name in CONTROLS else len(CONTROLS))


def _variant(entry: Any) -> Variant:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise GridError(f"method {entry!r} is neither a name nor a mapping with a name")
    settings = {str(key): value for key, value in entry.items() if key not in ("name", "label", "positions")}
    name, positions = entry["name"], entry.get("positions")
    label = str(entry.get("label", _label(name)))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", label) is None or "__" in label:
        raise GridError(f"label {label!r} of method {name} is no file name; use letters, digits, '.', '-', '+' and single '_'")
    if label in CONTROLS and name != label:
        raise GridError(f"label {label!r} is that of the control; give {name} another")
    if positions not in (None, "original", "compact"):
        raise GridError(f"{label}.positions is {positions!r}; it is original or compact")
    try:
        pruner: Pruner = registry.build(name, settings)
        pruner.site()
    except registry.RegistryError as error:
        raise GridError(str(error)) from None
    except (TypeError, ValueError) as error:  # a setting that names no site
        raise GridError(f"{label} {settings or ''}: {error}") from None
    return Variant(label, name, pruner, positions)


def _beside(entry: Any, folder: Path) -> Any:
    """A method file named in a YAML, looked for beside it where it is not in the working directory."""
    if isinstance(entry, Mapping):
        return {**entry, "name": _beside(entry.get("name"), folder)}
    if isinstance(entry, str) and entry.endswith(".py") and not Path(entry).exists() and (folder / entry).exists():
        return str(folder / entry)
    return entry


def _with_settings(grid: Grid, settings: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The grid's methods with "fastv.layer=3" settings put where the label or the name is theirs."""
    plain = _variants(grid.methods, grid.controls)
    labels = [variant.label for variant in plain]
    for label in settings:
        if label not in labels:
            keys = [*options.keys(Grid), *labels]
            raise GridError(f"unknown key {label}.{next(iter(settings[label]))}{registry.suggest(label, keys)}")
    return [{**variant.entry(), **settings.get(variant.label, {})} for variant in plain]


def _label(name: str) -> str:
    return Path(name).stem if name.endswith(".py") or "/" in name else name
