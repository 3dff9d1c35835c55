"""A real browser for the page: the system's Chromium, driven by Playwright; without either the
tests that need them are skipped and say why.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


GO = """state => new Promise((done) => {
  if (location.hash.slice(1) === state) return done();
  addEventListener("hashchange", () => requestAnimationFrame(() => done()), { once: true });
  location.hash = state;
})"""
"""Resolves when the page has heard of it; its own ear was there first."""

SETTLED = """() => [...document.querySelectorAll("#main .tabulator")].every(
  (table) => table.querySelector(".tabulator-row, .tabulator-placeholder"))"""


@dataclass
class Visit:
    """A page that is open, and what it did that it must not do."""

    page: Any
    faults: list[str] = field(default_factory=list)

    def settled(self) -> None:
        """Wait until every table has its rows, or says that it has none."""
        self.page.wait_for_function(SETTLED)

    def texts(self, selector: str) -> list[str]:
        """What stands in the elements."""
        self.settled()
        texts: list[str] = self.page.locator(selector).all_inner_texts()
        return texts

    def go(self, state: str) -> None:
        """Show another view, as a link would."""
        self.page.evaluate(GO, state)
        self.settled()


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, for all tests of a file."""
    pytest.importorskip(
        "playwright", reason="playwright drives the browser: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium here ({', '.join(NAMES)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Any, file: Path, state: str = "", width: int = 1400, **how: Any
) -> Iterator[Visit]:
    """Open a file from disk; whatever it asks the network for, or complains of, is noted."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **how)
    page = context.new_page()
    seen = Visit(page)
    page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))

    def dismissed(dialog: Any) -> None:
        seen.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def complained(line: Any) -> None:
        if line.type == "error":
            seen.faults.append(f"console: {line.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            seen.faults.append(f"request: {request.url}")

    page.on("dialog", dismissed)
    page.on("console", complained)
    page.on("request", asked)
    page.goto(f"{file.resolve().as_uri()}#{state}")
    page.wait_for_selector("#main > *", state="attached")
    seen.settled()
    try:
        yield seen
    finally:
        context.close()
