"""`clusterd history` and `clusterd events`: from the journal's file, whether a node runs or not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd.messages.journal import (
    AnyEvent,
    ChangeEvent,
    ElectionEvent,
    FileChange,
    GroupEvent,
    LeftOut,
    LoginEvent,
    LostEvents,
    ProblemEvent,
    ProcessEvent,
    RegistrationEvent,
    ReloadEvent,
    RequestEvent,
    SyncEvent,
    WorkerEvent,
)
from clusterd.rundir import journal_path
from clusterd.status.absence import not_running
from tests.monitor.written import NOW, write
from tools.cli import cluster, main
from tools.history_view import lines, parse_moment

EVERY_KIND: tuple[AnyEvent, ...] = (
    ChangeEvent(
        manifest="c0ffee123456",
        source="events",
        added=1,
        changed=1,
        files=(
            FileChange("etc/rules/local.xml", "changed", 1500, 2500, b"a" * 16, b"b" * 16),
            FileChange("etc/lists/new", "added", None, 3, None, b"c" * 16),
        ),
        seconds=0.012,
    ),
    SyncEvent(
        worker="w1",
        what="ahead",
        manifest="c0ffee123456",
        files=2,
        bytes=2503,
        seconds=0.3,
        result="partial",
        left_out=(LeftOut("etc/rules/local.xml", "it is a mount point"),),
    ),
    RegistrationEvent(what="added", agent="007", name="web", ip="any", through="w1"),
    GroupEvent(what="assigned", agent="007", group="dmz"),
    LoginEvent(user="ann", address="10.0.0.9"),
    RequestEvent(function="create_user", user="ann", through="worker w1", result="done", why="done"),
    WorkerEvent(worker="w1", what="lost", why="it said nothing for 12 s", address="10.0.0.1"),
    ProblemEvent(what="begins", subject="spool", text="The disk is full."),
    ProcessEvent(process="net", what="died", pid=7, why="by SIGKILL"),
    ReloadEvent(changed=("clusterd.limits",), needs_restart=("clusterd.api",)),
    ElectionEvent(what="stepped_down", term=7, leader="m2", why="the lease could not be renewed in time"),
    LostEvents(process="sync", count=3),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, EVERY_KIND)
    return tmp_path


def run(root: Path, *arguments: str) -> tuple[int, list[str], str]:
    done = CliRunner().invoke(cluster, ["--root", str(root), "history", *arguments], env={"TZ": "UTC"})
    return done.exit_code, done.stdout.splitlines(), done.stderr


def test_every_kind_has_a_line_for_a_person(root: Path) -> None:
    code, shown, said = run(root)
    assert (code, said) == (0, "")
    text = "\n".join(shown)
    for words in (
        "change        1 added, 1 changed (events, 12 ms, manifest c0ffee123456)",
        "~ etc/rules/local.xml  1.5 KiB to 2.4 KiB",
        "+ etc/lists/new  3 B",
        "sync          w1: PARTIAL 2 files, 2.4 KiB in 300 ms, sent ahead",
        "! etc/rules/local.xml: it is a mount point",
        "registration  agent 007 web (any) added through w1",
        "group         agent 007: assigned to dmz",
        "login         ann logged in from 10.0.0.9",
        "request       create_user asked by user ann through worker w1: done",
        "worker        w1 lost (10.0.0.1): it said nothing for 12 s",
        "problem       begins: The disk is full.",
        "process       net (pid 7) died: by SIGKILL",
        "reload        changed: clusterd.limits; waiting for a restart: clusterd.api",
        "election      stepped down, term 7, leader m2: the lease could not be renewed in time",
        "lost          3 events of sync could not be told",
    ):
        assert words in text
    assert next(line for line in shown if "died" in line).startswith("2027-01-15 ")


def test_lines_fit_the_terminal_and_text_of_others_cannot_control_it() -> None:
    event = {
        "at": "2027-01-15T08:00:00.000Z",
        "kind": "worker",
        "worker": "w\x1b[2J",
        "what": "lost",
        "address": "",
        "why": "x" * 200,
    }
    (line,) = lines(event, 80)
    assert (len(line), line[-1], "\x1b" in line) == (80, "…", False)
    assert len(lines(event, 0)[0]) > 200


def test_options_choose(root: Path) -> None:
    def seqs(*arguments: str) -> list[int]:
        code, shown, said = run(root, "--json", *arguments)
        assert code == 0, said
        return [json.loads(line)["seq"] for line in shown]

    assert seqs() == list(range(1, 13))
    assert seqs("--limit", "2") == [11, 12]
    assert seqs("--kind", "worker:lost", "--kind", "sync") == [2, 7]
    assert seqs("--node", "w1") == [2, 3, 7]
    assert seqs("--path", "etc/rules/*") == [1, 2]
    assert seqs("--since", "2027-01-15T08:00:10Z") == [10, 11, 12]
    assert seqs("--until", "2027-01-15T08:00:01.500Z") == [1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--kind", "woker"), "known: change, sync"),
        (("--kind", "worker:gone"), "known: worker:connected, worker:lost"),
        (("--since", "yesterday"), "give 90s, 10m, 2h or 3d ago"),
        (("--until", "1h", "-f"), "--until does not go with --follow"),
    ],
)
def test_mistake_names_what_is_known(root: Path, arguments: tuple[str, ...], text: str) -> None:
    code, _, said = run(root, *arguments)
    assert code == 2
    assert text in " ".join(said.split())


def test_json_is_json_whatever_the_encoding_of_the_terminal(tmp_path: Path) -> None:
    root = tmp_path / "m"
    write(root, [LoginEvent(user="Renée → Юля", address="10.0.0.9")])
    done = CliRunner(charset="koi8-r").invoke(cluster, ["--root", str(root), "history", "--json"])
    assert json.loads(done.output)["user"] == "Renée → Юля", done.output


def test_moments() -> None:
    assert parse_moment("90s", NOW) == NOW - 90
    assert parse_moment("1.5h", NOW) == NOW - 5400
    assert parse_moment("2d", NOW) == NOW - 172800
    assert parse_moment("2027-01-15T08:00:00Z", 0.0) == NOW
    for text in ("", "h", "-1h", "1w", "tomorrow", "²s", "١s"):
        assert parse_moment(text, NOW) is None


def test_an_empty_place_is_reported(tmp_path: Path, root: Path) -> None:
    assert run(root, "--kind", "worker:forgotten")[2] == "clusterd: nothing of that kind is in the journal\n"
    os.unlink(journal_path(str(root)))
    code, shown, said = run(root)
    assert (code, shown) == (0, [])
    assert said.startswith("clusterd: the journal is empty: ")
    code, _, said = run(tmp_path / "elsewhere")
    assert (code, "there is no node at " in said) == (4, True)


@pytest.mark.parametrize(("words", "code"), [((), 130), (("--follow",), 0)])
def test_interrupt_ends_what_goes_on_as_meant_and_a_search_as_interrupted(
    root: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.cli_history.JournalReader.latest", interrupted)
    monkeypatch.setattr("tools.cli_history.end_quietly", lambda: None)
    monkeypatch.setattr("sys.argv", ["clusterd", "--root", str(root), "history", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


def test_damaged_journal_is_one_line(root: Path) -> None:
    Path(journal_path(str(root))).write_bytes(b"no database" * 1000)
    code, _, said = run(root)
    assert (code, said.count("\n")) == (1, 1)
    assert "journal.db cannot be read" in said


class Follower:
    """`clusterd events` as a program."""

    def __init__(self, root: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tools.cli", "--root", str(root), "events", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.out = self.process.stdout

    def next_seq(self) -> int:
        return int(json.loads(self.out.readline())["seq"])

    def end(self) -> tuple[int, str]:
        code = self.process.wait(60)
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        self.process.stderr.close()
        self.out.close()
        return code, said


@pytest.mark.slow
def test_events_goes_on_when_the_journal_is_begun_anew_and_ends_clean_on_ctrl_c(root: Path) -> None:
    follower = Follower(root, "--since", "2027-01-15", "--kind", "worker", "--kind", "process")
    assert [follower.next_seq(), follower.next_seq()] == [7, 9]
    first = len(EVERY_KIND) + 1
    write(root, [WorkerEvent(worker="w1", what="back"), LoginEvent(user="x")], first=first)
    assert follower.next_seq() == first
    for path in Path(journal_path(str(root))).parent.glob("journal.db*"):
        path.unlink()
    write(root, [WorkerEvent(worker="w2", what="connected")], first=1)
    assert follower.next_seq() == 1
    follower.process.send_signal(signal.SIGINT)
    assert follower.end() == (0, nothing_comes(root))


@pytest.mark.slow
def test_events_ends_when_its_reader_has_gone_although_nothing_happens(root: Path) -> None:
    follower = Follower(root, "--since", "2027-01-15")
    follower.next_seq()
    follower.out.close()
    assert follower.end() == (0, nothing_comes(root))


def nothing_comes(root: Path) -> str:
    """Once `events` waited for a node that did not run, and said nothing."""
    return f"clusterd: {not_running(str(root))} Until then nothing comes.\n"


def test_journal_that_is_off_is_named(root: Path) -> None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/ossec.conf").write_text(
        "<ossec_config><cluster><name>x</name><node_name>m</node_name><node_type>master</node_type>"
        "<key>c98b62a9b6169ac5f67dae55ae4a9088</key><nodes><node>127.0.0.1</node></nodes></cluster></ossec_config>"
    )
    (root / "etc/cluster.json").write_text('{"clusterd": {"journal": {"enabled": false}}}')
    os.unlink(journal_path(str(root)))
    assert "the journal of this node is off: clusterd.journal.enabled" in run(root)[2]
