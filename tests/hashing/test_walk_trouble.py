"""Files and directories that cannot be read, or that change or vanish during the scan: they are named, and keep their
earlier rows."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.digest import BUFFER_BYTES, Buffer
from hashing.digest_cache import NO_ROWS, SETTLE_NS, ShardRows, file_rows, read_file
from hashing.notes import MAX_NOTES
from hashing.walk import ShardScan, scan_shard

NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A tree that another user can reach: only their owner can enter pytest's own directories."""
    path = Path(tempfile.mkdtemp(prefix="clusterd-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads everything, so the process becomes another user for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def write(root: Path, path: str, content: bytes = b"x") -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def scan(root: Path, previous: ShardRows = NO_ROWS, *, on_step: Callable[[], None] | None = None) -> ShardScan:
    started_ns = time.time_ns() + 10 * SETTLE_NS
    return scan_shard(str(root), DEFAULT_RULES, 0, 1, previous, started_ns=started_ns, on_step=on_step)


def digests(found: ShardScan) -> dict[str, bytes]:
    return {row.path: row.digest for row in file_rows(found.rows)}


def test_unreadable_file_keeps_its_row_and_is_named_until_it_can_be_read(root: Path) -> None:
    path = write(root, "etc/rules/a", b"old")
    write(root, "etc/rules/b")
    first = scan(root)
    path.write_bytes(b"new")
    path.chmod(0)
    with as_nobody():
        second = scan(root, first.rows)
        third = scan(root, second.rows)
    assert digests(second) == digests(third) == digests(first)
    assert third.is_changed is False
    for found in (second, third):
        [note] = found.notes
        assert (note.level, note.path, note.why) == ("ERROR", "etc/rules/a", "Permission denied")
        assert note.text == (
            f"Can't read metadata from file etc/rules/a: [Errno 13] Permission denied: '{root}/etc/rules/a'"
        )
        assert found.rows.unread == ["etc/rules/a"]
    path.chmod(0o644)
    healed = scan(root, third.rows)
    assert digests(healed)["etc/rules/a"] == blake2b(b"new").digest()
    assert (healed.notes, healed.rows.unread) == ([], [])


def test_file_that_could_never_be_read_has_no_row_but_is_not_deleted_elsewhere(root: Path) -> None:
    write(root, "etc/rules/a").chmod(0)
    with as_nobody():
        found = scan(root)
    assert digests(found) == {}
    assert found.rows.unread == ["etc/rules/a"]


def test_unreadable_directory_keeps_all_rows_below_it(root: Path) -> None:
    """The stock scan skips it without a word, and every worker deletes its copy (C8)."""
    for path in ("etc/rules/a", "etc/rules/sub/b", "etc/rules/sub/deep/c", "etc/rules/subx/d"):
        write(root, path)
    first = scan(root)
    (root / "etc/rules/sub").chmod(0)
    with as_nobody():
        second = scan(root, first.rows)
        third = scan(root, second.rows)
    (root / "etc/rules/sub").chmod(0o755)
    assert digests(second) == digests(third) == digests(first)
    assert second.rows.unread == ["etc/rules/sub/"]
    [note] = second.notes
    assert (note.level, note.path) == ("WARNING", "etc/rules/sub")
    assert note.text == (f"Error getting file status: [Errno 13] Permission denied: '{root}/etc/rules/sub'.")
    assert third.is_changed is False
    (root / "etc/rules/sub/b").unlink()
    healed = scan(root, third.rows)
    assert sorted(digests(healed)) == ["etc/rules/a", "etc/rules/sub/deep/c", "etc/rules/subx/d"]
    assert healed.rows.unread == []


def test_unreadable_item_directory_keeps_its_rows(root: Path) -> None:
    write(root, "etc/rules/a")
    write(root, "etc/lists/b")
    first = scan(root)
    (root / "etc/rules").chmod(0)
    with as_nobody():
        second = scan(root, first.rows)
    (root / "etc/rules").chmod(0o755)
    assert digests(second) == digests(first)
    assert second.rows.unread == ["etc/rules/"]


def test_thousand_unreadable_files_do_not_make_a_thousand_notes(root: Path) -> None:
    for number in range(MAX_NOTES + 50):
        write(root, f"etc/rules/{number}").chmod(0)
    with as_nobody():
        found = scan(root)
    assert len(found.notes) == MAX_NOTES + 1
    assert len(found.rows.unread) == MAX_NOTES + 50


def test_file_that_vanishes_during_the_scan_is_logged_in_the_stock_words(root: Path) -> None:
    for number in range(40):
        write(root, f"etc/rules/{number:02}")
    steps: list[int] = []

    def vanish() -> None:
        steps.append(1)
        if len(steps) == 4:  # after two directories and file 0: names have been listed, sixteen files read
            for path in (root / "etc/rules").iterdir():
                path.unlink()

    found = scan(root, on_step=vanish)
    assert len(steps) >= 4
    assert 0 < len(digests(found)) < 40
    assert {note.level for note in found.notes} == {"DEBUG"}
    name = found.notes[0].path
    assert found.notes[0].text == (
        f"File {name} was deleted in previous iteration: [Errno 2] No such file or directory: '{root}/{name}'"
    )
    assert digests(scan(root, found.rows)) == {}


def test_file_that_changes_while_it_is_read_is_read_once_more(root: Path) -> None:
    path = write(root, "etc/lists/a", bytes(2 * BUFFER_BYTES))
    seen: list[int] = []

    def change_once() -> None:
        if not seen:
            path.write_bytes(b"y" * 2 * BUFFER_BYTES)
        seen.append(1)

    fd = os.open(path, os.O_RDONLY)
    try:
        file = read_file("a", fd, Buffer(), time.time_ns() + 10 * SETTLE_NS, change_once)
    finally:
        os.close(fd)
    assert file is not None
    assert len(seen) == 4, "two full buffers, read twice"
    assert file.digest == blake2b(b"y" * 2 * BUFFER_BYTES).digest()


def test_file_that_keeps_changing_is_not_taken_as_settled(root: Path) -> None:
    path = write(root, "etc/lists/a", bytes(BUFFER_BYTES))

    def change() -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    fd = os.open(path, os.O_RDONLY)
    try:
        file = read_file("a", fd, Buffer(), time.time_ns() + 10 * SETTLE_NS, change)
    finally:
        os.close(fd)
    assert file is not None
    assert not file.settled
    assert file.size == BUFFER_BYTES + 8
    assert file.digest == blake2b(bytes(BUFFER_BYTES) + b"moremore").digest()


def test_special_file_in_the_place_of_a_listed_one_is_no_file(root: Path) -> None:
    os.mkfifo(root / "fifo")
    fd = os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert read_file("fifo", fd, Buffer(), time.time_ns(), lambda: None) is None
    finally:
        os.close(fd)


def test_scan_leaves_no_descriptor_open(root: Path) -> None:
    for path in ("etc/rules/a", "etc/rules/sub/b", "etc/lists/c"):
        write(root, path)
    (root / "etc/rules/link").symlink_to("a")
    (root / "etc/rules/out").symlink_to("../lists/c")
    (root / "etc/shared").symlink_to("lists")
    (root / "etc/rules/closed").mkdir(mode=0)
    write(root, "etc/rules/unreadable").chmod(0)
    before = sorted(os.listdir("/proc/self/fd"))
    with as_nobody():
        first = scan(root)
        scan(root, first.rows)
    assert sorted(os.listdir("/proc/self/fd")) == before
