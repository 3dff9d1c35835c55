"""Assemble: one HTML file of the page's own files, the libraries that it stands on, and the data.

Its content security policy lets run what was put in here and nothing else, and forbids all
requests: what a model wrote stays text, and a page that is opened asks nobody anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

LIBRARIES = ("plotly-basic.min.js", "tabulator.min.js")
STYLES = ("vendor/tabulator.min.css", "assets/page.css")
SCRIPTS = (
    "core.js",
    "format.js",
    "table.js",
    "plot.js",
    "layers.js",
    "choose.js",
    "methods.js",
    "questions.js",
    "contrast.js",
    "main.js",
)
"""The page's own, in the order in which they need each other."""

LICENCES = ("plotly.LICENSE", "tabulator.LICENSE")

ENDS = ("</script", "<!--")
"""What ends or changes a script in HTML wherever it stands."""


def page(content: Mapping[str, Any]) -> bytes:
    """The page around the data, which are plain: mappings, lists, texts, numbers, None."""
    scripts = [_text(f"vendor/{name}") for name in LIBRARIES]
    scripts.append("\n".join(_text(f"assets/{name}") for name in SCRIPTS))
    parts = {
        "policy": _policy(scripts),
        "style": "\n".join(map(_text, STYLES)),
        "licences": "\n".join(_text(f"vendor/{name}") for name in LICENCES),
        "data": as_json(content),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return _filled(_text("assets/page.html"), parts).encode()


def as_json(content: Any) -> str:
    """The content as JSON that is safe in a script element: no sign in it can end one."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _policy(scripts: Sequence[str]) -> str:
    """Nothing but these scripts, the page's styles, and images that lie in it."""
    for script in scripts:
        if any(end in script.lower() for end in ENDS):
            raise ValueError(f"a script of the page holds one of {' '.join(ENDS)}")
    digests = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced once, what is put in never looked at again."""
    pieces = []
    for piece in template.split("{{"):
        name, end, rest = piece.partition("}}")
        pieces.append(parts[name] + rest if end else piece)
    return "".join(pieces)


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
