"""A headless Chromium for tests that click through pages: the one of the system, where there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from experiments.demo.picture import BROWSERS


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start the browser once for all tests of a module."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"there is no Chromium: none of {', '.join(BROWSERS)} is on the PATH")
    with api.sync_playwright() as playwright:
        # Containers have no user namespaces, which the sandbox needs.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """An open page, and all that went wrong in it."""

    def __init__(self, page: Any):
        self.page = page
        self.problems: list[str] = []
        """Errors and warnings of the console, errors that nobody caught, and dialogs."""
        self.requests: list[str] = []
        """Of anything but data inside the page."""
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._note_dialog)
        page.on("request", self._note_request)

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _note_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@contextlib.contextmanager
def visit(
    browser: Any, url: str, *, width: int = 1280, height: int = 900, **context_options: Any
) -> Iterator[Visit]:
    """Open a page in a window of its own."""
    context = browser.new_context(viewport={"width": width, "height": height}, **context_options)
    try:
        visited = Visit(context.new_page())
        visited.page.set_default_timeout(10_000)
        visited.page.goto(url)
        yield visited
    finally:
        context.close()
