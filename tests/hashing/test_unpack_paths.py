"""No path and no link of a received package leads out of the synchronised directories."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from hashing.directories import Directories
from hashing.package import METADATA_NAME
from hashing.plan import Written
from hashing.rules import MAX_DEPTH
from tests.hashing.packages import Receiver, build_as_stock, read_tree, wire_of, write_tree
from tests.hashing.received import metadata, package_of, reasons

BAD_PATHS = [
    "../outside",
    "etc/rules/../../../outside",
    "/etc/passwd",
    "etc/rules//a",
    "etc/rules/./a",
    "etc/rules/a\0b",
    "etc/rules/" + "n" * 256,
    "etc/rules/" + "d/" * 2100 + "x",
    "etc/ossec.conf",
    "etc/shared/ar.conf",
    "etc/rules/a.tmp",
    "etc/rules/backup~",
    "etc/shared/x/ossec.conf",
    "var/multigroups/x/other",
    "queue/cluster/.clusterd/spool/x",
    "queue/cluster/other/x.zip",
    "etc/sslmanager.key",
    "etc/rules/.clusterd-0123456789abcdef.tmp",
    "etc/rules",
    "etc/rules/",
    "",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=[str(number) for number in range(len(BAD_PATHS))])
@pytest.mark.parametrize("item", ["etc/", "etc/rules/", "etc/shared/", "queue/"])
def test_no_path_leads_out_of_what_is_synchronised(path: str, item: str, root: Path, spool: Path) -> None:
    write_tree(root, {"etc/ossec.conf": b"ours", "etc/shared/ar.conf": b"ours", "etc/rules/ok": b"old"})
    write_tree(root.parent, {"outside": b"ours"})
    before = read_tree(root.parent)
    meta = wire_of(path, b"evil", item)
    entries = {path: b"evil"} if len(path) <= 4096 and path else {}
    good = {"etc/rules/ok": wire_of("etc/rules/ok", b"new")}
    package = build_as_stock([*entries.items(), ("etc/rules/ok", b"new"), metadata({path: meta}, good)])
    opened, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root.parent) == before | {"root/etc/rules/ok": b"new"}
    assert applied.create_errors == 1
    assert opened.refused[0].level == "ERROR"
    # The same path as one to delete
    package = build_as_stock(
        [
            (
                METADATA_NAME,
                json.dumps({"missing": {}, "shared": {}, "extra": {path: msgspec.to_builtins(meta)}}).encode(),
            )
        ]
    )
    _, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root.parent) == before | {"root/etc/rules/ok": b"new"}
    assert (applied.deleted, applied.remove_errors) == (0, 1)


def test_path_of_thousands_of_directories_is_refused_at_once(root: Path, spool: Path) -> None:
    path = "etc/rules/" + "d/" * 2000 + "x"
    package = package_of({path: b"deep", "etc/rules/" + "d/" * (MAX_DEPTH - 2) + "x": b"deep enough"})
    opened, _, applied = Receiver(root, spool, package).run()
    assert reasons(opened.refused) == {path: f"is more than {MAX_DEPTH} directories deep"}
    assert (applied.created, applied.create_errors) == (1, 1)
    assert list(read_tree(root).values()) == [b"deep enough"]


@pytest.mark.slow
def test_directories_on_the_way_are_made_without_a_call_for_each(root: Path) -> None:
    path = "/".join("d" * 1100)
    with Directories(str(root)) as directories:
        assert directories.make(path) == directories.get(path)
    while path:  # pytest would remove it by recursion
        (root / path).rmdir()
        path = path.rpartition("/")[0]


def test_path_of_another_item_is_refused(root: Path, spool: Path) -> None:
    meta = {"etc/client.keys": wire_of("etc/client.keys", b"k", "etc/shared/")}
    opened, _, _ = Receiver(root, spool, build_as_stock([("etc/client.keys", b"k"), metadata(meta)])).run()
    assert reasons(opened.refused) == {"etc/client.keys": "is not in etc/shared/"}
    assert read_tree(root) == {}


def make_foreign(link: Path) -> None:
    """A configured directory that is a link of the operator is followed; a link of another user is not."""
    if os.geteuid() != 0:
        pytest.skip("needs a link of another user")
    os.chown(link, 65534, 65534, follow_symlinks=False)


@pytest.mark.parametrize("link", ["etc", "etc/rules", "etc/rules/sub"])
def test_nothing_is_written_or_deleted_through_a_linked_directory(link: str, root: Path, spool: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    write_tree(elsewhere, {"a": b"ours", "sub/a": b"ours", "rules/sub/a": b"ours"})
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(elsewhere)
    if link != "etc/rules/sub":
        make_foreign(root / link)
    before = read_tree(elsewhere)
    path = "etc/rules/sub/a"
    new = "etc/rules/sub/new"
    entries = [(new, b"evil"), metadata({new: wire_of(new, b"evil")}, {}, [path])]
    opened, _, applied = Receiver(root, spool, build_as_stock(entries)).run()
    assert read_tree(elsewhere) == before
    assert (applied.created, applied.create_errors, applied.deleted, applied.remove_errors) == (0, 1, 0, 1)
    assert "is a link" in reasons(opened.refused)[new]


def test_directory_that_becomes_a_link_after_opening_is_not_followed(root: Path, spool: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / "etc/rules").mkdir(parents=True)
    receiver = Receiver(root, spool, package_of({"etc/rules/a": b"evil"}))
    receiver.open()
    (root / "etc/rules").rmdir()
    (root / "etc/rules").symlink_to(elsewhere)
    make_foreign(root / "etc/rules")
    unpacked = receiver.unpack(0)
    assert unpacked.written == []
    assert "is a link" in unpacked.notes[0].why
    assert receiver.apply([[Written("etc/rules/a")]]).created == 0
    assert os.listdir(elsewhere) == []


def test_link_in_the_place_of_a_file_is_replaced_not_followed(root: Path, spool: Path) -> None:
    write_tree(root.parent, {"outside": b"ours"})
    (root / "etc/rules").mkdir(parents=True)
    (root / "etc/rules/a").symlink_to(root.parent / "outside")
    Receiver(root, spool, package_of({"etc/rules/a": b"new"})).run()
    assert (root.parent / "outside").read_bytes() == b"ours"
    assert not (root / "etc/rules/a").is_symlink()
    assert (root / "etc/rules/a").read_bytes() == b"new"


def test_members_that_collide_are_refused_and_the_others_land(root: Path, spool: Path) -> None:
    files = {"etc/rules/a": b"file", "etc/rules/a/b/c": b"below", "etc/rules/d": b"d", "etc/rules/e": b"e"}
    missing = {path: wire_of(path, files[path]) for path in ("etc/rules/a", "etc/rules/a/b/c", "etc/rules/d")}
    shared = {path: wire_of(path, files[path]) for path in ("etc/rules/d", "etc/rules/e")}
    package = build_as_stock([*files.items(), metadata(missing, shared, ["etc/rules/e"])])
    opened, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root) == {"etc/rules/a": b"file", "etc/rules/d": b"d", "etc/rules/e": b"e"}
    assert sorted(note.path for note in opened.refused) == ["etc/rules/a/b/c", "etc/rules/d", "etc/rules/e"]
    assert (applied.create_errors, applied.overwrite_errors, applied.remove_errors) == (1, 1, 1)


def test_parts_go_nowhere_but_to_their_directory(root: Path, spool: Path) -> None:
    """Paths that claim to be parts are accepted only next to a merged file, and only in queue/TYPE."""
    write_tree(root, {"queue/db/.clusterd-x.tmp": b"", "etc/lists/a": b"a"})
    receiver = Receiver(root, spool, package_of({"etc/lists/b": b"b"}))
    receiver.open()
    written = receiver.unpack(0).written
    receiver.apply([[Written("queue/TYPE/x"), Written("queue/db/x"), *written]])
    assert sorted(read_tree(root)) == ["etc/lists/a", "etc/lists/b", "queue/db/.clusterd-x.tmp"]
