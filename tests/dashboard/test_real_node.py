"""The dashboard of a real master with a worker shows what happens there."""

from typing import Any

import pytest

from tests.conftest import MakeRig
from tools.rig.cluster_json import amend
from tools.rig.nodes import Rig
from tools.rig.patience import Patience
from tools.rig.ports import free_port

pytest.importorskip("playwright", reason="playwright is not installed (pip install -e '.[dev]')")
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def with_monitor(rig: Rig) -> str:
    """Turns on the monitoring port of the master. Returns the address of its dashboard."""
    port = free_port()
    on = {"monitor": {"enabled": True, "port": port}, "journal": {"enabled": True}}
    amend(rig.master.root, {"clusterd": on})
    return f"http://127.0.0.1:{port}/"


def unfold(row: Any) -> None:
    """Clicks until it is open: while events arrive the rows move under the pointer."""
    button = row.get_by_role("button").first
    patience = Patience(120)
    while button.get_attribute("aria-expanded") != "true":
        assert not patience.is_over(), "the row does not unfold"
        button.click()


def test_page_of_a_real_master_tells_what_happens_in_the_cluster(make_rig: MakeRig, chromium: Any) -> None:
    rig = make_rig(1, files=20)
    url = with_monitor(rig)
    rig.start()
    rig.wait_equal(60.0)
    worker = rig.workers[0].name
    context = chromium.new_context()
    try:
        context.set_default_timeout(120_000)
        page, errors = context.new_page(), []
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.on("pageerror", lambda failure: errors.append(str(failure)))
        page.goto(url)
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#verdict-level")).to_have_text("OK")
        expect(page.locator("#who-name")).to_have_text(rig.master.name)
        expect(page.locator("#tiles .name")).to_have_text([worker])
        expect(page.locator("#tiles .word")).to_have_text("equal")
        expect(page.locator("#processes-rows th", has_text="monitor")).to_be_visible()
        expect(page.locator("#lag-figure")).to_be_visible()

        (rig.master.root / "etc/rules/from_the_test.xml").write_text("<group name='x,'></group>")
        row = page.locator("#history-list > li", has_text="etc/rules/from_the_test.xml").first
        unfold(row)
        expect(row.locator(".files td.path")).to_have_text(["etc/rules/from_the_test.xml"])
        page.get_by_label("path").fill("from_the_test")
        expect(page.locator("#history-list > li")).to_have_count(1)

        rig.stop(worker)
        expect(page.locator("#verdict-level")).to_have_text("DEGRADED")
        expect(page.locator("#tiles li")).to_have_attribute("data-link", "lost")
        assert errors == []
        rig.stop(rig.master.name)
        expect(page.locator("#verdict-level")).to_have_text("NO CONTACT")
    finally:
        context.close()
