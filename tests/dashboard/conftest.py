"""One browser and one scripted monitoring port for each module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dashboard import states
from tests.dashboard.fake_port import FakePort
from tools.rig.browser import browser, why_no_browser

MISSING = why_no_browser()
DEADLINE_MS = 120_000
"""Beside twenty busy processes, work of a tenth of a second may take long."""
Open = Callable[..., Any]
WINDOW = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if MISSING:
        pytest.skip(f"no browser: {MISSING}")
    from playwright.sync_api import expect

    expect.set_options(timeout=DEADLINE_MS)
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def port() -> Iterator[FakePort]:
    served = FakePort()
    yield served
    served.close()


@pytest.fixture(scope="module")
def shared_page(chromium: Any) -> Iterator[Any]:
    """For tests that need no new page: a new one costs two seconds of CPU."""
    page = _new_page(chromium)
    yield page
    page.context.close()


def _new_page(chromium: Any, **options: Any) -> Any:
    context = chromium.new_context(**{"viewport": WINDOW} | options)
    context.set_default_timeout(DEADLINE_MS)
    page = context.new_page()
    page.on("console", lambda said: said.type == "error" and page.seen.errors.append(said.text))
    page.on("pageerror", lambda failure: page.seen.errors.append(str(failure)))
    page.on("request", lambda request: page.seen.requests.append(request.url))
    return page


class Seen:
    """What a page did besides being displayed."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []


@pytest.fixture
def look(chromium: Any, port: FakePort, shared_page: Any) -> Iterator[Open]:
    """Opens the dashboard in a state: `look(status, events, lag, **options of the browser's context)` returns the page.
    With options or `before` (called with the page while it is empty) it is a new page. Afterwards no page may have
    complained (except for `page.seen.errors` that a test has cleared) or asked another server.
    """
    pages: list[Any] = []

    def open_page(
        status: dict[str, Any],
        events: list[dict[str, Any]] | None = None,
        lag: dict[str, Any] | None = None,
        *,
        before: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Any:
        names = [row["name"] for row in status["workers"]]
        port.begin(status, states.history() if events is None else events, states.lag(names) if lag is None else lag)
        page = _new_page(chromium, **options) if options or before else shared_page
        pages.append(page)
        page.seen = Seen()
        if before:
            before(page)
        page.goto(port.url)
        page.locator("#link[data-state=live]").wait_for()
        return page

    try:
        yield open_page
    finally:
        for page in pages:
            if page is shared_page:
                page.set_viewport_size(WINDOW)
                page.mouse.move(0, 0)
                page.goto("about:blank")
            else:
                page.context.close()
    for page in pages:
        assert page.seen.errors == []
        assert [url for url in page.seen.requests if not url.startswith(f"{port.url}/")] == []
