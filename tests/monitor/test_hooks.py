"""Programs that run on events: their input, what becomes of their output, and that none of them delays anything."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd import programs
from clusterd.config.hooks import is_event, program_problem
from clusterd.messages.journal import AnyEvent, LoginEvent, ProblemEvent, SyncEvent, WorkerEvent
from clusterd.monitor.feed import EventFeed
from clusterd.monitor.hooks import MOST_WAITING, Hooks, matches
from clusterd.programs import MOST_LINES, MOST_READ_BYTES, without_secrets
from clusterd.settings import HookSettings
from tools.rig.patience import Patience

LOST = WorkerEvent(worker="w1", what="lost")


class Site:
    """Hooks whose programs are shell scripts in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[tuple[str, str]] = []
        self.problems: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.hooks = Hooks(
            "/root", "m", lambda *line: self.said.append(line), self.problem, lambda name: self.counts.update([name])
        )
        self.feed = EventFeed("m", 1)
        self.feed.subscribe(self.hooks.take)

    def problem(self, subject: str, text: str) -> None:
        self.problems.pop(subject, None)
        if text:
            self.problems[subject] = text

    def script(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def tell(self, *events: AnyEvent) -> None:
        self.feed.hear([(1.0, event) for event in events])

    async def until(self, condition: Callable[[], bool]) -> None:
        patience = Patience(60)
        while not condition():
            assert not patience.is_over(), (self.said, self.problems, self.counts)
            await asyncio.sleep(0.01)


def play(directory: Path, story: Callable[[Site], Awaitable[None]]) -> Site:
    async def main() -> Site:
        site = Site(directory)
        try:
            await story(site)
        finally:
            await site.hooks.close()
        return site

    return asyncio.run(main())


def test_program_gets_the_event_and_nothing_of_the_daemons_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERD_KEY", "c" * 32)

    async def story(site: Site) -> None:
        path = site.script(
            "page", f'cat > {tmp_path}/event; env > {tmp_path}/env; echo "told $1"; touch {tmp_path}/done'
        )
        site.hooks.adopt([HookSettings(("worker:lost",), (path, "--now"))])
        site.tell(WorkerEvent(worker="w0", what="back"), LOST)
        await site.until(lambda: ("INFO", "page: told --now") in site.said)

    site = play(tmp_path, story)
    event = json.loads((tmp_path / "event").read_text())
    assert (event["seq"], event["kind"], event["worker"], event["node"]) == (2, "worker", "w1", "m")
    environment = (tmp_path / "env").read_text()
    assert "CLUSTERD_ROOT=/root" in environment
    assert "CLUSTERD_KEY" not in environment
    assert site.counts == {"hooks_run": 1}


def test_one_at_a_time_and_what_finds_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("slow", f"mkdir {tmp_path}/busy || touch {tmp_path}/two; read x; sleep 600")
        site.hooks.adopt([HookSettings(("login",), (path,))])
        site.tell(*(LoginEvent(user=str(number)) for number in range(MOST_WAITING + 5)))
        await site.until((tmp_path / "busy").exists)
        site.tell(*(LoginEvent(user=str(number)) for number in range(5)))

    site = play(tmp_path, story)
    assert not (tmp_path / "two").exists()
    assert site.counts["hooks_dropped"] >= 5
    assert [text for level, text in site.said if level == "WARNING"] == [
        f"slow: {MOST_WAITING} events wait, more are not told to it."
    ]


def test_program_that_writes_without_end_is_killed(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("flood", f"echo $$ > {tmp_path}/pid; exec yes flood")
        site.hooks.adopt([HookSettings(("worker",), (path,), timeout_s=3600)])
        site.tell(LOST)
        await site.until(lambda: bool(site.problems))

    site = play(tmp_path, story)
    assert "flood (clusterd.hooks), event 1: wrote more than 16 MiB and was killed" in str(site.problems)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert sum(text == "flood: flood" for _, text in site.said) == MOST_LINES


def test_what_a_program_has_sent_out_of_reach_holds_up_no_later_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a group killed of which nothing is left: by then its number may be that of another program."""
    kill, killed = programs._kill, []

    def kill_what_is_there(group: int) -> None:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            killed.append(group)
        else:  # on a busy machine the shell has not ended by then
            kill(group)

    monkeypatch.setattr(programs, "_kill", kill_what_is_there)

    async def story(site: Site) -> None:
        path = site.script(
            "far",
            f"setsid sh -c 'echo $$ > {tmp_path}/far-'$$'; exec sleep 600' & "
            f"while ! test -s {tmp_path}/far-$$; do :; done",
        )
        site.hooks.adopt([HookSettings(("worker",), (path,), timeout_s=0.5)])
        site.tell(LOST, LOST)
        await site.until(lambda: site.counts["hooks_failed"] == 2)

    site = play(tmp_path, story)
    for far in tmp_path.glob("far-*"):
        os.kill(int(far.read_text()), signal.SIGKILL)
    assert "ran for more than 0.5 s" in str(site.problems)
    assert not killed


def test_program_may_write_more_than_is_kept_of_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("wordy", f"head -c {MOST_READ_BYTES} /dev/zero; touch {tmp_path}/ended")
        site.hooks.adopt([HookSettings(("worker",), (path,))])
        site.tell(LOST)
        await site.until((tmp_path / "ended").exists)
        await site.until(lambda: any("left out" in text for _, text in site.said))

    assert not play(tmp_path, story).problems


def test_failure_is_logged_once_and_shown_until_it_works(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("shaky", f"test -e {tmp_path}/good || {{ echo some error; exit 3; }}")
        site.hooks.adopt([HookSettings(("worker",), (path,))])
        site.tell(LOST, LOST)
        await site.until(lambda: site.counts["hooks_failed"] == 2)
        assert "shaky (clusterd.hooks), event 2: ended with exit code 3" in str(site.problems)
        (tmp_path / "good").touch()
        site.tell(LOST)
        await site.until(lambda: not site.problems)

    site = play(tmp_path, story)
    assert [text for level, text in site.said if level == "WARNING"] == [
        "shaky, event 1 (worker): ended with exit code 3."
    ]
    assert ("INFO", "shaky works again.") in site.said
    assert ("INFO", "shaky: some failure") in site.said  # no line below ERROR has that word


def test_program_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        pid = tmp_path / "child"
        path = site.script("hangs", f"sleep 600 & echo $! > {pid}; wait")
        for limit_s in (0.5, 5.0, 50.0):  # on a busy machine it may be killed before it has started something
            text = f"ran for more than {limit_s:g} s and was killed"
            site.hooks.adopt([HookSettings(("worker",), (path,), limit_s)])
            site.tell(LOST)
            await site.until(lambda text=text: text in str(site.problems))  # type: ignore[misc]
            if pid.exists() and pid.read_text().strip():
                break
        child = int(pid.read_text())
        await site.until(lambda: not is_alive(child))

    play(tmp_path, story)


def test_close_kills_what_runs(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("long", f"echo $$ > {tmp_path}/pid; exec sleep 600")
        site.hooks.adopt([HookSettings(("worker",), (path,))])
        site.tell(LOST)
        await site.until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))

    began = time.monotonic()
    play(tmp_path, story)
    assert time.monotonic() - began < 300
    patience = Patience(60)
    while is_alive(int((tmp_path / "pid").read_text())):
        assert not patience.is_over()
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_flood_of_output_is_cut(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = site.script("loud", "yes | head -c 5000000")
        site.hooks.adopt([HookSettings(("worker",), (path,))])
        site.tell(LOST)
        await site.until(lambda: any("left out" in text for _, text in site.said))

    assert len(play(tmp_path, story).said) <= 21


def test_hooks_of_a_reload_take_the_place_of_those_before(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = site.script("one", "echo hello"), site.script("two", "echo hello")
        site.hooks.adopt([HookSettings(("worker",), (one,))])
        site.hooks.adopt([HookSettings(("worker",), (two,))])
        site.tell(LOST)
        await site.until(lambda: ("INFO", "two: hello") in site.said)
        assert ("INFO", "one: hello") not in site.said

    play(tmp_path, story)


def test_program_of_a_hook_that_was_taken_out_leaves_no_problem_behind(tmp_path: Path) -> None:
    """It ran when the configuration was read again: nothing could ever end a problem that it leaves."""

    async def story(site: Site) -> None:
        slow = site.script("page", f"touch {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 3")
        site.hooks.adopt([HookSettings(("worker",), (slow,))])
        site.tell(LOST)
        await site.until((tmp_path / "runs").exists)
        site.hooks.adopt([])
        (tmp_path / "go").touch()
        await site.until(lambda: site.counts["hooks_failed"] == 1)

    site = play(tmp_path, story)
    assert site.problems == {}
    assert "exit code 3" in site.said[-1][1]


def test_two_hooks_of_one_program_have_a_problem_each(tmp_path: Path) -> None:
    """That one of them works again does not hide that the other one fails."""

    async def story(site: Site) -> None:
        path = site.script("page", f"test $1 = good -o ! -e {tmp_path}/failing")
        site.hooks.adopt([HookSettings(("worker",), (path, "bad")), HookSettings(("login",), (path, "good"))])
        (tmp_path / "failing").touch()
        site.tell(LOST)
        await site.until(lambda: site.counts["hooks_failed"] == 1)
        site.script("page", "test $1 = worse")
        site.tell(LoginEvent(user="u", address="10.0.0.1", result="ok"))
        await site.until(lambda: site.counts["hooks_failed"] == 2)
        site.script("page", "test $1 = good")
        site.tell(LoginEvent(user="u", address="10.0.0.1", result="ok"))
        await site.until(lambda: any("works again" in text for _, text in site.said))
        assert len(site.problems) == 1

    play(tmp_path, story)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o644])
def test_program_that_others_may_write_or_that_is_not_executable_is_not_run(tmp_path: Path, mode: int) -> None:
    async def story(site: Site) -> None:
        path = site.script("open", f"touch {tmp_path}/ran")
        os.chmod(path, mode)
        site.hooks.adopt([HookSettings(("worker",), (path,))])
        site.tell(LOST)
        await site.until(lambda: bool(site.problems))

    assert "chmod" in str(play(tmp_path, story).problems)
    assert not (tmp_path / "ran").exists()


def test_program_in_a_world_writable_directory_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    path = tmp_path / "open/page"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    assert program_problem(str(path), os.geteuid()) == ""
    (tmp_path / "open").chmod(0o777)
    assert program_problem(str(path), os.geteuid()).endswith(f"chmod o-w {tmp_path / 'open'}")
    assert "No such file" in program_problem(str(tmp_path / "none"), 0)


def test_directory_of_another_user_is_no_place_for_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a directory may replace the program between the check and its start, also by a link."""
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs/page"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    real = os.stat

    def stat(name: Any, **how: Any) -> os.stat_result:
        found = real(name, **how)
        owner = 12345 if not isinstance(name, int) and Path(name) == tmp_path / "theirs" else found.st_uid
        return os.stat_result((*found[:4], owner, *found[5:10]))

    for asked in (path, tmp_path / "link/page"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", stat)
            found = program_problem(str(asked), os.geteuid())
        assert found.endswith(f"chown root {tmp_path / 'theirs'}")


def test_events_for_which_a_hook_runs() -> None:
    assert matches(("worker", "sync:failed"), LOST)
    assert not matches(("worker:back",), LOST)
    assert matches(("sync:failed",), SyncEvent(worker="w", what="files", result="failed"))
    assert not matches(("sync:failed",), SyncEvent(worker="w", what="files"))
    assert matches(("problem:begins",), ProblemEvent(what="begins", subject="x"))
    assert is_event("worker:lost")
    assert not any(map(is_event, ("woker", "worker:gone", "worker:", 7, "change:events")))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("the key: 5f4dcc3b", "the key: *****"),
        ('{"password": "of two words", "user": "u"}', '{"password": *****, "user": "u"}'),
        ("API_TOKEN=abc moved", "API_TOKEN=***** moved"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer *****"),
        (f"joined with {'0a' * 16}.", "joined with *****."),
        ("10.9.9.9/24 is on this machine: the key is safe", "10.9.9.9/24 is on this machine: the key is safe"),
    ],
)
def test_what_looks_like_a_secret_is_not_logged(line: str, shown: str) -> None:
    assert without_secrets(line) == shown
