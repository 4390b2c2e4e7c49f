"""A browser for tests of the dashboard and for its pictures: the machine's own Chromium, driven by playwright, which
downloads none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def why_no_browser() -> str:
    """Returns what is missing; empty if nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install -e '.[dev]')"
    return "" if _program() else f"none of these programs is installed: {', '.join(NAMES)}"


@contextmanager
def browser() -> Iterator["Browser"]:
    """Starts a browser; nothing of it runs afterwards. Raises RuntimeError where there is none."""
    missing = why_no_browser()
    if missing:
        raise RuntimeError(missing)
    from playwright.sync_api import sync_playwright

    # Root has no namespace of its own to lock pages into; they are ours and come from this machine.
    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_program(), args=options)
        try:
            yield started
        finally:
            started.close()


def _program() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)
