"""Links in a synchronised tree: the operator's own links are followed where the configuration allows it, no others."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clusterd.config.link_check import link_warnings
from clusterd.settings import DEFAULT_RULES
from hashing.apply import sweep_temporary
from hashing.atomic import FileOps, temporary_name
from hashing.compare import difference_to_wire
from hashing.digest_cache import NO_ROWS, SETTLE_NS, ShardRows, file_rows
from hashing.directories import Directories
from hashing.errors import FileVanished, UnsafePath
from hashing.links import Links
from hashing.live_manifest import LiveManifest
from hashing.manifest import build_manifest
from hashing.pack import pack_part
from hashing.package import FILE_SEP, METADATA_NAME
from hashing.rescan import rescan
from hashing.rules import ItemRule, Rules
from hashing.walk import ShardScan, Walk, scan_shard
from tests.hashing.packages import Receiver, build_as_stock, difference_of, save, split_as_stock, step

NOBODY = 65534


@pytest.fixture
def top() -> Iterator[Path]:
    """The path has no link on its way."""
    path = Path(tempfile.mkdtemp(prefix="clusterd-test-", dir=os.path.realpath("/tmp")))
    (path / "root/etc/rules").mkdir(parents=True)
    (path / "git/rules/deep").mkdir(parents=True)
    (path / "git/rules/a.xml").write_text("a")
    (path / "git/rules/deep/b.xml").write_text("b")
    (path / "secret").mkdir()
    (path / "secret/shadow").write_text("secret")
    yield path
    shutil.rmtree(path)


def allowing(*targets: Path) -> Rules:
    return msgspec.structs.replace(DEFAULT_RULES, link_targets=tuple(map(str, targets)))


def scan(top: Path, rules: Rules, previous: ShardRows = NO_ROWS, shard: int = 0, shards: int = 1) -> ShardScan:
    return scan_shard(str(top / "root"), rules, shard, shards, previous, started_ns=time.time_ns() + 10 * SETTLE_NS)


def found(scanned: ShardScan) -> set[str]:
    return {row.path for row in file_rows(scanned.rows)}


def whys(scanned: ShardScan) -> dict[str, str]:
    return {note.path: note.why for note in scanned.notes if note.why}


def link(top: Path, path: str, target: str | Path) -> Path:
    made = top / "root" / path
    made.parent.mkdir(parents=True, exist_ok=True)
    made.symlink_to(target)
    return made


# ---- a configured directory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [False, True])
def test_configured_directory_that_is_a_link_is_synchronised(top: Path, relative: bool) -> None:
    (top / "root/etc/rules").rmdir()
    link(top, "etc/rules", "../../git/rules" if relative else top / "git/rules")
    assert found(scan(top, DEFAULT_RULES)) == {"etc/rules/a.xml", "etc/rules/deep/b.xml"}
    both = [found(scan(top, DEFAULT_RULES, shard=shard, shards=2)) for shard in (0, 1)]
    assert both[0] | both[1] == {"etc/rules/a.xml", "etc/rules/deep/b.xml"}
    assert link_warnings(str(top / "root"), DEFAULT_RULES) == []


def test_directory_above_a_configured_one_may_be_a_link_too(top: Path) -> None:
    (top / "data/multigroups/x").mkdir(parents=True)
    (top / "data/multigroups/x/merged.mg").write_text("m")
    link(top, "var", top / "data")
    assert found(scan(top, DEFAULT_RULES)) == {"var/multigroups/x/merged.mg"}


def package(files: dict[str, bytes], extra: tuple[str, ...] = ()) -> bytes:
    difference = difference_of(files, extra=extra)
    metadata = difference_to_wire(difference.missing, difference.extra, difference.shared)
    return build_as_stock([*sorted(files.items()), (METADATA_NAME, metadata)])


def test_worker_writes_and_deletes_behind_a_linked_directory_and_nowhere_else(top: Path) -> None:
    (top / "root/etc/rules").rmdir()
    made = link(top, "etc/rules", top / "git/rules")
    (top / "spool").mkdir()
    files = {"etc/rules/new.xml": b"new", "etc/rules/deep/er/c.xml": b"c"}
    receiver = Receiver(top / "root", top / "spool", package(files, ("etc/rules/deep/b.xml", "etc/rules/a.xml")))
    _, _, applied = receiver.run()
    assert (applied.created, applied.removed) == (2, ["etc/rules/a.xml", "etc/rules/deep/b.xml"])
    assert made.is_symlink()
    assert (top / "git/rules/new.xml").read_bytes() == b"new"
    assert (top / "git/rules/deep/er/c.xml").read_bytes() == b"c"
    assert sorted(os.listdir(top / "git/rules")) == ["deep", "new.xml"]
    left = top / "git/rules" / temporary_name("new.xml", "plan1-0")
    left.write_text("x")
    assert sweep_temporary(str(top / "root"), DEFAULT_RULES, FileOps()) == 1
    assert not left.exists()


def test_link_to_nothing_is_no_empty_directory(top: Path) -> None:
    """While a disk is not mounted, nothing is deleted on the workers."""
    (top / "root/etc/rules").rmdir()
    link(top, "etc/rules", top / "git/rules")
    first = scan(top, DEFAULT_RULES)
    os.rename(top / "git", top / "away")
    second = scan(top, DEFAULT_RULES, first.rows)
    assert found(second) == found(first)
    assert whys(second) == {"etc/rules": "is a link to nothing"}
    assert "etc/rules is a link to nothing" in link_warnings(str(top / "root"), DEFAULT_RULES)[0]


# ---- below it --------------------------------------------------------------------------------------------------------


def test_links_below_are_followed_only_where_a_setting_allows_it(top: Path) -> None:
    link(top, "etc/rules/team", top / "git/rules")
    link(top, "etc/rules/one.xml", top / "git/rules/a.xml")
    refused = scan(top, DEFAULT_RULES)
    assert found(refused) == set()
    assert set(whys(refused)) == {"etc/rules/team", "etc/rules/one.xml"}
    warnings = link_warnings(str(top / "root"), DEFAULT_RULES)
    assert [line.partition(" ")[0] for line in warnings] == ["etc/rules/one.xml", "etc/rules/team"]
    assert all("clusterd.link_targets" in line for line in warnings)
    rules = allowing(top / "git")
    followed = {"etc/rules/team/a.xml", "etc/rules/team/deep/b.xml", "etc/rules/one.xml"}
    allowed = scan(top, rules)
    assert (found(allowed), whys(allowed)) == (followed, {})
    assert link_warnings(str(top / "root"), rules) == []
    # Known files are not read again, changed ones are; both shards together see all files.
    again = scan(top, rules, allowed.rows)
    assert (again.hashed, again.is_changed) == (0, False)
    (top / "git/rules/deep/b.xml").write_text("changed")
    assert scan(top, rules, again.rows).hashed == 1
    assert found(scan(top, rules, shard=0, shards=2)) | found(scan(top, rules, shard=1, shards=2)) == followed


def test_what_is_followed_is_packed(top: Path) -> None:
    link(top, "etc/rules/team", top / "git/rules")
    link(top, "etc/rules/one.xml", top / "git/rules/a.xml")
    (top / "spool").mkdir()
    files = {"etc/rules/team/a.xml": b"a", "etc/rules/team/deep/b.xml": b"b", "etc/rules/one.xml": b"a"}
    saved = save(top / "spool", difference_of(files))
    for rules, count in ((DEFAULT_RULES, 0), (allowing(top / "git"), 3)):
        part = pack_part(str(top / "root"), saved, 0, 3, 1 << 20, 1, str(top / "part"), False, step, rules=rules)
        assert len(part.entries) == count
    package = (top / "part").read_bytes()
    assert dict(split_as_stock(package.removesuffix(FILE_SEP))) == files


def test_events_behind_a_link_find_what_a_walk_finds(top: Path) -> None:
    rules = allowing(top / "git")
    link(top, "etc/rules/team", top / "git/rules")
    live = LiveManifest(build_manifest(file_rows(scan(top, rules).rows)))
    (top / "git/rules/a.xml").write_text("changed")
    (top / "git/rules/new.xml").write_text("new")
    (top / "git/rules/deep/b.xml").unlink()
    looked = rescan(str(top / "root"), rules, live, ["etc/rules/team"])
    assert "etc/rules/team/" in looked.again, "a link that is new is not watched"
    live.patch(looked.changes)
    assert live.root_digest == build_manifest(file_rows(scan(top, rules).rows)).root_digest
    assert "etc/rules/team/" in scan(top, rules).again
    (top / "root/etc/rules/team").unlink()
    live.patch(rescan(str(top / "root"), rules, live, ["etc/rules/team"]).changes)
    assert len(live) == 0


def test_link_to_a_directory_in_the_place_of_a_file_is_followed_at_once(top: Path) -> None:
    rules = allowing(top / "git")
    (top / "root/etc/rules/team").write_text("a file")
    before = scan(top, rules)
    (top / "root/etc/rules/team").unlink()
    link(top, "etc/rules/team", top / "git/rules")
    after = scan(top, rules, before.rows)
    assert found(after) == {"etc/rules/team/a.xml", "etc/rules/team/deep/b.xml"}
    assert whys(after) == {}


def test_worker_follows_an_allowed_link_and_refuses_another(top: Path) -> None:
    link(top, "etc/rules/team", top / "git/rules")
    link(top, "etc/rules/evil", top / "secret")
    (top / "spool").mkdir()
    receiver = Receiver(
        top / "root",
        top / "spool",
        package({"etc/rules/team/new.xml": b"n", "etc/rules/evil/new.xml": b"n"}, ("etc/rules/evil/shadow",)),
    )
    receiver.rules = allowing(top / "git")
    receiver.run()
    assert (top / "git/rules/new.xml").read_bytes() == b"n"
    assert os.listdir(top / "secret") == ["shadow"]


def directory(top: Path, rules: Rules, path: str) -> None:
    with Directories(str(top / "root"), rules=rules) as directories:
        directories.get(path)


HOLES = {
    "out of the allowed": ("etc/rules/x", "{top}/secret"),
    "upwards": ("etc/rules/x", "{top}/git/../secret"),
    "through an allowed link": ("etc/rules/x", "{top}/git/out"),
    "to the root": ("etc/rules/x", "/"),
    "a name that begins like it": ("etc/rules/x", "{top}/gitter"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_no_link_leads_out_of_what_is_allowed(top: Path, hole: str) -> None:
    path, target = HOLES[hole]
    (top / "git/out").symlink_to(top / "secret")
    (top / "gitter").mkdir()
    (top / "gitter/f").write_text("f")
    link(top, path, target.format(top=top))
    rules = allowing(top / "git")
    scanned = scan(top, rules)
    assert found(scanned) == set()
    assert "clusterd.link_targets" in whys(scanned)["etc/rules/x"]
    with pytest.raises(UnsafePath):
        directory(top, rules, "etc/rules/x")


def test_link_inside_what_is_allowed_that_leads_out_is_not_followed(top: Path) -> None:
    link(top, "etc/rules/team", top / "git/rules")
    (top / "git/rules/out").symlink_to(top / "secret")
    (top / "git/rules/file.xml").symlink_to(top / "secret/shadow")
    scanned = scan(top, allowing(top / "git"))
    assert found(scanned) == {"etc/rules/team/a.xml", "etc/rules/team/deep/b.xml"}
    assert set(whys(scanned)) == {"etc/rules/team/out", "etc/rules/team/file.xml"}


def test_loops_end(top: Path) -> None:
    link(top, "etc/rules/team", top / "git/rules")
    (top / "git/other").mkdir()
    (top / "git/rules/up").symlink_to(top / "git")
    (top / "git/rules/self").symlink_to(".")
    (top / "git/rules/other").symlink_to("../other")
    (top / "git/other/back").symlink_to(top / "git/rules")
    (top / "git/rules/never").symlink_to("never")
    scanned = scan(top, allowing(top / "git"))
    assert found(scanned) == {"etc/rules/team/a.xml", "etc/rules/team/deep/b.xml"}
    assert set(whys(scanned)) >= {"etc/rules/team/up", "etc/rules/team/self", "etc/rules/team/other/back"}


def test_what_an_allowed_link_led_to_and_is_away_stays_in_the_manifest(top: Path) -> None:
    rules = allowing(top / "git")
    link(top, "etc/rules/team", top / "git/rules")
    first = scan(top, rules)
    os.rename(top / "git", top / "away")
    second = scan(top, rules, first.rows)
    assert found(second) == found(first)
    assert "etc/rules/team/" in second.rows.unread


@pytest.mark.parametrize(
    ("paths", "directories"),
    [
        (["etc/rules/team"], []),
        (["etc/rules/team/a.xml"], []),
        (["etc/rules/team/deep"], []),
        (["etc/rules"], []),
        (["etc"], []),
        ([], ["etc/rules/team/deep"]),
        (["etc/rules/one.xml"], []),
        ([], ["etc/rules"]),
    ],
)
def test_events_find_nothing_gone_behind_a_link_whose_disk_is_away(
    top: Path, paths: list[str], directories: list[str]
) -> None:
    rules = allowing(top / "git")
    made = link(top, "etc/rules/team", top / "git/rules")
    link(top, "etc/rules/one.xml", top / "git/rules/a.xml")
    live = LiveManifest(build_manifest(file_rows(scan(top, rules).rows)))
    os.rename(top / "git", top / "away")
    looked = rescan(str(top / "root"), rules, live, paths, directories)
    assert looked.changes == {}
    assert looked.unread <= {"etc/rules/team/", "etc/rules/one.xml"}
    assert looked.unread
    live.mark(looked.unread, set(), set())
    made.unlink()
    after = rescan(str(top / "root"), rules, live, ["etc/rules/team"])
    assert set(after.changes) == {"etc/rules/team/a.xml", "etc/rules/team/deep/b.xml"}
    assert "etc/rules/team/" not in after.unread


def test_link_to_a_file_of_a_disk_that_is_away_keeps_its_row(top: Path) -> None:
    rules = allowing(top / "git")
    link(top, "etc/rules/one.xml", top / "git/rules/a.xml")
    first = scan(top, rules)
    os.rename(top / "git", top / "away")
    second = scan(top, rules, first.rows)
    assert found(second) == found(first) == {"etc/rules/one.xml"}
    assert second.rows.unread == ["etc/rules/one.xml"]


def test_disk_that_disappears_during_a_walk_deletes_no_files(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = allowing(top / "git")
    link(top, "etc/rules/team", top / "git/rules")
    first = scan(top, rules)
    true_enter = Walk.enter

    def enter(self: Walk, item: ItemRule, path: str, parent_fd: int, name: str) -> int | None:
        if name == "team":
            os.rename(top / "git", top / "away")
        return true_enter(self, item, path, parent_fd, name)

    monkeypatch.setattr(Walk, "enter", enter)
    assert found(scan(top, rules, first.rows)) == found(first)


def test_files_of_a_disk_that_is_away_are_not_taken_for_deleted_ones_when_packed(top: Path) -> None:
    rules = allowing(top / "git")
    link(top, "etc/rules/team", top / "git/rules")
    (top / "spool").mkdir()
    saved = save(top / "spool", difference_of({"etc/rules/team/a.xml": b"a"}))
    os.rename(top / "git", top / "away")
    part = pack_part(str(top / "root"), saved, 0, 1, 1 << 20, 1, str(top / "part"), False, step, rules=rules)
    assert (part.vanished, part.dropped) == ([], [0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs links of another user")
@pytest.mark.parametrize("path", ["etc/rules", "etc/lists/team", "etc/lists/a.xml"])
def test_link_that_another_user_has_made_is_followed_nowhere(top: Path, path: str) -> None:
    if path == "etc/rules":
        (top / "root/etc/rules").rmdir()
    made = link(top, path, top / ("git/rules/a.xml" if path.endswith(".xml") else "git/rules"))
    rules = allowing(top / "git")
    assert len(found(scan(top, rules))) > 0
    os.chown(made, NOBODY, NOBODY, follow_symlinks=False)
    assert found(scan(top, rules)) == set()
    [line] = link_warnings(str(top / "root"), rules)
    assert "another user" in line
    assert link_warnings(str(top / "root"), rules, [NOBODY]) == []
    # This holds also for a link on the way to the target of an own link.
    os.chown(made, 0, 0, follow_symlinks=False)
    os.rename(top / "git", top / "real")
    (top / "git").symlink_to(top / "real")
    rules = allowing(top / "real")
    assert len(found(scan(top, rules))) > 0
    os.chown(top / "git", NOBODY, NOBODY, follow_symlinks=False)
    assert found(scan(top, rules)) == set()


def test_link_that_is_swapped_while_it_is_opened_leads_nowhere_else(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every system call the link, or the directory behind it, becomes a link to secret files."""
    rules = allowing(top / "git")
    made = link(top, "etc/rules/team", top / "git/rules")
    secret = os.stat(top / "secret").st_ino
    real_open, real_readlink = os.open, os.readlink
    swapped = False
    for at in range(40):
        for which in (made, top / "git/rules"):
            calls = 0
            swapped = False

            def swap(which: Path = which, at: int = at) -> None:
                nonlocal calls, swapped
                calls += 1
                if calls == at and not swapped:
                    swapped = True
                    os.rename(which, top / "kept")
                    which.symlink_to(top / "secret")

            def opening(*arguments: object, **more: object) -> int:
                swap()
                return real_open(*arguments, **more)  # type: ignore[arg-type]

            def reading(*arguments: object, **more: object) -> str:
                swap()
                return real_readlink(*arguments, **more)  # type: ignore[arg-type, return-value]

            root_fd = real_open(top / "root", os.O_RDONLY)
            links = Links(str(top / "root"), rules)
            monkeypatch.setattr(os, "open", opening)
            monkeypatch.setattr(os, "readlink", reading)
            try:
                fd = links.directory(root_fd, "etc/rules/team")
            except (UnsafePath, FileVanished, OSError):
                pass
            else:
                assert os.fstat(fd).st_ino != secret
                os.close(fd)
            finally:
                monkeypatch.undo()
                os.close(root_fd)
                if swapped:
                    which.unlink()
                    os.rename(top / "kept", which)
    assert not swapped  # the last rounds had more calls than there are
