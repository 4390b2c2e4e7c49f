"""Every file operation fails once, in turn: of an application on a worker, of a scan and the building of a package on
the master, of a registration, of a merge. Two rounds later all nodes are equal and right, and every process runs.

A dry run counts the operations of each kind (rename, create, ...) in each class of path; then number 1 of each kind and
class fails, then number 2 of each, and so on. A run whose time is over prints where to go on:
CLUSTERD_CAMPAIGN_OFFSET=that (make: OFFSET=).

The operations are those of Python; test_every_operation.py has SQLite's own.
"""

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns.frame import MINUTES, Campaign, last_lines, left_behind, report, running
from tests.campaigns.hooked import Page, hooked
from tests.conftest import MakeRig
from tools.rig import workload
from tools.rig.guard import guarded
from tools.rig.nodes import Rig, RigError
from tools.rig.peer import PeerError, wait_until
from tools.rig.wdb_client import WdbClient, WdbError, authd

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

OFFSET = os.environ.get("CLUSTERD_CAMPAIGN_OFFSET", "")
DRY_RUNS = 3
"""Scans run beside the work: the counts are the largest of that many runs."""
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)
HEALED_S = 60.0
"""Two rounds of a rig take three seconds; the rest is for a busy machine."""
Work = Callable[[int], None]


class Faults:
    """Runs one kind of work again and again, each time with another failing operation."""

    def __init__(
        self, campaign: Campaign, rig: Rig, page: Page, directory: Path, work: Work, check: Callable[[], str]
    ) -> None:
        """`work` gets a new number each time and may fail; `check` returns what is wrong afterwards, else an empty
        text."""
        self._campaign = campaign
        self._rig = rig
        self._page = page
        self._directory = directory
        self._work = work
        self._check = check
        self._number = 0
        self.problems: list[str] = []

    def run(self) -> None:
        campaign, page = self._campaign, self._page
        counts: Counter[str] = Counter()
        for _ in range(DRY_RUNS):
            page.arm(self._directory)
            self._once()
            page.disarm()
            counts |= Counter(page.noted())
        assert counts, "the hook counts nothing"
        turns = sorted((number, what) for what, most in counts.items() for number in range(1, most + 1))
        campaign.say(f"{len(turns)} operations of {len(counts)} kinds and classes below {self._directory.name}")
        campaign.counts["operations"] += len(turns)
        left = [turn for turn in turns if _offset(turn) >= OFFSET]
        for number, what in list(left):
            if not campaign.goes_on or len(self.problems) >= 5:
                campaign.say(f"{len(left)} left: CLUSTERD_CAMPAIGN_OFFSET='{_offset((number, what))}'")
                break
            code = campaign.rng.choice(CODES)
            page.arm(self._directory, number, code, only=what)
            self._once()
            failed = page.failed
            page.disarm()
            campaign.counts["faults" if failed else "runs that did not come so far"] += 1
            problem = self._healed()
            if problem:
                text = f"number {number} of {what} ({failed or 'none'}, {errno.errorcode[code]}): {problem}"
                campaign.say(f"NOT HEALED {text}")
                self.problems.append(text)
            left = left[1:]
        else:
            campaign.say("all of them failed once")

    def _once(self) -> None:
        self._number += 1
        with contextlib.suppress(WdbError, PeerError, RigError, OSError, ValueError, AssertionError):
            self._work(self._number)

    def _healed(self) -> str:
        deadline = time.monotonic() + HEALED_S
        while problem := self._problem():
            if time.monotonic() > deadline:
                return problem
            time.sleep(0.1)
        return ""

    def _problem(self) -> str:
        try:
            for node in self._rig.nodes:
                gone = [name for name, pid in self._rig.processes(node.name).items() if not pid]
                if gone:
                    return f"{node.name} without {gone}"
            return self._check() or "; ".join(left_behind(self._rig))
        except (RigError, WdbError, OSError) as failure:
            return str(failure)


def _offset(turn: tuple[int, str]) -> str:
    """A position in a run; sorts as the turns do."""
    return f"{turn[0]:06} {turn[1]}"


def files_differ(rig: Rig) -> str:
    found = rig.compare()
    return "; ".join(
        f"{name}: {line}" for name, one in found.items() if not one.is_equal for line in list(one.lines())[:3]
    )


@pytest.mark.parametrize("side", ["apply", "scan"])
def test_files(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    with (
        running(f"file faults {side}", capsys) as campaign,
        guarded("hook-") as place,
        hooked(monkeypatch, place) as page,
    ):
        rig = make_rig(1)
        rig.start()
        rig.wait_equal(60)

        def work(number: int) -> None:
            workload.change(rig.master.root, seed=number, edit=2, add=1, delete=1)
            rig.wait_equal(HEALED_S)

        root = rig.workers[0].root if side == "apply" else rig.master.root
        faults = Faults(campaign, rig, page, root, work, lambda: files_differ(rig))
        faults.run()
        assert not faults.problems, last_lines(rig)


def test_registration(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        running("file faults registration", capsys) as campaign,
        guarded("hook-") as place,
        hooked(monkeypatch, place) as page,
    ):
        rig = make_rig(0)
        (rig.master.root / "etc/client.keys").write_text("")
        rig.start()
        given: dict[str, str] = {}

        def work(number: int) -> None:
            answer = authd(rig.master.root, {"function": "add", "arguments": {"name": f"agent{number}", "ip": "any"}})
            if answer.get("error") == 0:
                given[answer["data"]["id"]] = answer["data"]["key"]

        def check() -> str:
            """Everything that was answered is in file and database, and the file has no half registration."""
            lines = [line.split(" ") for line in (rig.master.root / "etc/client.keys").read_text().splitlines()]
            held = {parts[0]: parts[3] for parts in lines if len(parts) == 4 and not parts[1].startswith("!")}
            if len(held) != len([parts for parts in lines if len(parts) != 4 or not parts[1].startswith("!")]):
                return f"odd lines in client.keys: {lines}"
            lost = {one for one, key in given.items() if held.get(one) != key}
            with WdbClient(rig.master.root) as client:
                known = {f"{row['id']:03}" for row in client.rows("select id from agent where id > 0")}
            return (
                f"answered and lost: {lost}"
                if lost
                else f"file and database differ: {set(held) ^ known}"
                if set(held) ^ known
                else ""
            )

        faults = Faults(campaign, rig, page, rig.master.root, work, check)
        faults.run()
        campaign.counts["registered"] = len(given)
        assert not faults.problems, last_lines(rig)


@pytest.mark.parametrize("side", ["worker", "master"])
def test_merge(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    with (
        running(f"file faults merge {side}", capsys) as campaign,
        guarded("hook-") as place,
        hooked(monkeypatch, place) as page,
    ):
        rig = make_rig(1)
        (rig.master.root / "etc/client.keys").write_text(
            "".join(f"{n:03} agent{n} any {n:064x}\n" for n in range(1, 6))
        )
        rig.start()
        rig.wait_equal(60)
        worker = rig.workers[0]
        said: dict[int, str] = {}

        def versions(root: Path) -> dict[int, str]:
            with WdbClient(root) as client:
                return {
                    row["id"]: row.get("version") for row in client.rows("select id, version from agent where id > 0")
                }

        wait_until(lambda: all(len(versions(node.root)) == 5 for node in rig.nodes), 60, "the agents are known")

        def work(number: int) -> None:
            one = number % 5 + 1
            report(worker, one, f"v{number}")
            said[one] = f"v{number}"
            wait_until(lambda: versions(rig.master.root)[one] == f"v{number}", 20, "the report")

        def check() -> str:
            found = versions(rig.master.root)
            wrong = {one: (found.get(one), wanted) for one, wanted in said.items() if found.get(one) != wanted}
            return f"agents with (found, reported): {wrong}" if wrong else ""

        faults = Faults(campaign, rig, page, worker.root if side == "worker" else rig.master.root, work, check)
        faults.run()
        assert not faults.problems, last_lines(rig)
