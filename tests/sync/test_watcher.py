"""What the watcher does with events. Tests with a real tree are in test_manifests.py."""

import asyncio
import os
import pwd
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd.settings import DEFAULT_RULES
from clusterd.supervisor.privileges import Owner, answer_as
from clusterd.sync.manifest.watcher import MOST_EVENTS, CannotWatch, Notify, Watcher, explain
from tools.rig.guard import guarded


class Script:
    """Stands for watchfiles: yields these events, then waits."""

    def __init__(self, root: Path, *batches: "list[str] | Exception") -> None:
        self.root = root
        self.batches = list(batches)
        self.paths: list[str] = []
        self.done = threading.Event()
        """The watcher has handed on what there was, and asks for more."""
        self.closed = threading.Event()

    def make(self, paths: list[str]) -> Notify:
        self.paths = [os.path.relpath(path, self.root) for path in paths]
        return self

    def watch(self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: threading.Event) -> Any:
        if not self.batches:
            self.done.set()
            stop_event.wait()
            return "stop"
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return {(1, f"{self.root}/{path}") for path in batch}

    def close(self) -> None:
        self.closed.set()


def play(root: Path, script: Script) -> tuple[list[set[str]], list[tuple[str, bool]]]:
    """Returns what is found and lost until the end of the script."""
    found: list[set[str]] = []
    lost: list[tuple[str, bool]] = []

    async def run() -> None:
        watcher = Watcher(str(root), found.append, lambda why, passing: lost.append((why, passing)), script.make)
        await watcher.start(DEFAULT_RULES)
        while not (script.done.is_set() or script.closed.is_set()):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # what the thread has called comes before this
        await watcher.stop()
        assert script.closed.wait(60)
        assert not watcher.is_watching

    asyncio.run(run())
    return found, lost


def test_only_what_may_concern_an_item_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / "etc/rules/dir.tmp").mkdir(parents=True)
    for name in ("etc/rules/a~", "etc/other.conf", "etc/rules/ar.conf", "etc/shared"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    events = [
        "etc/rules/a.xml",
        "etc/rules/sub/b",
        "etc/rules/a~",
        "etc/rules/dir.tmp",
        "etc/rules/gone.tmp",
        "etc/rules/.clusterd-0123.tmp",
        "etc/rules/ar.conf",
        "etc/client.keys",
        "etc/other.conf",
        "etc/elsewhere/x",
        "etc",
        "etc/rules",
        "var/multigroups/g",
    ]
    found, lost = play(tmp_path, Script(tmp_path, events, ["etc/rules/.clusterd-0123.tmp"]))
    assert found == [
        {
            "etc/rules/a.xml",
            "etc/rules/sub/b",
            "etc/rules/dir.tmp",
            "etc/rules/gone.tmp",
            "etc/client.keys",
            "etc",
            "etc/rules",
            "var/multigroups/g",
        }
    ]
    assert lost == []


def test_no_directory_is_watched_twice(tmp_path: Path) -> None:
    (tmp_path / "etc/rules").mkdir(parents=True)
    (tmp_path / "var/multigroups").mkdir(parents=True)
    script = Script(tmp_path)
    play(tmp_path, script)
    assert script.paths == ["etc", "var/multigroups"]


def test_so_many_events_that_some_may_be_lost_ask_for_all(tmp_path: Path) -> None:
    events = [f"etc/rules/.clusterd-{number}.tmp" for number in range(MOST_EVENTS + 1)]
    assert play(tmp_path, Script(tmp_path, events)) == ([{""}], [])


def test_name_that_the_library_cannot_decode_passes(tmp_path: Path) -> None:
    found, lost = play(tmp_path, Script(tmp_path, RuntimeError('Unable to decode path "a\\xff" to string')))
    assert (found, [passing for _, passing in lost]) == ([], [True])


def test_replaced_and_new_directories_make_it_stale(tmp_path: Path) -> None:
    (tmp_path / "etc/rules").mkdir(parents=True)

    async def story() -> None:
        watcher = Watcher(str(tmp_path), lambda paths: None, lambda why, passing: None, Script(tmp_path).make)
        for change in (
            (tmp_path / "etc/lists").mkdir,
            (tmp_path / "etc/lists").rmdir,
            lambda: (os.rename(tmp_path / "etc/rules", tmp_path / "old"), (tmp_path / "etc/rules").mkdir()),
            lambda: ((tmp_path / "etc/rules").rmdir(), (tmp_path / "etc/rules").symlink_to(tmp_path / "old")),
        ):
            await watcher.start(DEFAULT_RULES)
            assert not watcher.is_stale()
            change()
            assert watcher.is_stale()
        await watcher.stop()

    asyncio.run(story())


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Error creating recommended watcher: OS file watch limit reached."),
        OSError(28, "No space left on device"),
        RuntimeError("Error creating recommended watcher: Too many open files (os error 24)"),
        RuntimeError("Traceback of an Error"),
        RuntimeError(""),
    ],
)
def test_refusal_is_explained_without_words_that_alarm(tmp_path: Path, failure: Exception) -> None:
    def refuse(paths: list[str]) -> Notify:
        raise failure

    async def story() -> str:
        watcher = Watcher(str(tmp_path), lambda paths: None, lambda why, passing: None, refuse)
        with pytest.raises(CannotWatch) as refusal:
            await watcher.start(DEFAULT_RULES)
        assert not watcher.is_watching
        return str(refusal.value)

    text = asyncio.run(story())
    assert text == explain(failure)
    assert "error" not in text.lower()
    assert "traceback" not in text.lower()


def test_links_in_circles_hide_no_link_that_leads_out(tmp_path: Path) -> None:
    shared = tmp_path / "root/etc/shared"
    shared.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for number in range(50):
        (shared / f"circle{number}").symlink_to(f"circle{number}")
    (shared / "out").symlink_to(tmp_path / "elsewhere")
    whole, alone = Script(tmp_path / "root"), Script(tmp_path / "root")
    watcher = Watcher(str(tmp_path / "root"), lambda paths: None, lambda why, passing: None, whole.make, alone.make)
    asyncio.run(started(watcher))
    assert (whole.paths, alone.paths) == ([], ["etc", "etc/shared"])


async def started(watcher: Watcher) -> None:
    await watcher.start(DEFAULT_RULES)
    await watcher.stop()


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not claim():
            await asyncio.sleep(0.01)


def test_a_link_that_leads_out_is_left_out_and_all_else_is_watched(tmp_path: Path) -> None:
    """Once such a link turned off file events for the whole node."""
    root = tmp_path / "root"
    for path in ("etc/rules", "etc/shared/web/deep", "etc/shared/db/deep", "var/multigroups/one"):
        (root / path).mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (root / "etc/shared/web/out").symlink_to(tmp_path / "elsewhere")
    found: set[str] = set()
    lost: list[str] = []

    async def story() -> None:
        watcher = Watcher(str(root), found.update, lambda why, passing: lost.append(why))
        await watcher.start(DEFAULT_RULES)
        (tmp_path / "elsewhere/rules.xml").write_text("never seen")
        (tmp_path / "elsewhere/deep/rules.xml").write_text("never seen")
        inside = [
            "etc/client.keys",
            "etc/rules/local_rules.xml",
            "etc/shared/web/agent.conf",
            "etc/shared/web/deep/a",
            "etc/shared/db/deep/a",
            "var/multigroups/one/merged.mg",
        ]
        for path in inside:
            (root / path).write_text("seen")
        await until(lambda: found >= set(inside))
        assert not [path for path in found if path.startswith("etc/shared/web/out/")]
        # A new link beside it is only named: it is watched when everything is watched again.
        assert not watcher.is_stale()
        (root / "etc/shared/web/later").mkdir()
        await until(lambda: "etc/shared/web/later" in found)
        assert watcher.is_stale()
        await watcher.start(DEFAULT_RULES)
        (root / "etc/shared/web/later/a").write_text("seen")
        await until(lambda: "etc/shared/web/later/a" in found)
        (root / "etc/shared/web/out").unlink()
        assert watcher.is_stale()
        await watcher.stop()
        assert not lost

    asyncio.run(story())


def test_a_closed_directory_is_left_out_and_all_else_is_watched() -> None:
    """The library once ended at it, and said that it watched everything."""
    with guarded("watch-") as root:
        for path in ("etc/rules/deep", "etc/shared/closed/deep", "etc/shared/db/deep", "etc/shared/web/deep"):
            (root / path).mkdir(parents=True)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for one in (root, *root.rglob("*")):
                os.chown(one, nobody.pw_uid, nobody.pw_gid)
            assert answer_as(Owner("nobody", nobody.pw_uid, nobody.pw_gid), lambda: closed_story(root)) == "good"
        else:
            assert closed_story(root) == "good"


def closed_story(root: Path) -> str:
    found: set[str] = set()
    lost: list[str] = []
    closed = root / "etc/shared/closed"

    async def story() -> None:
        watcher = Watcher(str(root), found.update, lambda why, passing: lost.append(why))
        closed.chmod(0)
        await watcher.start(DEFAULT_RULES)
        inside = {"etc/client.keys"} | {f"etc/{path}/a" for path in ("rules/deep", "shared/db/deep", "shared/web/deep")}
        for path in inside:
            (root / path).write_text("seen")
        await until(lambda: found >= inside)
        assert not watcher.is_stale()
        closed.chmod(0o755)
        assert watcher.is_stale()
        await watcher.start(DEFAULT_RULES)
        (closed / "deep/a").write_text("seen")
        await until(lambda: "etc/shared/closed/deep/a" in found)
        assert not watcher.is_stale()
        later = root / "etc/shared/web/later"
        later.mkdir(mode=0)
        await until(lambda: "etc/shared/web/later" in found)
        assert not watcher.is_stale()
        later.chmod(0o755)
        assert watcher.is_stale()
        await watcher.stop()
        assert not lost

    try:
        asyncio.run(story())
    except BaseException as failure:
        return f"{type(failure).__name__}: {failure} {found}"
    return "good"
