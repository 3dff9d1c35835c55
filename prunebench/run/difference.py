"""Difference: what two questions ask differently, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prunebench import registry
from prunebench.composition import members
from prunebench.run import plain
from prunebench.run.cell import Variant
from prunebench.run.keys import GridError
from prunebench.run.lists import LISTS, budget_texts, model_names, task_names
from prunebench.run.plain import PlainError, short, short_key
from prunebench.run.question import Grid, usual_question
from prunebench.run.variants import BESIDE, entries

Question = Mapping[str, Any]
"""The keys of a study as plain data, in the form of `Grid.question`."""


def differences_of(there: Question, here: Question) -> list[str]:
    """What differs between two questions, each as "key is one's value there and other's here"."""
    lines: list[str] = []
    # a mapping and no set, for keys keep their order
    for key in {**there, **here}:
        if key == "methods":
            lines += _method_differences(there[key], here[key])
        elif key not in here:
            lines.append(f"{short_key(key)} is {short(there[key])} there and no key here")
        elif there.get(key) != here[key]:
            lines.append(f"{key} is {short(there.get(key))} there and {short(here[key])} here")
    return lines


def completed(stored: Question, grid: Grid) -> dict[str, Any]:
    """A stored question in the form of `Grid.question`; what it does not say stands at its default.

    Nothing that it names is imported: the defaults of a method are those of `grid`'s method under
    the same label. Raises GridError.
    """
    usual = usual_question()
    question = {**usual, **stored}
    cost = question["cost"]
    if isinstance(cost, bool):
        cost = {"enabled": cost}
    question["cost"] = {**usual["cost"], **cost} if isinstance(cost, Mapping) else cost
    for key in LISTS:
        if not isinstance(question[key], list):
            question[key] = [question[key]]
    try:
        question["models"] = model_names(question["models"])
        question["budgets"] = budget_texts(question["budgets"])
        question["tasks"] = task_names(question["tasks"])
        named_entries = entries(question["methods"], question["controls"] is True)
    except PlainError as error:
        raise GridError(str(error)) from None
    defaults = {variant.label: _defaults(variant) for variant in grid.variants()}
    question["methods"] = [{**defaults.get(one["label"], {}), **one} for one in named_entries]
    return question


def _defaults(variant: Variant) -> dict[str, Any]:
    """The settings of a variant's method where nothing is said."""
    try:
        one = type(variant.pruner)
        composed = len(members(variant.pruner)) > 1
        pruner = registry.build(variant.name) if composed else one()
        usual = replace(variant, pruner=pruner, positions=None)
        entry = usual.entry()
    except Exception:  # it has a setting without a default, so none of its entries leaves that out
        return {}
    return {key: plain.storable(value) for key, value in entry.items() if key not in BESIDE}


def _method_differences(
    there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The same for two lists of methods, which are told apart by their labels."""
    entries_there = {entry["label"]: entry for entry in there}
    entries_here = {entry["label"]: entry for entry in here}
    lines: list[str] = []
    for label in {**entries_there, **entries_here}:
        if label not in entries_here:
            lines.append(f"method {label} is only there")
        elif label not in entries_there:
            lines.append(f"method {label} is only here")
        else:
            lines += _setting_differences(label, entries_there[label], entries_here[label])
    return lines


def _setting_differences(
    label: str, there: Mapping[str, Any], here: Mapping[str, Any]
) -> list[str]:
    lines = []
    for key in {**there, **here}:
        value_there, value_here = there.get(key), here.get(key)
        if value_there != value_here:
            lines.append(
                f"{label}.{key} is {short(value_there)} there and {short(value_here)} here"
            )
    return lines
