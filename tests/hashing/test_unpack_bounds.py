"""Bombs, endless metadata and bytes that are no package: unpacking stays within its bounds."""

import tracemalloc
from hashlib import blake2b
from pathlib import Path

import pytest

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.package import FILE_SEP, METADATA_NAME, PATH_SEP
from tests.hashing.packages import Receiver, build_as_stock, read_tree
from tests.hashing.received import package_of, reasons


@pytest.mark.slow
def test_bomb_is_stopped_at_the_bound_of_a_file(root: Path, spool: Path) -> None:
    files = {"etc/lists/bomb": bytes(64 << 20), "etc/lists/good": b"good"}
    receiver = Receiver(root, spool, package_of(files, 9))
    receiver.max_file = 4 << 20
    tracemalloc.start()
    try:
        _, ranges, _ = receiver.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert read_tree(root) == {"etc/lists/good": b"good"}
    assert reasons(ranges[0].notes) == {"etc/lists/bomb": f"has more than {4 << 20} bytes"}


@pytest.mark.slow
def test_all_ranges_together_respect_one_bound(root: Path, spool: Path) -> None:
    """Many files of 4 MiB that compress to almost nothing, in many ranges: some are written, far from all."""
    files = {f"etc/lists/{number:02}": bytes(4 << 20) for number in range(30)}
    receiver = Receiver(root, spool, package_of(files, 9))
    receiver.range_bytes = 1
    receiver.max_total = 40 << 20
    opened, ranges, applied = receiver.run()
    assert opened.ranges == 30
    written = sum(len(data) for data in read_tree(root).values())
    assert 30 << 20 <= written <= 44 << 20
    assert applied.create_errors == 30 - written // (4 << 20)
    assert "in all" in ranges[-1].notes[0].why


@pytest.mark.slow
def test_compressible_set_within_the_bounds_passes_in_little_memory(root: Path, spool: Path) -> None:
    files = {f"etc/lists/{number}": bytes(48 << 20) + b"%d" % number for number in range(2)}
    receiver = Receiver(root, spool, package_of(files, 9))
    tracemalloc.start()
    try:
        _, _, applied = receiver.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert applied.created == 2
    assert peak < 8 << 20
    for path, data in files.items():
        assert blake2b((root / path).read_bytes()).digest() == blake2b(data).digest()


def test_metadata_bomb_is_refused(root: Path, spool: Path) -> None:
    receiver = Receiver(root, spool, build_as_stock([(METADATA_NAME, b" " * (2 << 20))]))
    receiver.max_total = 1 << 20
    with pytest.raises(PackageTooLarge):
        receiver.open()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"missing": {}}',
        b'{"missing": {}, "shared": {}, "extra": []}',
        b'{"missing": {"etc/lists/a": {"cluster_item_key": "etc/lists/", "hash": "00"}}, "shared": {}, "extra": {}}',
        b'{"missing": {"etc/lists/a": {"cluster_item_key": "etc/lists/"}}, "shared": {}, "extra": {}}',
        b'{"missing": ' + b"[" * 100_000,
    ],
)
def test_metadata_that_cannot_be_used_refuse_the_package(content: bytes, root: Path, spool: Path) -> None:
    with pytest.raises(MalformedPackage):
        Receiver(root, spool, build_as_stock([(METADATA_NAME, content)])).open()


@pytest.mark.parametrize("package", [b"", b"garbage", FILE_SEP, FILE_SEP * 1000, PATH_SEP, bytes(100_000)])
def test_bytes_that_are_no_package_are_refused(package: bytes, root: Path, spool: Path) -> None:
    with pytest.raises(MalformedPackage):
        Receiver(root, spool, package).open()


def test_package_of_separators_is_refused_soon(root: Path, spool: Path) -> None:
    files = {"etc/lists/a": b"a"}
    whole = package_of(files)
    Receiver(root, spool, FILE_SEP * 500 + whole).open()
    with pytest.raises(MalformedPackage, match="more than 1002 entries"):
        Receiver(root, spool, FILE_SEP * 100_000 + whole).open()
