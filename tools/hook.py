"""Hook: what mkdocs asks while it builds the site; adds the pages that are made from the code, and
the committed studies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# mkdocs loads this file by its path, from which its neighbour cannot be imported
sys.path.insert(0, str(Path(__file__).parent))

import pages
import studies

from prunebench import registry

ROOT = Path(__file__).parents[1]

AT_ROOT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
"""Pages of the repository that are pages of the site, too."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the menu whose pages are made from the code."""
    methods: list[dict[str, str]] = []
    for name in pages.methods_in_order():
        methods.append({name: f"methods/{name}.md"})
    for name in registry.addons():
        methods.append({f"+{name}": f"methods/{name}.md"})
    families: list[dict[str, str]] = []
    for family in pages.families_in_order():
        families.append({family.name: f"families/{pages.family_slug(family)}.md"})
    sections: Mapping[str, list[Any]] = {"Methods": methods, "Families": families}
    assert config.nav is not None
    for section in config.nav:
        # a section is a mapping of one title to its pages, as mkdocs.yml writes it
        (title,) = section
        if title in sections:
            section[title].extend(sections[title])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made from the code, and what lies beside docs/; what was handmade by hand about a
    method becomes a part of its page.
    """
    for path, page in made_pages().items():
        handmade = files.get_file_from_path(path)
        # its text is in the page that is made, and a path can have one page
        if handmade is not None:
            files.remove(handmade)
        files.append(File.generated(config, path, content=page()))
    for path, content in studies.files():
        files.append(File.generated(config, path, content=content))
    return files


def made_pages() -> dict[str, Callable[[], str]]:
    """By path in the site, what makes each page."""
    texts: dict[str, Callable[[], str]] = {
        "reference.md": pages.reference_page,
        "numbers.md": pages.numbers_page,
        "grid.md": pages.grid_page,
        studies.INDEX: studies.index,
    }
    for name in pages.methods_in_order():
        texts[f"methods/{name}.md"] = partial(pages.method_page, name)
    for name in registry.addons():
        texts[f"methods/{name}.md"] = partial(pages.addon_page, name)
    for family in pages.families_in_order():
        texts[f"families/{pages.family_slug(family)}.md"] = partial(pages.family_page, family)
    for name in AT_ROOT:
        texts[name.lower()] = partial(from_root, name)
    return texts


def from_root(name: str) -> str:
    """A page of the repository as one of the site, whose root is docs/."""
    return (ROOT / name).read_text().replace("](docs/", "](")
