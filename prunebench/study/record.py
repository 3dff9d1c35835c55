"""Record: what cell.json and samples.parquet of a finished cell hold, checked alike by the sweep
and by the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from prunebench.border.files import opened, read
from prunebench.border.text import one_line
from prunebench.study.seal import fault

if TYPE_CHECKING:
    import pyarrow as pa

Status = Literal["ok", "failed", "oom", "unsupported", "infeasible"]
"""What became of a cell."""

SampleStatus = Literal["ok", "unreadable", "infeasible", "unsupported", "failed", "timeout", "oom"]
"""How a sample fared: answered; its image or text could not be made an input; or what became of the
method on it.
"""

BASELINE = "none"
"""The method that prunes nothing; what others are relative to."""

KINDS = ("quality", "cost")
STATUSES = get_args(Status)
TABLES = {"quality": "samples.parquet", "cost": "pairs.parquet"}
"""The table that every cell of a kind has."""

LARGEST = 1e300
"""What is beyond it is no measurement, and would overflow in a mean."""

MOST = 2**53
"""The largest count: above it a float no longer tells neighbours apart."""

COUNTED = ("tokens", "bytes", "FLOP", "ms", "MiB")
"""Units of numbers that are never below zero."""


class Damaged(ValueError):
    """A cell whose files are not what the program wrote."""


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of the finished cell in `folder`, None where it has no cell.json.

    Raises Damaged where a file is not what was written: no seal, another seal, a fact that is none,
    a table that cannot be read, or anything but plain files in a plain folder.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise Damaged("it is no folder")
    try:
        facts = _parsed(read(folder / "cell.json"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"cell.json cannot be read: {error.strerror}") from None
    try:
        broken = fault(facts, folder)
    except (ValueError, RecursionError) as error:  # a lone surrogate, nesting without end
        raise Damaged(f"cell.json cannot be read: {type(error).__name__}") from None
    if broken:
        raise Damaged(broken)
    check(facts)
    if facts["id"] != folder.name:
        raise Damaged(f"cell.json belongs to cell {_short(facts['id'])}")
    if "samples.parquet" in facts["files"]:
        samples(folder / "samples.parquet")
    return facts


def check(facts: Mapping[str, Any]) -> None:
    """That every fact is there and is what it should be; raises Damaged that names the first that
    is not.
    """
    missing = [key for key in REQUIRED if facts.get(key) is None]
    if missing:
        raise Damaged(f"cell.json lacks {', '.join(missing)}")
    for key, (word, test) in RULES.items():
        if facts.get(key) is not None and not test(facts[key]):
            raise Damaged(f"cell.json has {key} {_short(facts[key])} where {word} belongs")
    for key, words in (("kind", KINDS), ("status", STATUSES)):
        if facts[key] not in words:
            raise Damaged(f"{key} {_short(facts[key])} is unknown; it is one of {', '.join(words)}")
    for name, (word, test) in PROVENANCE.items():
        value = facts["provenance"].get(name)
        if value is not None and not test(value):
            raise Damaged(f"cell.json has provenance.{name} {_short(value)} where {word} belongs")
    for entry in facts["metrics"]:
        _check_metric(entry)
    counts = facts.get("samples")
    if counts is not None and not _pair_of_counts(counts):
        raise Damaged(
            f"cell.json has samples {_short(counts)} where counts asked and answered belong"
        )
    if TABLES[facts["kind"]] not in facts["files"]:
        raise Damaged(f"cell.json does not name {TABLES[facts['kind']]}")


def samples(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """The sample_id, doc_id, score and error of every row, and the numbers in `columns` where it
    has them; raises Damaged.
    """
    import pyarrow as pa
    from pyarrow import compute, parquet

    types = {
        "sample_id": pa.string(),
        "doc_id": pa.int64(),
        "score": pa.float64(),
        "error": pa.string(),
    }
    try:
        with opened(path) as file:
            names = parquet.read_schema(file).names
            file.seek(0)
            table = parquet.read_table(
                file, columns=[name for name in (*types, *columns) if name in names]
            )
        table.validate(full=True)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except Exception as error:  # pyarrow has many types for a file that is no parquet
        raise Damaged(f"{path.name} cannot be read: {one_line(str(error), 100)}") from None
    for name, kind in types.items():
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise Damaged(f"{path.name} has no column {name} of type {kind}")
    for name in set(columns) & set(names):
        kind = table.schema.field(name).type
        if not pa.types.is_floating(kind) and not pa.types.is_integer(kind):
            raise Damaged(f"{path.name} has a column {name} of type {kind}")
    for name in ("sample_id", "doc_id"):
        column = table.column(name)
        if column.null_count:
            raise Damaged(f"{path.name} has a row without {name}")
        if len(column.unique()) != len(column):
            twice = compute.value_counts(column).filter(
                compute.greater(compute.value_counts(column).field("counts"), 1)
            )
            raise Damaged(
                f"sample {_short(twice[0]['values'].as_py())} stands in {path.name} twice"
            )
    if not compute.all(compute.is_finite(table.column("score").drop_null()), min_count=0).as_py():
        raise Damaged(f"{path.name} has a score that is no number")
    return table


def plain(value: Any, depth: int = 32) -> Any:
    """A value as JSON can hold it and give it back: lone surrogates escaped, objects by their text,
    nesting to `depth`.
    """
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**256 else f"{value:#x}"
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if depth > 0 and isinstance(value, Mapping):
        return {plain(str(key)): plain(part, depth - 1) for key, part in value.items()}
    if depth > 0 and isinstance(value, list | tuple):
        return [plain(part, depth - 1) for part in value]
    try:
        return one_line(repr(value))
    except Exception:  # an object of a plug-in's
        return f"a {type(value).__name__} whose text cannot be shown"


def to_json(value: Any, indent: int | None = None) -> str:
    """The text of a plain value, as every file of a study has it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except Damaged:
        raise
    except (ValueError, RecursionError) as error:
        detail = one_line(str(error), 100)
        raise Damaged(f"cell.json cannot be read: {type(error).__name__}: {detail}") from None
    if not isinstance(facts, dict):
        raise Damaged("cell.json cannot be read: it holds no object")
    return facts


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice, readers disagree which one counts."""
    facts = dict(pairs)
    if len(facts) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Damaged(f"cell.json cannot be read: key {_short(twice)} stands in it twice")
    return facts


def _check_metric(entry: Any) -> None:
    if not isinstance(entry, dict) or not _name(entry.get("metric")):
        raise Damaged(f"metric {_short(entry)} has no name")
    name = _short(entry["metric"])
    for key in ("value", "stderr", "ci_low", "ci_high"):
        if entry.get(key) is not None and not _number(entry[key]):
            raise Damaged(f"metric {name} has {key} {_short(entry[key])} where a number belongs")
    n, unit = entry.get("n"), entry.get("unit")
    if n is not None and not _count(n):
        raise Damaged(f"metric {name} has n {_short(n)} where a count belongs")
    if unit is not None and not isinstance(unit, str):
        raise Damaged(f"metric {name} has unit {_short(unit)} where a text belongs")
    better = entry.get("higher_is_better")
    if better is not None and not isinstance(better, bool):
        raise Damaged(
            f"metric {name} has higher_is_better {_short(better)} where true or false belongs"
        )
    below = entry.get("stderr") or 0.0
    if unit in COUNTED:
        below = min(below, entry.get("value") or 0.0)
    if below < 0:
        raise Damaged(f"metric {name} has {_short(below)}, which cannot be below zero")
    low, high = entry.get("ci_low"), entry.get("ci_high")
    if low is not None and high is not None and low > high:
        raise Damaged(
            f"metric {name} has an interval whose low end {_short(low)} is above its high end {_short(high)}"
        )


def _short(value: Any) -> str:
    """A value of others for a message; a container by its type, for its text may be endless."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > MOST:
        return "a huge number"
    return one_line(repr(value), 60)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -LARGEST <= value <= LARGEST
    )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**256


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _budget(value: Any) -> bool:
    """A share, a count, or the name of a budget that is a method's own."""
    if not _name(value):
        return False
    try:
        return 0 <= float(value) <= LARGEST
    except ValueError:
        return True


def _digests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


def _pair_of_counts(value: Any) -> bool:
    if (
        not isinstance(value, dict)
        or not _count(value.get("asked"))
        or not _count(value.get("answered"))
    ):
        return False
    return bool(value["answered"] <= value["asked"])


Rule = tuple[str, Callable[[Any], bool]]

RULES: Mapping[str, Rule] = {
    "id": ("a name", _name),
    "fingerprint": ("a text", _text),
    "kind": ("a text", _text),
    "model": ("a name", _name),
    "method": ("a name", _name),
    "pruner": ("a text", _text),
    "pruner_source": ("a text", _text),
    "settings": ("a mapping", _mapping),
    "control": ("true or false", _truth),
    "budget": ("a budget", _budget),
    "budget_kind": ("a text", _text),
    "task": ("a text", _text),
    "seed": ("a whole number", _whole),
    "status": ("a text", _text),
    "reason": ("a text", _text),
    "metric": ("a text", _text),
    "higher_is_better": ("true or false", _truth),
    "metrics": ("a list", _list),
    "provenance": ("a mapping", _mapping),
    "files": ("a mapping of names to digests", _digests),
}
"""What each fact is; the seal is looked at before."""

OPTIONAL = ("pruner", "pruner_source", "control", "metric", "higher_is_better")
REQUIRED = tuple(key for key in RULES if key not in OPTIONAL)

PROVENANCE: Mapping[str, Rule] = {
    "hardware": ("a text", _text),
    "dtype": ("a text", _text),
    "commit": ("a text", _text),
    "dirty": ("true or false", _truth),
}
"""What the report shows of provenance; the rest of it is kept as it is."""
