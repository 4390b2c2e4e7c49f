import base64
import json
import os
import socket
from hashlib import blake2b
from pathlib import Path

import pytest

from hashing.digest import (
    Buffer,
    digest_fd,
    open_directory,
    open_in_tree,
    open_linked,
    open_regular,
    read_digest,
)
from hashing.errors import FileVanished, UnsafePath


def digest_of(path: Path, buffer: Buffer) -> bytes:
    fd = open_regular(None, str(path))
    try:
        return digest_fd(fd, buffer)
    finally:
        os.close(fd)


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["blake2b"], ids=lambda vector: vector["hex"][:8])
def test_digest_is_that_of_the_vectors(vector: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(base64.b64decode(vector["content_b64"]))
    assert digest_of(path, Buffer()).hex() == vector["hex"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 160])
def test_digest_does_not_depend_on_the_buffer(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    steps: list[int] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_digest(fd, Buffer(16), lambda: steps.append(1)) == (blake2b(data).digest(), size)
        assert len(steps) == size // 16, "a step is told for every full buffer"
        os.lseek(fd, 0, os.SEEK_SET)
        assert digest_fd(fd, Buffer()) == blake2b(data).digest()
    finally:
        os.close(fd)


def test_buffer_keeps_nothing_of_the_file_before(tmp_path: Path) -> None:
    buffer = Buffer(64)
    for data in (b"x" * 60, b"y"):
        path = tmp_path / "file"
        path.write_bytes(data)
        assert digest_of(path, buffer) == blake2b(data).digest()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    os.close(open_regular(None, str(tmp_path / "file")))
    for name in ("link", "fifo", "socket", "directory"):
        with pytest.raises(UnsafePath):
            open_regular(None, str(tmp_path / name))
    for name in ("nothing", "file/below"):
        with pytest.raises(FileVanished):
            open_regular(None, str(tmp_path / name))


def test_directories_are_opened_through_no_link_and_not_upwards(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "file").write_bytes(b"")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        for path in ("", "a", "a/b"):
            fd = open_directory(root, path)
            assert os.fstat(fd).st_ino == (tmp_path / path).stat().st_ino
            os.close(fd)
        for path in ("link", "link/b", "a/..", "..", "file", "file/x"):
            with pytest.raises(UnsafePath):
                open_directory(root, path)
        with pytest.raises(FileVanished):
            open_directory(root, "a/c")
    finally:
        os.close(root)


def test_link_to_a_file_counts_only_inside_its_item(tmp_path: Path) -> None:
    rules = tmp_path / "etc/rules"
    (rules / "sub").mkdir(parents=True)
    (rules / "sub/target").write_bytes(b"inside")
    (tmp_path / "etc/secret").write_bytes(b"outside")
    (tmp_path / "etc/rules2").mkdir()
    (tmp_path / "etc/rules2/x").write_bytes(b"outside")
    (rules / "in").symlink_to("sub/target")
    (rules / "absolute").symlink_to(rules / "sub/target")
    (rules / "out").symlink_to("../secret")
    (rules / "beside").symlink_to("../rules2/x")
    (rules / "directory").symlink_to("sub")
    (rules / "loop").symlink_to("loop")
    (rules / "dangling").symlink_to("sub/nothing")
    for name in ("in", "absolute"):
        fd = open_linked(str(tmp_path), "etc/rules/", f"etc/rules/{name}")
        assert os.read(fd, 100) == b"inside"
        os.close(fd)
        os.close(open_in_tree(str(tmp_path), "etc/rules/", f"etc/rules/{name}"))
    for name in ("out", "beside", "directory", "loop"):
        with pytest.raises(UnsafePath):
            open_in_tree(str(tmp_path), "etc/rules/", f"etc/rules/{name}")
    for name in ("dangling", "nothing", "gone/x"):
        with pytest.raises(FileVanished):
            open_in_tree(str(tmp_path), "etc/rules/", f"etc/rules/{name}")
    with pytest.raises(UnsafePath):
        open_in_tree(str(tmp_path), "etc/rules/", "etc/rules/directory/target")
