"""Packages that overlap, and files that are changed between verification and renaming: exactly what was verified is
renamed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hashing.atomic import is_temporary
from hashing.package import FILE_SEP
from tests.hashing.packages import Receiver, build_as_stock, build_merged, read_tree
from tests.hashing.received import merged_meta, metadata, package_of, reasons


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def receiver(root: Path, files: dict[str, bytes]) -> Receiver:
    number = sum(1 for _ in root.parent.iterdir())
    spool = root.parent / f"spool-{number}"
    spool.mkdir()
    found = Receiver(root, spool, package_of(files))
    found.open()
    return found


def temporaries(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if is_temporary(path.name))


def test_packages_that_overlap_do_not_touch_one_another_s_files(root: Path) -> None:
    """Both are unpacked before either is applied, and each is applied whole."""
    first, second = receiver(root, {"etc/lists/a": b"first"}), receiver(root, {"etc/lists/a": b"second, longer"})
    ones, others = first.unpack(0).written, second.unpack(0).written
    assert len(temporaries(root)) == 2
    assert first.apply([ones]).created == 1
    assert (root / "etc/lists/a").read_bytes() == b"first"
    assert second.apply([others]).created == 1
    assert read_tree(root) == {"etc/lists/a": b"second, longer"}


@pytest.mark.slow
def test_package_that_is_half_written_is_not_renamed_by_another(root: Path) -> None:
    """The other package is applied whole after each write of this one."""
    whole = {"etc/lists/a": os.urandom(3 << 20)}
    other = {"etc/lists/a": b"other"}
    slow = receiver(root, whole)
    real = slow.ops.write

    def write(fd: int, data: bytes) -> None:
        real(fd, data)
        quick = receiver(root, other)
        quick.apply([quick.unpack(0).written])
        assert read_tree(root)["etc/lists/a"] == b"other"

    slow.ops.write = write  # type: ignore[method-assign, assignment]
    unpacked = slow.unpack(0)
    assert slow.apply([unpacked.written]).created == 1
    assert read_tree(root) == whole


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2)


def replace(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(b"evil!!!!")
    beside.rename(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("touch", [truncate, replace, link, directory, Path.unlink])
def test_only_the_file_that_was_verified_is_renamed(touch: Callable[[Path], None], root: Path) -> None:
    one = receiver(root, {"etc/lists/a": b"verified", "etc/lists/b": b"b"})
    written = one.unpack(0).written
    (root / "etc/lists/a").write_bytes(b"old")
    touch(next(path for path in temporaries(root) if path.stat().st_size == len(b"verified")))
    applied = one.apply([written])
    assert (root / "etc/lists/a").read_bytes() == b"old"
    assert (root / "etc/lists/b").read_bytes() == b"b"
    assert (applied.created, applied.create_errors) == (1, 1)
    assert list(reasons(applied.notes)) == ["etc/lists/a"]
    # The next package corrects it.
    again = receiver(root, {"etc/lists/a": b"verified"})
    again.apply([again.unpack(0).written])
    assert (root / "etc/lists/a").read_bytes() == b"verified"


def test_part_that_two_merged_files_hold_is_applied(root: Path) -> None:
    """They may be in ranges that are unpacked at the same time."""
    files = {
        f"queue/cluster/worker{number}/TYPE.merged": build_merged([("001", 0, b"of %d" % number)]) for number in (1, 2)
    }
    package = build_as_stock(
        [*files.items(), metadata({path: merged_meta(path, data) for path, data in files.items()})]
    )
    (root.parent / "spool").mkdir()
    both = Receiver(root, root.parent / "spool", package)
    both.range_bytes = package.index(FILE_SEP)
    opened = both.open()
    assert opened.ranges == 2
    applied = both.apply([both.unpack(index).written for index in range(2)])
    assert (applied.created, applied.create_errors, applied.notes[-1].level) == (2, 0, "DEBUG2")
    assert read_tree(root) == {"queue/TYPE/001": b"of 2"}
