"""Text: what plug-ins, models, tasks and users wrote, made fit to be stored and shown."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
"""Control characters that have a place in a text of several lines."""

REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the text around them, so that it reads as something else."""


def clean(text: str) -> str:
    """The text without characters that a terminal or a file would act upon; each stands as its
    escape, such as \\x1b.

    Lone surrogates, which no file can hold, are escaped as well. Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():  # as nearly all are
        return text
    return "".join(map(_escaped, text))


def one_line(text: str, limit: int = 300, tail: int = 0) -> str:
    """The text cleaned, on one line of at most `limit` characters; what was cut off shows as an
    ellipsis.

    With `tail` the last so many characters stay, where a message says the way out.
    """
    if len(text) > 20 * limit:  # cleaning a text of any length would take as long
        end = text[-10 * limit :] if tail else ""
        text = text[: 10 * limit] + end
    line = " ".join(clean(text).split())
    if len(line) <= limit:
        return line
    return line[: limit - 1 - tail] + "…" + line[len(line) - tail :]


def number_of(count: int, noun: str) -> str:
    """A count with what is counted, whose plural ends in s: "1 cell", "1,200 cells"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float, form: str = ".0f") -> str:
    """A share as everybody reads it: "50 %"."""
    return f"{100 * share:{form}} %"


def message(error: BaseException) -> str:
    """What an exception says, cleaned; its type where it says nothing, and where its text cannot be
    had.
    """
    try:
        text = str(error)
    except Exception as fault:  # a plug-in's exception may fail to say what it is
        return f"{type(error).__name__}, whose text cannot be shown ({type(fault).__name__})"
    return clean(text).strip() or type(error).__name__


def short_path(name: object, limit: int = 80) -> str:
    """A path or a name for a message, on one line; of a long one the end."""
    text = one_line(str(name), 1000)
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    is_surrogate = category == "Cs"
    is_control = category == "Cc" and character not in KEPT
    if is_surrogate or is_control or character in REORDERING:
        return ascii(character)[1:-1]  # without the quotes
    return character
