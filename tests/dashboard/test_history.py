"""The history of the dashboard in a real browser: unfolding, filters, keys, ten thousand rows."""

import itertools
from typing import Any

import pytest

from tests.dashboard import states
from tests.dashboard.conftest import Open
from tests.dashboard.fake_port import FakePort
from tools.rig.peer_base import wait_until

pytest.importorskip("playwright", reason="playwright is not installed (pip install -e '.[dev]')")
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def rows(page: Any) -> Any:
    return page.locator("#history-list > li")


def test_change_unfolds_to_its_files_by_keyboard(look: Open) -> None:
    events = [states.sync(3), states.change(2, files=3), states.change(1, files=450)]
    page = look(states.master(), events)
    rows(page).first.get_by_role("button").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = rows(page).nth(1)
    expect(second.get_by_role("button").first).to_have_attribute("aria-expanded", "true")
    files = second.locator(".files tbody tr")
    expect(files).to_have_count(3)
    sizes, digests = "900 B → 1.2 KiB", "0a0a0a0a0a0a → 1b1b1b1b1b1b"
    assert " ".join(files.nth(0).inner_text().split()) == f"changed etc/rules/1002-0_rules.xml {sizes} {digests}"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    third = rows(page).nth(2)
    expect(third.locator(".files tbody tr")).to_have_count(200)
    third.get_by_role("button", name="250 more files").click()
    third.get_by_role("button", name="50 more files").click()
    expect(third.locator(".files tbody tr")).to_have_count(450)
    boxes = [row.bounding_box() for row in rows(page).all()]
    assert all(upper["y"] + upper["height"] <= lower["y"] + 1 for upper, lower in itertools.pairwise(boxes))


def test_filters_ask_the_node_and_hold_for_what_happens_later(look: Open, port: FakePort) -> None:
    page = look(states.master(), states.history(60))
    page.get_by_label("path").fill("1015-")
    expect(rows(page)).to_have_count(1)
    # The page filters what it has while it asks.
    asked = lambda: any("path=*1015-*" in one.replace("%2A", "*") for one in port.asked)  # noqa: E731
    wait_until(asked, 60, "the node is asked")
    page.get_by_role("button", name="clear").click()
    expect(rows(page).nth(20)).to_be_attached()
    page.get_by_label("kind").select_option("sync")
    count = sum(event["kind"] == "sync" for event in port.events)
    expect(page.locator("#history-count")).to_have_text(f"{count} events")
    port.happen(states.change(100))
    port.happen(states.sync(101, worker="w3"))
    expect(page.locator("#history-count")).to_have_text(f"{count + 1} events")
    expect(rows(page).first).to_contain_text("w3")
    page.get_by_label("node").select_option("w3")
    count = sum(event["kind"] == "sync" and event["worker"] == "w3" for event in port.events)
    expect(page.locator("#history-count")).to_have_text(f"{count} events")
    page.get_by_label("node").select_option("m1")
    expect(page.locator("#history-none")).to_have_text("No event is like that.")


def test_node_that_looks_through_its_journal_in_parts_is_asked_until_it_has_seen_all(
    look: Open, port: FakePort
) -> None:
    page = look(states.master(), [*(states.sync(seq) for seq in range(700, 5, -1)), states.change(5, files=1)])
    port.most_read = 20
    page.get_by_label("path").fill("1005-0")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#history-count")).to_have_text("1 event")
    page.get_by_label("path").fill("nowhere")
    expect(page.locator("#history-none")).to_have_text("No event is like that.")
    wait_until(lambda: sum("nowhere" in asked for asked in port.asked) >= 700 / 20, 60, "the node has seen all")


def test_glob_of_the_filter_means_here_what_it_means_to_the_node(look: Open, port: FakePort) -> None:
    page = look(states.master(), [states.change(3, files=2), states.change(2, files=1), states.sync(1)])
    page.get_by_label("path").fill("etc/rules/100[12]-0_*.xml")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("1002-0")
    port.happen(states.change(7, files=1))
    port.happen(states.change(8, files=1) | {"files": [{"path": "etc/rules/1001-0_x.xml", "what": "added"}]})
    expect(rows(page)).to_have_count(2)
    page.get_by_label("path").fill("(unclosed[")
    expect(page.locator("#history-none")).to_be_visible()


def test_ten_thousand_rows_are_a_few_elements(look: Open, port: FakePort) -> None:
    page = look(states.master(), states.history(12_000))
    expect(page.locator("#history-count")).to_have_text("500 events and more")
    scroller = page.locator("#history-scroller")
    scroller.evaluate("view => view.scrollTop = view.scrollHeight")
    expect(page.locator("#history-count")).to_have_text("1,000 events and more")
    for loaded in range(1500, 10_001, 500):
        scroller.evaluate("view => view.scrollTop = view.scrollHeight")
        expect(page.locator("#history-count")).to_contain_text(f"{loaded:,} events")
    rows(page).first.get_by_role("button").focus()
    page.keyboard.press("End")
    last = rows(page).last
    expect(last).to_have_attribute("data-seq", "2001")
    expect(last).to_have_attribute("aria-posinset", "10000")
    expect(last.get_by_role("button")).to_be_focused()
    assert rows(page).count() < 80
    assert page.evaluate("document.querySelectorAll('*').length") < 2000
    top = scroller.evaluate("view => view.scrollTop")
    port.happen(states.change(12_001))
    expect(page.locator("#history-count")).to_have_text("10,000 events, the newest")
    expect(last.get_by_role("button")).not_to_be_focused()  # that one has given way to the newest
    assert abs(scroller.evaluate("view => view.scrollTop") - top) < 30


def test_what_one_reads_stays_in_its_place_when_something_happens(look: Open, port: FakePort) -> None:
    page = look(states.master(), states.history(200))
    scroller = page.locator("#history-scroller")
    scroller.evaluate("view => view.scrollTop = 2700")
    read = page.locator("[data-seq='90']")
    before = read.bounding_box()["y"]
    port.happen(states.change(201))
    expect(page.locator("#history-count")).to_have_text("201 events")
    assert abs(read.bounding_box()["y"] - before) < 2
