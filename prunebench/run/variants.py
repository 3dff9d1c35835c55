"""Variants: the methods of a grid, from what a user wrote to objects with their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunebench import registry
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, short_path
from prunebench.pruner import Pruner
from prunebench.run import plain
from prunebench.run.cell import Variant
from prunebench.run.keys import GridError
from prunebench.run.lists import CONTROLS
from prunebench.run.names import check_label, check_path, expanded
from prunebench.run.plain import PlainError, short, short_key
from prunebench.study.record import BLIND

BESIDE = ("name", "label", "positions")
"""What an entry of `methods` holds beside the method's own settings."""

Entry = dict[str, Any]
"""What a grid says of a method: its name, its label, and settings."""


def variants_of(methods: Sequence[Any], controls: bool) -> list[Variant]:
    """The methods, built, controls first; raises GridError where two of them share a label."""
    try:
        named_entries = entries(methods, controls)
    except PlainError as error:
        raise GridError(str(error)) from None
    variants: dict[str, Variant] = {}
    spellings: dict[str, str] = {}
    for entry in named_entries:
        variant = _variant(entry)
        twin = spellings.setdefault(variant.label.lower(), variant.label)
        if twin != variant.label:
            raise GridError(
                f"labels {twin!r} and {variant.label!r} differ in capitals alone, as folders may "
                "not; change one"
            )
        if not _same(variants.setdefault(variant.label, variant), variant):
            raise GridError(
                f"two methods are labelled {variant.label!r}; give each mapping a label of its own"
            )
    return list(variants.values())


def entries(methods: Sequence[Any], controls: bool) -> list[Entry]:
    """The mapping behind every method, with its name and label, each once, controls first; nothing
    is imported.

    Raises GridError.
    """
    named: list[Entry] = []
    for method in methods:
        named += [_entry(name) for name in _members(method)]
    if controls:
        labels = [entry["label"] for entry in named]
        named = [_entry(name) for name in CONTROLS if name not in labels] + named
    different: list[Entry] = []
    for entry in named:
        if entry not in different:
            different.append(entry)
    # a stable sort: methods stay in the order in which they were written
    return sorted(different, key=_rank)


def _members(method: Any) -> Sequence[Any]:
    """The methods that an entry stands for: a group's, all of them, or itself."""
    if method == "all":
        # the blind control is no method to compare; tasks ask for it
        return [name for name in registry.names() if name != BLIND]
    return registry.groups().get(method, [method]) if isinstance(method, str) else [method]


def with_settings(
    methods: Sequence[Entry], settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str]
) -> list[Entry]:
    """The entries with "fastv.layer=3" settings put where the label is theirs; raises GridError
    for a label that is neither one of theirs nor one of the grid's `keys`.
    """
    labels = [entry["label"] for entry in methods]
    by_label: dict[str, dict[str, Any]] = {}
    for label, values in settings.items():
        # of methods that work together, "a+b.a.x=1" is a setting of a
        whole, _, part = label.rpartition(".")
        if label not in labels and whole in labels:
            own = {f"{part}.{name}": value for name, value in values.items()}
            by_label.setdefault(whole, {}).update(own)
            continue
        if label not in labels:
            near = registry.suggest(
                label[:100],
                [*keys, *labels],
                "; it is neither a key nor a method of the grid",
            )
            name = f"{short_key(label)}.{short_key(next(iter(values)))}"
            raise GridError(f"unknown key {name}{near}")
        plain.check(values, label)
        by_label.setdefault(label, {}).update(values)
    return [{**entry, **by_label.get(entry["label"], {})} for entry in methods]


def _rank(entry: Entry) -> int:
    """Where an entry stands: the controls in their order, the others behind them."""
    return CONTROLS.index(entry["name"]) if entry["name"] in CONTROLS else len(CONTROLS)


def _entry(method: Any) -> Entry:
    """What a user wrote for a method as a mapping, its name and label checked."""
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, Mapping) or not isinstance(method.get("name"), str):
        raise GridError(f"method {short(method)} is neither a name nor a mapping with a name")
    check_path("a method", method["name"])
    name = expanded(method["name"])
    parts = registry.parts(name)
    try:
        registry.check_name(name)
    except registry.RegistryError as error:
        raise GridError(str(error)) from None
    label = method.get("label", registry.JOINT.join(map(registry.stem_of, parts)))
    check_label(label, name)
    if label in (*CONTROLS, BLIND) and name != label:
        raise GridError(f"label {label!r} is that of the control; give {short(name)} another")
    positions = method.get("positions")
    if positions not in (None, "original", "compact"):
        raise GridError(f"{label}.positions is {short(positions)}; it is original or compact")
    return {**method, "name": name, "label": label}


def _same(one: Variant, other: Variant) -> bool:
    """Whether both would be written alike in a grid."""
    return one is other or plain.storable(one.entry()) == plain.storable(other.entry())


def _variant(entry: Entry) -> Variant:
    """The method of an entry, built; raises GridError where it does not build, whatever its code
    raises.
    """
    settings = {name: value for name, value in entry.items() if name not in BESIDE}
    name, label = entry["name"], entry["label"]
    try:
        pruner: Pruner = registry.build(name, settings)
        _see_site(pruner)
    except registry.RegistryError as error:
        raise GridError(message(error)) from None
    except (TypeError, ValueError) as error:  # a setting that names no site
        values = short(settings) if settings else ""
        raise GridError(f"{label} {values}: {message(error)}") from None
    except BaseException as error:  # code of others, which may even try to end the program
        if interrupts(error):
            raise
        raise GridError(
            f"method {short_path(name)} cannot be built: {type(error).__name__}: {message(error)}"
        ) from None
    return Variant(label, name, pruner, entry.get("positions"))


def _see_site(pruner: Pruner) -> None:
    """Ask a method where it prunes, as its settings may name no place; what else fails in there
    fails its own cells.
    """
    try:
        pruner.site()
    except (TypeError, ValueError):
        raise
    except BaseException as error:
        if interrupts(error):
            raise
