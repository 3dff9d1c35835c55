"""Completion: what a shell may put in place of half a word, through argcomplete.

It is turned on with one line, for bash and zsh `eval "$(register-python-argcomplete prunebench)"`,
for fish `register-python-argcomplete --shell fish prunebench | source`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prunebench.cli import names
from prunebench.run.keys import Key

REQUEST = "_ARGCOMPLETE"
"""The variable by which a shell asks for completions in place of a run."""

Names = Callable[[], Iterable[str]]

NAMES: dict[str, Names] = {
    "model": names.models,
    "models": names.models,
    "method": names.methods,
    "methods": names.methods,
    "task": names.tasks,
    "tasks": names.tasks,
}
"""The keys whose values are names."""

SEVERAL = ("models", "method", "methods", "tasks")
"""Of these, those that take several, with commas between."""


def complete(parser: argparse.ArgumentParser) -> None:
    """Where a shell asks for completions, print them and end the program."""
    if REQUEST in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def completed_by(action: argparse.Action, completer: Callable[..., Iterable[str]]) -> None:
    """Let the words of an argument be completed; `completer` is asked with the word so far."""
    action.completer = completer  # type: ignore[attr-defined]  # argcomplete looks for it there


def files(*suffixes: str) -> Callable[..., Iterable[str]]:
    """Completes the names of files with such a suffix, and of folders."""

    def completer(**options: Any) -> Iterable[str]:
        from argcomplete.completers import FilesCompleter

        paths: list[str] = FilesCompleter(suffixes)(**options)
        return paths

    return completer


def method_names(**_: Any) -> Iterable[str]:
    """Completes the name of a method."""
    return names.methods()


def key_values(keys: Callable[[], Sequence[Key]]) -> Callable[..., Iterable[str]]:
    """Completes key=value: first the key, then its value where it is one of a few or a name."""

    def completer(prefix: str, **_: Any) -> Iterable[str]:
        name, equals, value = prefix.partition("=")
        if not equals:
            return [f"{key.name}=" for key in keys()]
        choices = {key.name: key.choices for key in keys()}.get(name, ())
        if name in NAMES:
            choices = tuple(NAMES[name]())
        # of several only the last is still being written
        before = value[: value.rfind(",") + 1] if name in SEVERAL else ""
        return [f"{name}={before}{choice}" for choice in choices]

    return completer


def add_options(
    parser: argparse.ArgumentParser, keys: Callable[[], Sequence[Key]], about: str = "options"
) -> None:
    """Let a command take key=value words, which are completed; help says what they are `about`."""
    words = parser.add_argument("options", nargs="*", metavar="key=value", help=about)
    completed_by(words, key_values(keys))


def any_of(*completers: Callable[..., Iterable[str]]) -> Callable[..., Iterable[str]]:
    """Completes what any of them does."""

    def completer(**options: Any) -> Iterable[str]:
        words: list[str] = []
        for one in completers:
            words += one(**options)
        return words

    return completer
