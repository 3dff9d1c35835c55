"""Pages: what the documentation says that the code knows, written from the code.

    python tools/pages.py          writes the tables of README.md and docs/latency.md,
                                   docs/models.md, the names of methods/ and their colours again
    python tools/pages.py --check  exits 1 and names them where they are not fresh

The pages of single methods and families, of the grid's keys and of the numbers lie nowhere: the
site's build asks for them (tools/hook.py), so that they cannot be old.
"""

from __future__ import annotations

import csv
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

import prunebench
from prunebench import registry
from prunebench.budget import Budget
from prunebench.models import families
from prunebench.models.base import Family
from prunebench.observations import SignalReadings
from prunebench.pruner import Pruner
from prunebench.report import headings, palette
from prunebench.report import layers as report_layers
from prunebench.report import pairs as report_pairs
from prunebench.report import ranks as report_ranks
from prunebench.report import retention as report_retention
from prunebench.run import grid
from prunebench.signals import Signal
from prunebench.sites import Part, Site
from prunebench.study import columns
from prunebench.testbed import MODELS
from prunebench.testing import matrix as support
from prunebench.testing import verified

# whoever loads this file by its path has not its neighbours
sys.path.insert(0, str(Path(__file__).parent))

import printed_page
import profiled_cards
import timed_page

ROOT = Path(__file__).parents[1]

DEPTH = 32
"""Layers of the model for which a method's places are named; LLaVA-1.5 has as many."""

TOKENS = 576
"""Its visual tokens."""

Row = Sequence[str]


def main(arguments: list[str]) -> int:
    """Write what is not fresh, or name it."""
    old = stale()
    if "--check" in arguments:
        for path in old:
            print(f"{path.relative_to(ROOT)} is not fresh; run `make docs`")
        return 1 if old else 0
    for path, text in old.items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
    picture = ROOT / "docs" / "published.png"
    if picture.with_suffix(".md") in old or not picture.is_file():
        picture.write_bytes(printed_page.figure())
        print(f"wrote {picture.relative_to(ROOT)}")
    return 0


def stale() -> dict[Path, str]:
    """What each committed file should hold that holds something else."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, table in TABLES.items():
        text = between(text, name, table())
    fresh = {
        readme: text,
        ROOT / "docs" / "latency.md": latency_page(),
        ROOT / "docs" / "models.md": support.markdown(),
        ROOT / "docs" / "published.md": published_page(),
        ROOT / "methods" / "_names.py": names_file(),
        palette.FILE: palette.with_new(compared()),
        **profiled_cards.cards(),
    }
    old = {}
    for path, text in fresh.items():
        if not_holding(path, text):
            old[path] = text
    return old


def latency_page() -> str:
    """The page of times with its tables as they follow from what was measured."""
    text = (ROOT / "docs" / "latency.md").read_text()
    for name, (head, rows) in timed_page.tables().items():
        # a marker without a blank line behind it would be part of the table
        text = between(text, name, f"\n{table(head, rows)}\n")
    return text


def compared() -> list[str]:
    """The methods that have a colour of their own."""
    return [name for name in registry.names() if not is_control(name)]


def not_holding(path: Path, text: str) -> bool:
    """Whether a file is missing or holds something else."""
    return not path.is_file() or path.read_text() != text


def names_file() -> str:
    """The names of all methods as a type, from which an editor completes them."""
    names = [f'    "{name}",\n' for name in registry.names()]
    return NAMES_FILE.format("".join(names))


NAMES_FILE = '''\
"""Names: the methods of this folder, for editors and type checkers; `make docs` writes it."""

from typing import Literal

MethodName = Literal[
{}]
'''


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers <!-- name --> and <!-- /name -->."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page has no pair of markers {begin.strip()} and {end}")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{content}{end}{tail}"


def table(head: Row, rows: Iterable[Row]) -> str:
    """A markdown table; a bar inside a cell is escaped."""
    rule = ["---"] * len(head)
    text = ""
    for row in (head, rule, *rows):
        cells = [cell.replace("|", "\\|") for cell in row]
        line = " | ".join(cells)
        text += f"| {line} |\n"
    return text


# what is said of a method


def heading(module: object) -> tuple[str, str]:
    """A file's first sentence in two: what the thing is called, and what it is."""
    sentence = " ".join((inspect.getdoc(module) or "").split())
    # every file of the project opens with "Name: what it is."
    name, _, idea = sentence.partition(": ")
    return name, idea


def idea(name: str) -> str:
    """A method's idea in a sentence, from the head of its file."""
    return heading(inspect.getmodule(registry.get(name)))[1]


def title(name: str) -> str:
    """What a method's paper calls it, with the venue."""
    return heading(inspect.getmodule(registry.get(name)))[0]


def places(name: str) -> str:
    """Where a method prunes with its default settings, in words."""
    pruner = registry.build(name)
    sites, deeper = sites_of(pruner, DEPTH), sites_of(pruner, 2 * DEPTH)
    # a place that moves with the depth is one only beside it
    depth = f" of {DEPTH}" if sites != deeper else ""
    parts = []
    for part in dict.fromkeys(site.part for site in sites):
        parts.append(together([site for site in sites if site.part is part]))
    return "; ".join(parts) + depth


def together(sites: Sequence[Site]) -> str:
    """Sites in one part of the model, in words."""
    numbers = [site.layer for site in sites]
    if len(numbers) == 1:
        return place(sites[0])
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    if numbers == [*range(numbers[0], numbers[-1] + 1)] and len(numbers) > 3:
        listed = f"{numbers[0]} to {numbers[-1]}"
    if sites[0].part is Part.VISION:
        return f"before blocks {listed} of the vision encoder"
    return f"before LLM layers {listed}"


def sites_of(pruner: Pruner, layers: int) -> list[Site]:
    """The sites of a method's stages in a model of that many layers, at a budget all can meet."""
    return [stage.site for stage in pruner.plan(Budget(0.9, "kv"), TOKENS, layers)]


def sentence(text: str) -> str:
    """The text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def place(site: Site) -> str:
    """A site in words."""
    words = {
        Part.PIXELS: "in the pixels",
        Part.VISION: f"before block {site.layer} of the vision encoder",
        Part.INPUT: "behind the projector",
        Part.LLM: f"before LLM layer {site.layer}",
    }
    return words[site.part]


def reads(name: str) -> list[str]:
    """The signals that a method reads with its default settings, by name."""
    return sorted(str(signal) for signal in registry.build(name).needs)


def verification(name: str) -> str:
    """How a method's faithfulness was checked, in a few words."""
    record = verified.read_verified().get(name)
    if record is not None:
        return f"{verified.shown(record)} of official code"
    card = registry.card(registry.get(name))
    if card.reconstruction:
        return "reconstruction"
    return "tests" if card.paper is None else "tests; no vectors of its own"


def is_control(name: str) -> bool:
    """Whether a method is there to be compared with: it has no paper."""
    return registry.card(registry.get(name)).paper is None


def methods_in_order() -> list[str]:
    """Controls first, then by name."""
    return sorted(registry.names(), key=lambda name: (not is_control(name), name))


def methods_table() -> str:
    """README's table of methods."""
    rows = []
    for name in methods_in_order():
        link = f"`{name}`"
        if prose(name):
            link = f"[{link}](docs/methods/{name}.md)"
        rows.append([link, f"{title(name)}: {idea(name)}", places(name), verification(name)])
    return table(["method", "idea", "prunes", "checked against"], rows)


# what is said of a family


def families_in_order() -> list[Family]:
    """Every family by name, as a reader looks for it."""
    return sorted(families(), key=lambda family: family.name)


def family_slug(family: Family) -> str:
    """The stem of the family's file, which is also its page's."""
    return type(family).__module__.rpartition(".")[2]


def family_idea(family: Family) -> str:
    """A family's visual tokens in a sentence, from the head of its file."""
    return heading(inspect.getmodule(type(family)))[1]


def signals_of(family: Family) -> str:
    """What the vision encoder of a family can show beside features, in words."""
    kinds = ["CLS token" if family.cls else "no CLS token"]
    kinds += ["thumbnail and crops"] if family.tiled else []
    kinds += ["CLIP"] if family.clipped else []
    return ", ".join(kinds)


def families_table() -> str:
    """README's table of families."""
    rows = []
    for family in families_in_order():
        rows.append([family.name, family_idea(family), signals_of(family)])
    return table(["family", "visual tokens", "its vision encoder"], rows)


def embedded_table() -> str:
    """README's table of embedded models, with the held-out figures of their cards."""
    rows = []
    for name, folder in MODELS.items():
        card = (folder / "README.md").read_text()
        figures = re.search(r"^\| all \| ([\d.]+) \| ([\d.]+) \|", card, re.MULTILINE)
        if figures is None:
            raise ValueError(f"the card of {name} has no row of all question types")
        link = f"[`{name}`](prunebench/testbed/{folder.name}/README.md)"
        rows.append([link, *figures.groups()])
    return table(["model", "accuracy", "image blanked"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "methods": methods_table,
    "families": families_table,
    "embedded": embedded_table,
}
"""README's tables by the name of their markers."""


# a page per method


def method_page(name: str) -> str:
    """Everything about a method: what somebody wrote about it, then what code and results say."""
    kind = registry.get(name)
    text = prose(name)
    if not text:
        text = f"# {title(name)}\n\n{sentence(idea(name))}\n\n{inspect.getdoc(kind) or ''}\n"
    sections = [text, method_facts(name), settings_section(kind), families_of(name), results(name)]
    return "\n".join(section for section in sections if section)


def addon_page(name: str) -> str:
    """The same about an add-on, which runs where the method runs that it wraps."""
    kind = registry.get(name)
    card = registry.card(kind)
    text = f"# {title(name)}\n\n{sentence(idea(name))}\n\n{inspect.getdoc(kind) or ''}\n"
    rows = [
        ["name", f"`METHOD+{name}`"],
        ["file", f"`methods/addons/{name}.py`"],
        ["paper", linked(card.paper)],
        ["official code", linked(card.code)],
        ["checked against", verification(name)],
    ]
    if card.variant:
        rows.append(["departs from the official code", card.variant])
    facts = "## In the code\n\n" + table(["", ""], rows)
    return "\n".join([text, facts, settings_section(kind)])


def prose(name: str) -> str:
    """What was written about a method by hand, "" where nothing was."""
    path = ROOT / "docs" / "methods" / f"{name}.md"
    return path.read_text() if path.is_file() else ""


def method_facts(name: str) -> str:
    """What the code declares."""
    kind = registry.get(name)
    card = registry.card(kind)
    signals = ", ".join(f"`{signal}`" for signal in reads(name))
    rows = [
        ["name", f"`{name}`"],
        ["file", f"`methods/{name}.py`"],
        ["paper", linked(card.paper)],
        ["official code", linked(card.code)],
        ["prunes", places(name)],
        ["reads beside the features", signals or "nothing"],
        ["positions of the survivors", kind.default_positions],
        ["keeps", "at most the budget" if kind.dynamic is True else "exactly the budget"],
        ["checked against", verification(name)],
    ]
    if card.variant:
        rows.append(["departs from the official code", card.variant])
    return "## In the code\n\n" + table(["", ""], rows)


def linked(url: str | None) -> str:
    """A link that shows its address; "none" where there is none to show."""
    return f"<{url}>" if url else "none"


def settings_section(kind: type[Pruner]) -> str:
    """Every setting with its type and default; "" where there is none."""
    rows, defaults = [], registry.defaults(kind)
    for field in fields(kind):
        if field.compare:
            rows.append([f"`{field.name}`", f"`{field.type}`", f"`{defaults[field.name]!r}`"])
    if not rows:
        return ""
    return "## Settings and defaults\n\n" + table(["setting", "type", "default"], rows)


@cache
def pairs() -> list[support.Support]:
    """Every method on every family; asked once, for every page shows a part of it."""
    return support.matrix()


def families_of(name: str) -> str:
    """On which families the method runs, and why not on the others."""
    slugs = {family.name: family_slug(family) for family in families()}
    rows = []
    for pair in pairs():
        if pair.method == name:
            link = f"[{pair.family}](../families/{slugs[pair.family]}.md)"
            rows.append([link, pair.reason or "runs"])
    return "## Families\n\n" + table(["family", "with default settings"], rows)


# results


RESULTS = {
    "study": "study",
    "budget": "budget",
    "n": "n",
    "accuracy": "accuracy",
    "difference_to_none": "less unpruned",
    "difference_to_random": "less random",
    "evidence_recall": "evidence recall",
    "flops_ratio": "FLOPs",
    "prefill_ratio": "prefill time",
}
"""The columns of a method's results, by their names in leaderboard.csv."""


@cache
def boards() -> list[dict[str, str]]:
    """Every row of the committed leaderboards, with the name of its study."""
    rows = []
    for path in sorted((ROOT / "results").glob("*/leaderboard.csv")):
        study = path.parent.name
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.append({"study": study, **row})
    return rows


def results(name: str) -> str:
    """The method's rows in the committed studies; "" where there are none."""
    rows = []
    for row in boards():
        # a label begins with the method's name: ptp-early is ptp with a setting
        if row["method"] == name or row["method"].startswith(f"{name}-"):
            rows.append(result(row))
    if not rows:
        return ""
    note = (
        "Of the committed studies of the embedded models; intervals are 95 %. What each column is: "
        "[the numbers](../numbers.md).\n"
    )
    head = ["method", *RESULTS.values()]
    return f"## Results\n\n{note}\n" + table(head, rows)


def result(row: Mapping[str, str]) -> list[str]:
    """One row of a leaderboard as it is shown; a cell without numbers shows its status."""
    kind = f"{row['budget_kind']}:" if row["budget_kind"] else ""
    cells = [f"`{row['method']}`", row["study"], f"{kind}{row['budget']}", row["n"]]
    if row["status"] not in ("ok", "partial"):
        return [*cells, row["status"], *[""] * (len(RESULTS) - 4)]
    for column in list(RESULTS)[3:]:
        cells.append(number(row, column))
    return cells


def number(row: Mapping[str, str], column: str) -> str:
    """A number with its interval, where it has one."""
    value = row.get(column, "")
    if not value:
        return ""
    text = f"{float(value):.3f}"
    low = row.get(f"{column}_low", "")
    high = row.get(f"{column}_high", "")
    if low and high:
        text += f" ({float(low):.3f} to {float(high):.3f})"
    return text


# a page per family


def family_page(family: Family) -> str:
    """Everything about a family: what it is, its checkpoints, what runs on it."""
    classes = [f"`{kind}`" for kind in sorted(family.model_types)]
    rows = [
        ["model types", ", ".join(classes)],
        ["file", f"`prunebench/models/{family_slug(family)}.py`"],
        ["its vision encoder", signals_of(family)],
        ["a smaller image has fewer tokens", "yes" if family.resizes else "no"],
    ]
    alias_rows = []
    for alias, target in sorted(family.aliases.items()):
        alias_rows.append([f"`{alias}`", f"`{target}`"])
    method_rows = []
    for pair in pairs():
        if pair.family == family.name:
            link = f"[{pair.method}](../methods/{pair.method}.md)"
            method_rows.append([link, pair.reason or "runs"])
    text = f"# {family.name}\n\n{sentence(family_idea(family))}\n\n"
    text += f"{inspect.getdoc(type(family)) or ''}\n\n"
    text += table(["", ""], rows)
    text += "\n## Checkpoints\n\nShort names; any other checkpoint of these classes works by its "
    text += "hub id or folder.\n\n"
    text += table(["name", "checkpoint"], alias_rows)
    text += "\n## Methods\n\n"
    return text + table(["method", "with default settings"], method_rows)


# what papers print


def published_page() -> str:
    """What papers print about methods, and how far they agree."""
    return "\n".join(
        [
            printed_page.text(),
            "## How far sources agree\n\n" + AGREEMENT,
            table(printed_page.AGREEMENT_HEAD, printed_page.agreement_rows()),
            "## Most disputed\n\nThe widest spread of every method and benchmark, MME apart.\n",
            table(printed_page.DISPUTE_HEAD, printed_page.dispute_rows()),
        ]
    )


AGREEMENT = """A pair is a model, a method, a budget, a benchmark and a metric that at least two
sources print; averages over benchmarks are left out. Points are of 100, those of MME of 2,800.
Beyond rounding is more than 0.1 points, of MME more than 1.
"""


# the grid and the numbers


def grid_page() -> str:
    """Every key of a grid."""
    rows = []
    keys = grid.keys()
    for key in keys:
        what = key.what.replace("<", "&lt;")
        rows.append([f"`{key.name}`", key.type, f"`{key.default}`", what, f"`{key.example}`"])
    intro = (
        "# A grid's keys\n\n"
        "A grid is a YAML file, key=value words on the command line, or both: what stands on the "
        "command line holds. A key with a dot is one of a section: `cost.pairs=30`, or `cost: "
        "{pairs: 30}` in the file. A setting of a method is named with it: `fastv.layer=3`.\n\n"
    )
    return intro + table(["key", "takes", "default", "what it says", "example"], rows)


ENDS = {
    "_low": "its 95 % interval's lower end",
    "_high": "its 95 % interval's upper end",
    "_p": "the probability of a difference at least as large where there is none",
    "_holm": "that after Holm's correction over the methods of the same model, task and budget",
    "_share": "over the visual tokens that are available",
    "_ratio": "over that of the unpruned model",
    "_random": "that of random tokens at the same budget",
}
"""What the columns beside a number are, by what their names end in."""


def numbers_page() -> str:
    """Every column of every table of a study."""
    rows = []
    for heading in headings.HEAD:
        rows += column_rows(heading.names, heading.about)
    for column, board in columns.on_board():
        rows += column_rows(board.names, column.about, column.unit, column.better)
    for heading in (*headings.TAIL, *headings.SOMETIMES):
        rows += column_rows(heading.names, heading.about)
    head = ["column", "what it is", "unit", "better"]
    text = f"# The numbers\n\n{NUMBERS}\n## leaderboard.csv\n\n" + table(head, rows)
    for name, about, own in TABLE_PAGES:
        rows = []
        for heading in own:
            rows += column_rows(heading.names, heading.about)
        text += f"\n## {name}.csv: {about}\n\n" + table(head, rows)
    for name, about in (("samples", "a row a sample"), ("pairs", "a row a phase of a timed run")):
        rows = []
        for column in columns.TABLES[name]:
            rows += column_rows([column.name], column.about, column.unit, column.better)
        text += f"\n## {name}.parquet: {about}\n\n" + table(head, rows)
    rows = []
    for column in (*columns.SAMPLES, *columns.COST, *columns.YARDSTICKS):
        if column.metric:
            rows += column_rows([column.metric], column.about, column.unit, column.better)
    text += "\n## metrics.csv and cell.json\n\nBeside the task's own metrics.\n\n"
    return text + table(head, rows)


TABLE_PAGES = (
    ("pairs", "a row a pair of methods at one budget", report_pairs.HEADINGS),
    ("ranks", "a row a method and budget, over tasks", report_ranks.HEADINGS),
    ("layers", "a row a run of layers that as many tokens enter", report_layers.HEADINGS),
    ("retention", "a row a size of what there is to see", report_retention.HEADINGS),
)
"""The other tables of a study, with what their rows are."""

NUMBERS = """A number that was not measured is empty, never 0. Where a method or the unpruned model
did not answer every sample, shares and ratios are taken over the samples that both answered, and
the reason says so. Where a model was run on several tasks, the row of task `all` holds the mean
over tasks.
"""


def column_rows(
    names: Sequence[str], about: str, unit: str = "", better: str | None = None
) -> list[Row]:
    """A row for a number and one for each of those beside it."""
    first, *others = names
    rows: list[Row] = [[f"`{first}`", about, unit, better or ""]]
    for other in others:
        rows.append([f"`{other}`", ENDS[other.removeprefix(first)], "", ""])
    return rows


# the reference


FIRST = ("engine.session", "models")
"""The modules that the reference begins with; the others follow by name."""

BESIDE = {
    "engine.session": ("engine.trace.Trace", "engine.trace.SampleTrace", "display.StageRow"),
}
"""What public names of a module answer with, by module."""


def reference_page() -> str:
    """The public interface, from its docstrings: each module that is the home of public names."""
    text = "# Reference\n\nWhat `import prunebench` offers, and what it answers with.\n"
    homes: dict[str, list[str]] = {}
    for name, home in prunebench._HOME.items():
        homes.setdefault(home, []).append(name)
    for home in sorted(homes, key=lambda home: (home not in FIRST, home)):
        names = homes[home]
        title, idea = heading(import_module(f"prunebench.{home}"))
        text += f"\n## {title}\n\n{sentence(idea)}\n"
        if home == "signals":
            text += f"\n{signal_table()}\n"
        paths = [f"{home}.{name}" for name in names]
        paths += BESIDE.get(home, ())
        for path in paths:
            text += f"\n::: prunebench.{path}\n"
    return text


def signal_table() -> str:
    """Every signal that has a value: its shape, where it comes from, what it holds."""
    rows = []
    for signal in Signal:
        accessor = getattr(SignalReadings, str(signal), None)
        if accessor is not None:
            shape, origin = signal.row.shape, signal.row.origin.value
            idea = " ".join((accessor.__doc__ or "").split("\n\n")[0].split())
            rows.append([f"`{signal}`", f"`{shape}`", origin, idea.removeprefix(shape).strip()])
    return table(["signal", "shape", "from", "what it holds"], rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
