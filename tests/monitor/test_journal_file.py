"""The journal's file: bounded, readable while it is written, begun again when it is damaged."""

import itertools
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clusterd.messages.journal import AnyEvent, ChangeEvent, FileChange, LeftOut, LoginEvent, SyncEvent, WorkerEvent
from clusterd.monitor.feed import EventFeed, Heard
from clusterd.monitor.journal_file import JournalFile, JournalRow
from clusterd.monitor.journal_reader import Filter, JournalReader, JournalUnreadable


def heard(*events: AnyEvent, first: int = 1, at: float = 1_800_000_000.0) -> list[Heard]:
    """Returns the events as the feed of node m numbers them, a second apart."""
    found: list[Heard] = []
    feed = EventFeed("m", first)
    feed.subscribe(found.extend)
    feed.hear([(at + number, event) for number, event in enumerate(events)])
    return found


def write(path: Path, *events: AnyEvent, first: int = 1) -> JournalFile:
    file = JournalFile(str(path))
    assert file.open() == ""
    file.write([one.row() for one in heard(*events, first=first)])
    return file


def row(seq: int, at_ms: int = 0, size: int = 100) -> JournalRow:
    return JournalRow(seq, at_ms, "login", "ok", json.dumps({"seq": seq, "user": "x" * size}))


EVENTS = (
    ChangeEvent(
        manifest="abc",
        source="events",
        changed=2,
        files=(
            FileChange("etc/rules/local.xml", "changed", 5, 7, b"\x01" * 16, b"\x02" * 16),
            FileChange("etc/lists/a", "added", None, 1, None, b"\x03" * 16),
        ),
    ),
    SyncEvent(worker="w1", what="files", result="partial", left_out=(LeftOut("etc/rules/local.xml", "it is mounted"),)),
    WorkerEvent(worker="w1", what="lost"),
    LoginEvent(user="wazuh", through="w2", result="refused"),
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    write(tmp_path / "journal.db", *EVENTS).close()
    return tmp_path / "journal.db"


def kinds(events: list[dict[str, object]]) -> list[object]:
    return [event["kind"] for event in events]


def test_event_is_one_flat_object(journal: Path) -> None:
    change = JournalReader(str(journal)).following()[0]
    assert {key: change[key] for key in ("seq", "at", "node", "kind", "manifest", "source", "changed", "part")} == {
        "seq": 1,
        "at": "2027-01-15T08:00:00.000Z",
        "node": "m",
        "kind": "change",
        "manifest": "abc",
        "source": "events",
        "changed": 2,
        "part": 1,
    }
    assert change["files"][1] == {
        "path": "etc/lists/a",
        "what": "added",
        "size_before": None,
        "size": 1,
        "digest_before": None,
        "digest": "03" * 16,
    }


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["login", "worker", "sync", "change"]),
        (Filter(after=2), ["login", "worker"]),
        (Filter(kinds=("worker:lost", "change")), ["worker", "change"]),
        (Filter(kinds=("worker:back",)), []),
        (Filter(node="w1"), ["worker", "sync"]),
        (Filter(node="w2"), ["login"]),
        (Filter(node="m"), ["change"]),
        (Filter(path="etc/rules/*.xml"), ["sync", "change"]),
        (Filter(path="*/a"), ["change"]),
        (Filter(path="*rules*local.x?l"), ["sync", "change"]),
        (Filter(path="etc/[kl]ists/?"), ["change"]),
        (Filter(path="*rules*local.y*"), []),
        (Filter(since=1_800_000_002.0), ["login", "worker"]),
        (Filter(until=1_800_000_000.5), ["change"]),
    ],
    ids=str,
)
def test_filter(journal: Path, wanted: Filter, found: list[str]) -> None:
    assert kinds(JournalReader(str(journal)).latest(wanted)) == found


def test_only_matching_files_of_a_change_are_shown(journal: Path) -> None:
    (change,) = JournalReader(str(journal)).latest(Filter(path="*.xml", kinds=("change",)))
    assert [file["path"] for file in change["files"]] == ["etc/rules/local.xml"]


def test_limit_takes_the_newest_or_for_a_follower_the_oldest(journal: Path) -> None:
    reader = JournalReader(str(journal))
    assert kinds(reader.latest(limit=1)) == ["login"]
    assert kinds(reader.following(limit=1)) == ["change"]
    assert reader.last_seq() == 4


@pytest.mark.parametrize("path", ["", "etc/*"])
def test_answer_is_bounded_in_bytes_and_the_next_one_goes_on(tmp_path: Path, path: str) -> None:
    files = tuple(FileChange(f"etc/rules/{n:0200}.xml", "added", None, 1, None, b"x" * 16) for n in range(100))
    change = ChangeEvent(manifest="a" * 12, source="scan", added=100, files=files)
    write(tmp_path / "journal.db", *[change] * 10).close()
    reader = JournalReader(str(tmp_path / "journal.db"), 60_000)
    assert [event["seq"] for event in reader.latest(Filter(path=path))] == [10, 9]
    assert [event["seq"] for event in reader.latest(Filter(path=path, before=9))] == [8, 7]
    assert len(JournalReader(str(tmp_path / "journal.db"), 1).following()) == 1
    assert len(JournalReader(str(tmp_path / "journal.db")).following()) == 10


@pytest.mark.parametrize(
    "wanted",
    [Filter(path="etc/none/*"), Filter(path="*none*"), Filter(node="nobody"), Filter(kinds=("login:limited",))],
)
def test_search_that_finds_nothing_is_bounded_in_time_and_the_next_one_goes_on(tmp_path: Path, wanted: Filter) -> None:
    change = ChangeEvent(manifest="a", source="scan", files=(FileChange("etc/a", "added", None, 1, None, b"x"),))
    write(tmp_path / "journal.db", *[change, LoginEvent(user="a")] * 50).close()
    ticks = itertools.count()
    reader = JournalReader(str(tmp_path / "journal.db"), most_s=20.0, clock=lambda: float(next(ticks)))
    page = reader.latest_page(wanted, 10)
    assert (page.events, page.stopped_at is not None) == ([], True)
    for _ in range(10):
        if page.stopped_at is not None:
            page = reader.latest_page(msgspec.structs.replace(wanted, before=page.stopped_at), 10)
    assert page.stopped_at is None
    assert next(ticks) <= 120, "no event is read twice"


def test_search_that_ran_out_of_time_has_what_it_found_by_then(tmp_path: Path) -> None:
    events = [LoginEvent(user="a") if number % 40 else WorkerEvent(worker="w", what="lost") for number in range(100)]
    write(tmp_path / "journal.db", *events).close()
    ticks = itertools.count()
    reader = JournalReader(str(tmp_path / "journal.db"), most_s=20.0, clock=lambda: float(next(ticks)))
    found, before = [], 0
    while before is not None:
        page = reader.latest_page(Filter(node="w", before=before), 10)
        found += [event["seq"] for event in page.events]
        before = page.stopped_at
    assert found == [81, 41, 1]


def test_kinds_are_read_together_in_their_order(tmp_path: Path) -> None:
    one_of_each = [WorkerEvent(worker="w", what="lost"), LoginEvent(user="a"), SyncEvent(worker="w", what="files")]
    write(tmp_path / "journal.db", *one_of_each * 3).close()
    reader = JournalReader(str(tmp_path / "journal.db"))
    wanted = Filter(kinds=("worker:lost", "sync"))
    assert [event["seq"] for event in reader.latest(wanted)] == [9, 7, 6, 4, 3, 1]
    assert [event["seq"] for event in reader.following(wanted, 4)] == [1, 3, 4, 6]
    assert [event["seq"] for event in reader.latest(msgspec.structs.replace(wanted, since=1_800_000_005.0))] == [
        9,
        7,
        6,
    ]
    assert [event["seq"] for event in reader.latest(msgspec.structs.replace(wanted, until=1_800_000_002.5))] == [3, 1]
    assert reader.latest(msgspec.structs.replace(wanted, since=1_900_000_000.0)) == []
    assert reader.latest(msgspec.structs.replace(wanted, until=1.0)) == []
    assert reader.latest(Filter(kinds=("login",), path="*")) == []


def test_journal_is_read_while_it_is_open_and_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    file = write(path, WorkerEvent(worker="w1", what="lost"))
    try:
        reader = JournalReader(str(path))
        assert reader.last_seq() == 1
        file.write([one.row() for one in heard(WorkerEvent(worker="w1", what="back"), first=2)])
        assert reader.last_seq() == 2
    finally:
        file.close()
    assert os.listdir(tmp_path) == ["journal.db"]


def test_batch_that_comes_twice_is_there_once(tmp_path: Path) -> None:
    file = write(tmp_path / "journal.db")
    file.write([row(1), row(2)])
    file.write([row(1), row(2), row(3)])
    assert (file.rows, file.last_seq()) == (3, 3)
    file.close()


def test_reader_makes_no_file_and_owner_and_group_alone_may_read(journal: Path) -> None:
    JournalReader(str(journal)).latest()
    assert os.listdir(journal.parent) == ["journal.db"]
    assert stat.S_IMODE(journal.stat().st_mode) == 0o640


def test_where_nothing_was_ever_written_there_is_nothing(tmp_path: Path) -> None:
    assert JournalReader(str(tmp_path / "none.db")).latest() == []
    (tmp_path / "empty.db").touch()
    assert JournalReader(str(tmp_path / "empty.db")).latest() == []


def test_what_is_older_than_the_days_goes_in_steps(tmp_path: Path) -> None:
    file = write(tmp_path / "journal.db")
    file.write([row(seq, at_ms=seq) for seq in range(1, 3001)])
    steps = 1
    while file.prune(2900, 1 << 30):
        steps += 1
    assert 1 < steps < 10
    assert JournalReader(str(tmp_path / "journal.db")).following(limit=1)[0]["seq"] == 2900
    assert file.rows == 101
    file.close()


def test_file_stays_below_its_size_and_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    file = write(path)
    for number in range(8):
        file.write([row(number * 100 + one, size=5000) for one in range(100)])
        while file.prune(0, 2 << 20):
            continue
        assert file.used_bytes <= 2 << 20
    assert 200 <= file.rows <= 400
    while file.prune(0, 1 << 20):
        continue
    file.close()
    assert path.stat().st_size <= 1 << 20
    assert JournalReader(str(path)).last_seq() == 799


@pytest.mark.parametrize("damage", [b"no database at all" * 500, None], ids=["no database", "damaged pages"])
def test_damaged_file_is_kept_aside_and_a_new_one_begun(journal: Path, damage: bytes | None) -> None:
    content = journal.read_bytes()
    journal.write_bytes(damage or content[:100] + b"\xff" * (len(content) - 100))
    file = JournalFile(str(journal))
    said = file.open()
    assert "damaged" in said
    assert "journal.db.damaged" in said
    file.write([row(7)])
    file.close()
    assert JournalReader(str(journal)).last_seq() == 7
    assert sorted(os.listdir(journal.parent)) == ["journal.db", "journal.db.damaged"]


def test_file_of_another_schema_is_set_aside(journal: Path) -> None:
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    file = JournalFile(str(journal))
    assert "version 99" in file.open()
    file.close()


def test_damage_is_reported_to_a_reader_in_one_line(journal: Path) -> None:
    journal.write_bytes(b"no database at all" * 500)
    with pytest.raises(JournalUnreadable, match=r"journal\.db cannot be read: file is not a database"):
        JournalReader(str(journal)).latest()


def test_writer_that_was_killed_leaves_what_it_has_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    code = (
        "import os, sys; from clusterd.monitor.journal_file import *; f = JournalFile(sys.argv[1]); f.open();"
        "f.write([JournalRow(n, 0, 'login', 'ok', '{\"seq\": %d}' % n) for n in range(1, 11)]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert JournalReader(str(path)).last_seq() == 10
    file = JournalFile(str(path))
    assert file.open() == ""
    assert (file.last_seq(), file.rows) == (10, 10)
    file.close()


@pytest.mark.parametrize("end", [JournalFile.close, JournalFile.give_up], ids=["closed", "given up"])
def test_log_of_a_file_that_was_replaced_is_not_read_into_the_new_one(
    tmp_path: Path, end: Callable[[JournalFile], None]
) -> None:
    """It is closed when nothing happens for a while, and when the process ends."""
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    write(other, LoginEvent(user="theirs", result="ok")).close()
    file = write(path, LoginEvent(user="ours", result="ok"))
    other.replace(path)
    end(file)
    assert [event["user"] for event in JournalReader(str(path)).following()] == ["theirs"]
    assert "replaced" in file.open()
    assert (file.last_seq(), file.rows) == (1, 1)
    file.close()
    assert file.open() == ""
    file.close()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_file_that_another_program_moves_is_let_go_of(tmp_path: Path, is_replaced: bool) -> None:
    """What is written goes where readers look, and the journal of the old file is not mixed with the new one."""
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    write(other, LoginEvent(user="theirs", result="ok")).close()
    file = write(path, LoginEvent(user="before", result="ok"))
    path.unlink()
    if is_replaced:
        other.replace(path)
    assert ("replaced" if is_replaced else "removed") in file.open()
    file.write([one.row() for one in heard(LoginEvent(user="behind", result="ok"), first=2)])
    assert file.open() == ""
    file.close()
    found = [event["user"] for event in JournalReader(str(path)).following()]
    assert found == (["theirs", "behind"] if is_replaced else ["behind"])
