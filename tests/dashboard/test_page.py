"""The dashboard in a real browser, with a scripted monitoring port: what it shows in each state, and that texts of
other programs stay text."""

import itertools
import re
from typing import Any

import pytest

from tests.dashboard import states
from tests.dashboard.conftest import Open
from tests.dashboard.fake_port import FakePort

pytest.importorskip("playwright", reason="playwright is not installed (pip install -e '.[dev]')")
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}}
WALL = {"viewport": {"width": 1920, "height": 1080}}
STATES = {
    "healthy": states.master,
    "lost": states.with_lost,
    "refused": states.with_refused,
    "syncing": states.syncing,
    "fifty": lambda: states.master(50),
    "worker": states.of_worker,
    "old": states.not_answering,
    "empty": lambda: states.master(0, agents=None, manifest={"state": "scanning", "failure": None}),
    "hostile": states.hostile,
}


def tile(page: Any, name: str) -> Any:
    return page.locator("#tiles li").filter(has=page.get_by_text(name, exact=True))


def sideways(page: Any) -> int:
    """Returns by how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_healthy_cluster_in_every_part(look: Open) -> None:
    page = look(states.master())
    expect(page).to_have_title("OK · m1 · clusterd")
    expect(page.get_by_role("heading", level=1)).to_have_text("OK 20000 files, 3 workers connected")
    expect(page.locator("#icon")).to_have_attribute("href", "/page/icon-ok.svg")
    assert page.locator("#facts div").all_inner_texts()[0].split() == ["workers", "3", "of", "3"]
    expect(page.locator("#problems-none")).to_be_visible()
    expect(page.locator("#tiles li[data-state=equal]")).to_have_count(3)
    expect(page.locator("#hub")).to_have_text("m1")
    expect(page.locator("#processes-rows tr")).to_have_count(7)
    expect(page.locator("#processes-rows tr").nth(1)).to_contain_text("net")
    assert page.locator("#agents-rows tr").first.inner_text().split() == ["m1", "220", "–", "3", "1"]
    expect(page.locator("#history-count")).to_have_text("12 events")
    expect(page.locator("#history-list li")).to_have_count(12)
    expect(page.locator("#syncs-recent li").first).to_contain_text("3 files · 82.0 KiB · 0.3 s")
    page.get_by_text("As a table").click()
    assert page.locator("#lag-table tbody tr").first.inner_text().split()[:2] == ["w1", "equal"]


def test_lost_worker_is_the_first_problem_and_shown_on_its_link(look: Open, port: FakePort) -> None:
    page = look(states.with_lost())
    expect(page.get_by_role("heading", level=1)).to_contain_text("DEGRADED w2 is LOST for 55 s")
    expect(page.locator("#icon")).to_have_attribute("href", "/page/icon-degraded.svg")
    expect(tile(page, "w2")).to_have_attribute("data-link", "lost")
    expect(tile(page, "w2")).to_contain_text("LOST 55 s")
    expect(page.locator("#topology-count")).to_have_text("2 of 3")
    expect(page.locator("#problems-list li")).to_have_text("w2 lost for 55 s: no answer for 12 s (10.0.0.2)")
    port.tell(states.master())
    expect(page.get_by_role("heading", level=1)).to_contain_text("OK")
    expect(tile(page, "w2")).to_have_attribute("data-link", "up")
    expect(page.locator("#problems-list li")).to_have_count(0)


def test_refused_node_is_shown_with_the_reason(look: Open) -> None:
    page = look(states.with_refused())
    expect(tile(page, "w9")).to_have_attribute("data-link", "refused")
    expect(tile(page, "w9")).to_contain_text('its cluster is "wazu", ours is "wazuh"')
    expect(page.locator("#problems-list li")).to_contain_text("10.0.0.9, 7 attempts")


def test_files_left_out_clocks_and_what_was_left_behind_are_problems(look: Open) -> None:
    left_out = {
        "w1": {"count": 3, "files": {"etc/a": "is mounted", "etc/b": "is a link"}, "at": 1.0},
        "m1": {"count": 1, "files": {"etc/c": "is a link"}, "at": None},
    }
    clocks = {
        "w1": {"offset_s": -95.0, "off_by_s": 0.1, "at": 1.0},
        "w2": {"offset_s": 1.0, "off_by_s": 0.1, "at": 1.0},
    }
    results = states.master()["results"]
    results["w1"]["problems"] = {"etc/b": "is a link"}
    page = look(
        states.master(left_out=left_out, clocks=clocks, left_behind=[{"text": "two files are kept"}], results=results)
    )
    expect(page.locator("#problems-list li")).to_have_text(
        [
            "w1 etc/b: is a link",
            "w1 etc/a: left out: is mounted",
            "w1 and 1 more file",
            "m1 etc/c: left out: is a link",
            "left behind two files are kept",
            "w1 its clock is 95 s behind this node's",
        ]
    )


def test_running_syncs_have_bars_until_they_end(look: Open, port: FakePort) -> None:
    page = look(states.syncing())
    running = page.locator("#syncs-running li")
    expect(running).to_have_count(3)
    expect(running.first).to_contain_text("3.0 MiB of 12.0 MiB")
    expect(running.first.get_by_role("progressbar")).to_have_attribute("value", "0.25")
    expect(tile(page, "w1")).to_have_attribute("data-state", "syncing")
    expect(tile(page, "w3")).to_contain_text("95 s behind")
    port.tell(states.master())
    expect(running).to_have_count(0)
    expect(tile(page, "w1").get_by_role("progressbar")).to_be_hidden()
    port.happen(states.sync(900, worker="w3", result="failed", why="disk full"))
    expect(page.locator("#syncs-recent li").first).to_contain_text("failed: disk full")


def test_worker_shows_the_link_to_its_master(look: Open) -> None:
    page = look(states.of_worker())
    expect(page.locator("#hub")).to_have_attribute("data-role", "worker")
    expect(tile(page, "m1")).to_contain_text("10.0.0.200 · master")


def test_node_without_workers_events_or_files_says_so(look: Open) -> None:
    page = look(STATES["empty"](), [], states.lag([]))
    expect(page.locator("#tiles-none")).to_have_text("No worker is known yet.")
    expect(page.locator("#history-none")).to_have_text("Nothing has happened yet.")
    expect(page.locator("#lag-none")).to_be_visible()
    expect(page.locator("#agents-none")).to_have_text("Nothing is known of the agents.")


def test_old_facts_are_marked(look: Open) -> None:
    page = look(states.not_answering())
    expect(page.locator("#verdict-note")).to_contain_text("The sync process does not answer: workers, syncs and files")
    expect(page.locator("#verdict-note")).to_contain_text("from 12 s ago")
    expect(page.locator("#main")).to_have_attribute("data-state", "old")
    expect(page.locator("#problems-list")).to_contain_text("the process is silent for 14 s")


def test_what_others_wrote_is_text_and_cannot_turn_the_writing_round(look: Open, port: FakePort) -> None:
    said = states.HOSTILE
    names = {"path": said, "what": said, "size": 1, "size_before": 2, "digest": said, "digest_before": said}
    events = [
        states.change(9, files=0, node=said) | {"files": [names], "source": said},
        states.sync(8, worker=said, why=said, left_out=[{"path": said, "why": said}]),
        {"seq": 7, "at": said, "node": said, "kind": said, "text": said},
        {"seq": 6, "at": states.at(6), "node": "m1", "kind": "login", "user": said, "address": said, "result": said},
    ]
    page = look(states.hostile(), events, states.lag([said]))
    for row in page.locator("#history-list > li > button").all():
        row.click()
    port.happen(states.change(10, node=said, why=said))
    expect(page.locator("#history-list > li")).to_have_count(5)
    page.get_by_text("As a table").click()
    expect(page.locator("#lag-table tbody th")).to_contain_text([said])
    expect(page.locator("#who-name")).to_have_text(said)
    expect(page.locator("#problems-list")).to_contain_text(said)
    assert page.locator("img, b > b, dd b").count() == page.locator("#facts dd b").count()
    assert page.evaluate("window.hurt") is None
    expect(page.locator("#tiles")).to_contain_text("\\u202elmx.selur")


def test_lost_connection_is_reported_and_made_again(look: Open, port: FakePort) -> None:
    page = look(states.master())
    port.leave()
    expect(page.locator("#link")).to_contain_text("connection to the node lost")
    expect(page.get_by_role("heading", level=1)).to_have_text("NO CONTACT the node does not answer this page")
    expect(page.locator("#verdict-note")).to_contain_text("OK, 20000 files, 3 workers connected")
    assert page.locator("#icon").get_attribute("href") == "/page/icon-unknown.svg"
    missed = states.change(800, files=2)
    port.events.insert(0, missed)
    port.come_back()
    expect(page.locator("#link")).to_have_text("live")
    expect(page.get_by_role("heading", level=1)).to_contain_text("OK")
    expect(page.locator("#history-list li").first).to_contain_text(missed["files"][0]["path"])
    page.seen.errors.clear()  # the browser logs every attempt


def test_node_that_keeps_the_connection_and_says_nothing_is_lost_too(look: Open, port: FakePort) -> None:
    page = look(states.master(), before=lambda page: page.clock.install())
    port.mute()
    page.clock.fast_forward(12_000)
    expect(page.locator("#link")).to_have_text(re.compile(r"connection to the node lost (1[2-9]|[2-9]\d) s ago"))
    port.come_back()
    expect(page.locator("#link")).to_have_text("live")


def test_verdict_is_spoken_when_it_is_another_one_and_not_when_its_numbers_count_on(look: Open, port: FakePort) -> None:
    page = look(states.with_lost())
    spoken = page.locator("[aria-live]")
    expect(spoken).to_have_count(1)
    expect(spoken).to_contain_text("w2 is LOST for 55 s")
    later = states.with_lost()
    later["verdict"]["reason"] = "w2 is LOST for 57 s (gone for good? clusterd forget w2)"
    port.tell(later)
    expect(page.get_by_role("heading", level=1)).to_contain_text("57 s")
    assert "55 s" in spoken.inner_text()
    port.tell(states.master())
    expect(spoken).to_contain_text("OK")


def show(page: Any, port: FakePort, state: str) -> None:
    """Changes a page to another state."""
    port.tell(STATES[state]() | {"root": f"/state/{state}"})
    expect(page.locator("#about")).to_contain_text(f"/state/{state}")


def test_every_state_fits_a_phone_and_a_wall(look: Open, port: FakePort) -> None:
    page = look(states.master())
    for state in STATES:
        page.set_viewport_size(PHONE["viewport"])
        show(page, port, state)
        assert sideways(page) <= 0, state
        boxes = sorted((part.bounding_box() for part in page.locator("main section").all()), key=lambda box: box["y"])
        assert {box["width"] for box in boxes} == {362}, state  # all of the window but its margins
        assert all(upper["y"] + upper["height"] <= lower["y"] for upper, lower in itertools.pairwise(boxes)), state
        page.set_viewport_size(WALL["viewport"])
        assert sideways(page) <= 0, state


def test_fifty_workers_are_all_there(look: Open) -> None:
    page = look(states.master(50))
    page.set_viewport_size(WALL["viewport"])
    expect(page.locator("#tiles li")).to_have_count(50)
    assert page.locator("#tiles .name").all_inner_texts() == [f"w{number}" for number in range(1, 51)]
    assert page.locator("#lag-canvas").bounding_box()["height"] >= 50 * 14


@pytest.mark.parametrize("workers", [20, 50])
def test_names_of_nodes_are_whole_where_only_their_ends_differ(look: Open, workers: int) -> None:
    found = states.master(workers)
    for row in found["workers"]:
        row["name"] = f"manager-worker-{row['name']}"
    found["workers"][1] |= {"state": "lost", "lost_s": 400.0}
    page = look(found)
    expect(page.locator("#tiles li")).to_have_count(workers)
    for viewport in (PHONE["viewport"], {"width": 1024, "height": 800}, WALL["viewport"]):
        page.set_viewport_size(viewport)
        cut = "names => names.filter(name => name.scrollWidth > name.clientWidth).map(name => name.textContent)"
        assert page.locator("#tiles .name").evaluate_all(cut) == [], viewport
        assert sideways(page) <= 0, viewport


def test_heat_map_tells_under_the_pointer_and_by_keys(look: Open) -> None:
    lag = states.lag(["w1", "w2", "w3"], away="w2")
    lag["workers"]["w1"][-40:-30] = [95.0] * 10
    page = look(states.with_lost(), lag=lag)
    canvas, readout = page.locator("#lag-canvas"), page.locator("#lag-readout")
    canvas.focus()
    for _ in range(35):
        page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text("95 s behind")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    expect(readout).to_contain_text("w2")
    expect(readout).to_contain_text("away")
    page.keyboard.press("Escape")
    expect(readout).to_have_text("")
    canvas.hover(position={"x": 500, "y": 8})
    expect(readout).to_contain_text("w1")


def test_colours_follow_the_system_until_the_user_chooses_and_the_choice_is_remembered(look: Open) -> None:
    page = look(states.master(), color_scheme="dark")

    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = paper()
    page.emulate_media(color_scheme="light")
    light = paper()
    assert light != dark
    page.get_by_role("button", name="dark").click()
    assert paper() == dark
    page.reload()
    assert paper() == dark
    expect(page.get_by_role("button", name="dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="auto").click()
    assert paper() == light


def test_page_is_accessible(look: Open, port: FakePort) -> None:
    """By the rules of axe-core: names, roles, landmarks, contrast in both colours; everything that scrolls can be
    reached."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = look(states.master(), reduced_motion="reduce")
    page.get_by_text("As a table").click()
    for row in page.locator("#history-list > li > button").all()[:6]:
        row.click()
    for state, scheme in (("lost", "light"), ("syncing", "dark"), ("old", "light"), ("empty", "dark")):
        show(page, port, state)
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], (state, scheme)
