"""The monitor of a real node: it gets events, and no other process depends on it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.monitor.journal_reader import Filter, JournalReader
from clusterd.rundir import journal_path
from tests.conftest import rigs
from tools.rig.nodes import Rig
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A started master without workers."""
    with rigs() as make:
        rig = make(0)
        rig.start()
        yield rig


def events(rig: Rig, *kinds: str, **wanted: Any) -> list[dict[str, Any]]:
    return JournalReader(journal_path(str(rig.master.root))).following(Filter(kinds=kinds, **wanted))


def wait_for(rig: Rig, text: str, *kinds: str, **members: Any) -> dict[str, Any]:
    """Returns the first event of these kinds that has these members."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [one for one in events(rig, *kinds) if {**one, **members} == one]
        return bool(found)

    wait_until(is_there, 60, text)
    return found[0]


def wait_for_starts(rig: Rig) -> None:
    for name, pid in rig.processes("master").items():
        if name != "supervisor":
            wait_for(rig, f"{name} has started", "process:started", process=name, pid=pid, node=rig.master.name)


def test_every_start_is_in_the_journal(rig: Rig) -> None:
    wait_for_starts(rig)


def test_monitor_that_dies_comes_back_alone_and_goes_on(rig: Rig) -> None:
    wait_for_starts(rig)  # what it has received and not written yet goes with it
    before = rig.processes("master")
    last = max(one["seq"] for one in events(rig))
    os.kill(before["monitor"] or 0, signal.SIGKILL)
    died = wait_for(rig, "its death is known", "process:died", process="monitor", pid=before["monitor"])
    assert (died["why"], died["seq"] > last) == ("by SIGKILL", True)
    wait_until(lambda: rig.processes("master")["monitor"] not in (None, before["monitor"]), 60, "it is back")
    wait_for(rig, "it has started", "process:started", process="monitor", pid=rig.processes("master")["monitor"])
    assert {**rig.processes("master"), "monitor": 0} == {**before, "monitor": 0}
    numbers = [one["seq"] for one in events(rig)]
    assert numbers == sorted(set(numbers))


def test_kill_of_the_whole_node_is_in_the_journal_after_the_next_start(rig: Rig) -> None:
    pid = rig.processes("master")["supervisor"] or 0
    os.kill(pid, signal.SIGKILL)
    rig.start()
    died = wait_for(rig, "its death is known", "process:died", process="supervisor", pid=pid)
    assert "was not stopped" in died["why"]


def test_reload_is_in_the_journal_with_what_changed(rig: Rig) -> None:
    path = rig.master.root / "etc/cluster.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"clusterd": {', '"clusterd": {"full_walk": 77, "version": "4.14.2", ', 1))
        rig.command(rig.master, "reload", timeout_s=120)
        found = wait_for(rig, "the reload is there", "reload", changed=["clusterd.full_walk_s"])
        assert found["needs_restart"] == ["clusterd.version"]
    finally:
        path.write_text(text)
        rig.command(rig.master, "reload", timeout_s=120)


def test_hook_of_a_reload_runs_on_the_next_event_and_its_output_is_in_the_log(rig: Rig) -> None:
    script, path = rig.directory / "hook", rig.master.root / "etc/cluster.json"
    script.write_text("#!/bin/sh\nread event\necho heard $event\n")
    script.chmod(0o755)
    before = path.read_text()
    settings = json.loads(before)
    settings["clusterd"]["hooks"] = [{"on": ["process:died"], "run": [str(script)]}]
    try:
        path.write_text(json.dumps(settings))
        rig.command(rig.master, "reload", timeout_s=120)
        wait_for(rig, "the reload is there", "reload", changed=["clusterd.hooks"])
        os.kill(rig.processes("master")["pool-1"] or 0, signal.SIGKILL)
        log = rig.master.root / "logs/cluster.log"
        wait_until(lambda: "[Hooks] hook: heard {" in log.read_text(), 60, "the hook has run")
        assert '"process":"pool-1"' in log.read_text()
    finally:
        path.write_text(before)
        rig.command(rig.master, "reload", timeout_s=120)
    wait_until(lambda: rig.status("master")[rig.master.name]["journal"]["hooks_run"] >= 1, 60, "it is counted")


def test_status_counts_what_is_in_the_journal(rig: Rig) -> None:
    def counted() -> bool:
        (facts,) = rig.status("master").values()
        found = facts["journal"]
        return bool(found["rows"] == len(events(rig)) and found["bytes"] > 0 and found["lost"] == 0)

    wait_until(counted, 60, "the rows are counted")


def test_unwritable_journal_hinders_no_process_and_is_shown_until_it_is_writable(rig: Rig) -> None:
    path = Path(journal_path(str(rig.master.root)))
    rig.stop()
    path.rename(path.with_name("kept"))
    path.mkdir()
    rig.start()
    try:
        wait_until(lambda: "journal" in str(problems(rig)), 60, "it is said")
        assert "The journal is not written" in (rig.master.root / "logs/cluster.log").read_text()
    finally:
        path.rmdir()
        path.with_name("kept").rename(path)
    wait_until(lambda: "journal" not in str(problems(rig)), 60, "it is over")
    wait_for(rig, "what happened meanwhile is there", "process:started", pid=rig.processes("master")["net"])


def problems(rig: Rig) -> Any:
    (facts,) = rig.status("master").values()
    return facts["problems"]


def test_stop_is_seen_to_its_end_and_leaves_only_the_journal(rig: Rig) -> None:
    pids = rig.processes("master")
    rig.stop()
    try:
        assert sorted(os.listdir(Path(journal_path(str(rig.master.root))).parent)) == ["journal.db", "spool", "state"]
        stopped = {one["process"]: one["pid"] for one in events(rig, "process:stopped")}
        assert {name: stopped.get(name) for name in pids if name not in ("supervisor", "monitor")} == {
            name: pid for name, pid in pids.items() if name not in ("supervisor", "monitor")
        }
    finally:
        rig.start()  # for the other tests, whose order is random
