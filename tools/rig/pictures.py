"""The pictures of the documents, taken from a live rig (`make pictures`): `clusterd top` at two sizes, the dashboard.

The rig is a master and six workers with agents. Files are changed, one worker's link is cut, another one's is slow and
in the middle of a sync.
"""

import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from clusterd.status.status import StatusReader
from tools.console import PlainConsole
from tools.rig import faults, workload
from tools.rig.agents import Fleet
from tools.rig.browser import browser, why_no_browser
from tools.rig.cluster_json import amend
from tools.rig.guard import guarded
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.patience import Patience
from tools.rig.ports import free_port
from tools.top_view import Looks, top_view

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("hq", "ams-1", "ams-2", "fra-1", "fra-2", "lon-1", "nyc-1")
"""Names of the nodes, the master first."""
CUT, SLOW = 5, 6
SLOW_BYTES_PER_S = 800_000
LARGE = 16 << 20
"""Size of the file for the slow link: a transfer is reported after each chunk of some MiB."""
FILES, AGENTS = 1200, 180
QUIET_S = 45.0
"""How long the rig runs before its first fault, so that the heat map has something to show."""
LARGEST = 200_000
TERMINALS = ((80, 24), (200, 50))
THEME = TerminalTheme(
    (19, 20, 22),
    (233, 231, 226),
    [
        (19, 20, 22),
        (245, 121, 109),
        (95, 196, 141),
        (220, 171, 78),
        (130, 176, 245),
        (190, 150, 230),
        (110, 195, 205),
        (233, 231, 226),
    ],
    [(70, 73, 80)] * 8,
)
"""Colours of the dashboard at night."""
Told = Callable[[str], None]


def take(directory: Path, told: Told) -> list[Path]:
    """Takes all pictures and returns their paths. Raises RigError if the cluster does not reach the state to be shown,
    a picture is too large, or there is no browser."""
    if missing := why_no_browser():
        raise RigError(missing)
    directory.mkdir(parents=True, exist_ok=True)
    with browser() as started, guarded("pictures-") as base, _cluster(base / "rig", told) as (rig, url):
        told("the terminal")
        taken = [_terminal(started, rig.master, *size, directory) for size in TERMINALS]
        told("the dashboard")
        taken += _dashboard(started, url, directory)
    for path in taken:
        _shrink(path)
    return taken


# ---- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def _cluster(directory: Path, told: Told) -> Iterator[tuple[Rig, str]]:
    port = free_port()
    rig = Rig.create(directory, len(NAMES) - 1, links=True)
    try:
        rig.nodes = [_named(node, name) for node, name in zip(rig.nodes, NAMES, strict=True)]
        _monitor(rig.master, port)
        workload.generate(rig.master.root, files=FILES)
        told("the cluster starts")
        rig.start()
        rig.wait_equal(120.0)
        _live(rig)
        told("something goes wrong")
        _go_wrong(rig)
        yield rig, f"http://127.0.0.1:{port}"
    finally:
        rig.down()


def _named(node: RigNode, name: str) -> RigNode:
    """Gives a node another name before its first start; its root stays."""
    path = node.root / "etc" / "ossec.conf"
    path.write_text(path.read_text().replace(f"<node_name>{node.name}<", f"<node_name>{name}<"))
    return replace(node, name=name)


def _monitor(node: RigNode, port: int) -> None:
    amend(node.root, {"clusterd": {"monitor": {"enabled": True, "port": port}, "journal": {"enabled": True}}})


def _live(rig: Rig) -> None:
    """Makes changes of each kind, for the history."""
    fleet = Fleet.load(rig)
    fleet.add_direct(AGENTS, prefix="host")
    began, turn = time.monotonic(), 0
    fleet.report(seconds=8.0, rate=60.0, changes=0.5)
    while time.monotonic() - began < QUIET_S:
        turn += 1
        workload.change(rig.master.root, seed=turn, edit=turn % 4 + 1, add=turn % 3, delete=turn % 2)
        if turn == 2:
            workload.tamper(rig.workers[2].root, seed=1)
        if turn == 3:
            fleet.add(3, through=rig.workers[0], prefix="new", groups="default", clients=1)
        time.sleep(6.0)
    rig.wait_equal(60.0)


def _go_wrong(rig: Rig) -> None:
    cut, slow = rig.nodes[CUT], rig.nodes[SLOW]
    assert cut.link_control is not None
    assert slow.link_control is not None
    faults.tell_link(cut.link_control, "cut")
    faults.tell_link(slow.link_control, "slow", SLOW_BYTES_PER_S)
    rng = random.Random(1)
    for number in range(4):
        (rig.directory / f"{number}").write_bytes(rng.randbytes(LARGE))
    for number in range(4):
        (rig.directory / f"{number}").rename(rig.master.root / f"etc/lists/indicators-{number}.cdb")
    patience = Patience(90.0)
    while not _is_wrong(StatusReader(str(rig.master.root)).read_sync()):
        if patience.is_over():
            raise RigError("the cluster has not become what the pictures are to show")
        time.sleep(0.2)


def _is_wrong(status: dict[str, Any]) -> bool:
    lost = any(row["name"] == NAMES[CUT] and (row["lost_s"] or 0) > 5 for row in status["workers"])
    sent = any(row["peer"] == NAMES[SLOW] and row["done_bytes"] >= LARGE // 4 for row in status["syncs"])
    others = (row for name, row in status["results"].items() if name not in (NAMES[CUT], NAMES[SLOW]))
    return lost and sent and not any(row["lag_s"] for row in others)


# ---- the pictures ----------------------------------------------------------------------------------------------------


def _terminal(started: "Browser", node: RigNode, width: int, height: int, directory: Path) -> Path:
    """Returns the output of `clusterd top` in a terminal of that size."""
    reader = StatusReader(str(node.root))
    reader.read()
    time.sleep(1.0)  # CPU is that since the last look
    console = PlainConsole(
        width=width, height=height, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(top_view(reader.read(), Looks.for_width(width), width, height), end="")
    page = started.new_page(device_scale_factor=2 if width < 100 else 1)
    try:
        page.set_content(f"<body style='margin:0'>{_svg(console, width)}</body>")
        path = directory / f"top-{width}x{height}.png"
        page.locator("svg").screenshot(path=path)
    finally:
        page.close()
    return path


def _svg(console: Console, width: int) -> str:
    """Without the fonts that rich would load from elsewhere."""
    text = console.export_svg(title="clusterd top", theme=THEME, unique_id="top")
    text = re.sub(r"@font-face \{.*?\}", "", text, flags=re.S).replace("Fira Code", "DejaVu Sans Mono")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    scale = 0.62 if width < 100 else 0.7
    size = f'width="{float(box[1]) * scale:.0f}" height="{float(box[2]) * scale:.0f}"'
    return text.replace("<svg ", f"<svg {size} ", 1)


def _dashboard(started: "Browser", url: str, directory: Path) -> list[Path]:
    taken = []
    for name, width, height, scheme, scale in (
        ("dashboard-light", 1440, 1180, "light", 1),
        ("dashboard-dark", 1440, 1180, "dark", 1),
        ("dashboard-phone", 390, 844, "light", 2),
    ):
        context = started.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        try:
            page = context.new_page()
            page.set_default_timeout(120_000)  # on a busy machine
            page.goto(url)
            _unfold(page)
            page.evaluate("window.scrollTo(0, 0)")  # what a glance at a phone shows: verdict and links
            path = directory / f"{name}.png"
            page.screenshot(path=path)
            taken.append(path)
        finally:
            context.close()
    return taken


def _unfold(page: "Page") -> None:
    """Waits until the page shows everything, and unfolds the latest change that has a few files."""
    page.locator("#link[data-state=live]").wait_for()
    page.locator("#history-list > li").first.wait_for()
    page.locator("#lag-figure").wait_for()
    change = page.locator("#history-list > li").filter(has_text=re.compile(r"change\d+ (added|changed)")).first
    if change.count():
        change.get_by_role("button").first.click()
    page.mouse.move(0, 0)
    page.evaluate("document.getElementById('history-scroller').scrollTop = 0")
    page.wait_for_timeout(2500)  # a second status, for rates


def _shrink(path: Path) -> None:
    """Reduces the colours of a picture that is too large. Raises RigError if that does not suffice."""
    if os.path.getsize(path) <= LARGEST:
        return
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)
    if os.path.getsize(path) > LARGEST:
        raise RigError(f"{path} has {os.path.getsize(path)} bytes, more than {LARGEST}")
