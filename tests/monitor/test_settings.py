"""`clusterd.journal`, `clusterd.monitor` and `clusterd.hooks` in cluster.json, and which of them a reload makes
effective."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clusterd.config.cluster_json import JsonRead, read_json
from clusterd.reload import adopt, changes
from clusterd.settings import HookSettings, JournalSettings, MonitorSettings, Settings
from tools.check import programs_of


def read(directory: Path, **own: Any) -> JsonRead:
    path = directory / "cluster.json"
    path.write_text(json.dumps({"clusterd": own}))
    return read_json(path, Settings(str(directory)))


def test_everything_that_is_named_is_read(tmp_path: Path) -> None:
    hooks = [
        {"on": ["worker:lost", "problem"], "run": ["/bin/page", "x"]},
        {"on": ["sync"], "run": ["/x"], "timeout": 5},
    ]
    found = read(
        tmp_path,
        journal={"enabled": False, "days": 7, "size_bytes": 1048576},
        monitor={"enabled": False, "address": "::1", "port": 1},
        hooks=hooks,
    )
    own = found.settings.clusterd
    assert (found.problems, found.warnings) == ([], [])
    assert own.journal == JournalSettings(False, 7, 1048576)
    assert own.monitor == MonitorSettings(False, "::1", 1)
    assert own.hooks == (
        HookSettings(("worker:lost", "problem"), ("/bin/page", "x"), 30),
        HookSettings(("sync",), ("/x",), 5),
    )
    assert Settings("/").clusterd.has_monitor
    assert own.has_monitor
    assert not replace(own, hooks=()).has_monitor


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ({"on": ["woker:lost"], "run": ["/x"]}, "clusterd.hooks.0.on"),
        ({"on": [], "run": ["/x"]}, "clusterd.hooks.0.on"),
        ({"on": ["worker"], "run": ["page", "s3cret"]}, "clusterd.hooks.0.run"),
        ({"on": ["worker"], "run": "/x s3cret"}, "clusterd.hooks.0.run"),
        ({"on": ["worker"], "run": ["/x"], "timeout": 0}, "clusterd.hooks.0.timeout"),
        ({"on": ["worker"], "runs": ["/x", "s3cret"]}, "clusterd.hooks.0"),
    ],
)
def test_mistake_in_a_hook_is_named_and_its_arguments_are_not_shown(
    tmp_path: Path, hook: dict[str, Any], where: str
) -> None:
    (problem,) = read(tmp_path, hooks=[hook]).problems
    assert problem.where == where
    assert "s3cret" not in str(problem)


def test_hooks_that_are_no_list_are_refused(tmp_path: Path) -> None:
    assert [problem.where for problem in read(tmp_path, hooks={"on": "x"}).problems] == ["clusterd.hooks"]


def test_check_names_programs_that_cannot_or_must_not_be_run(tmp_path: Path) -> None:
    good, open_to_all = tmp_path / "good", tmp_path / "open"
    for path, mode in ((good, 0o755), (open_to_all, 0o777)):
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    hooks = tuple(HookSettings(("worker",), (str(path),)) for path in (good, open_to_all, tmp_path / "none"))
    settings = Settings(str(tmp_path))
    own = replace(settings.clusterd, hooks=hooks, owner="root" if os.geteuid() == 0 else "")
    lines = programs_of(replace(settings, clusterd=own))
    assert [str(open_to_all) in lines[0], str(tmp_path / "none") in lines[1], len(lines)] == [True, True, 2]


def test_reload_takes_hooks_and_bounds_and_says_what_waits() -> None:
    running = Settings("/var/ossec")
    hook = HookSettings(("worker",), ("/x",))
    own = replace(running.clusterd, hooks=(hook,), journal=JournalSettings(False, 7), monitor=MonitorSettings(port=7))
    adopted, waiting = adopt(running, replace(running, clusterd=own))
    assert waiting == ["clusterd.monitor", "clusterd.journal.enabled"]
    assert adopted.clusterd.hooks == (hook,)
    assert adopted.clusterd.journal == JournalSettings(True, 7)
    assert changes(running, adopted) == ["clusterd.journal", "clusterd.hooks"]


def test_hooks_wait_for_a_restart_where_no_process_could_run_them() -> None:
    running = Settings("/var/ossec")
    off = replace(running.clusterd, journal=JournalSettings(False), monitor=MonitorSettings(False))
    running = replace(running, clusterd=off)
    hook = HookSettings(("worker",), ("/x",))
    adopted, waiting = adopt(running, replace(running, clusterd=replace(off, hooks=(hook,))))
    assert (waiting, adopted.clusterd.hooks) == (["clusterd.hooks"], ())
